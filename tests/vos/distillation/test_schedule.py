"""Parameter groups, the learning rate over a training, and the averaged weights."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from vos.config import OptimiserConfig
from vos.distillation.schedule import learning_rate, parameter_groups, update_average
from vos.models import VOSModel, build

CONFIG = OptimiserConfig(lr=1e-3, warmup_steps=10, query_trunk_scale=0.15, value_trunk_scale=0.3, weight_decay=0.01)
MODELS = ("mobilevos-tiny", "teacher-small", "mobilevos-mobilenetv2", "mobilevos-resnet18", "stcn")


def shapes_only(name: str) -> VOSModel:
    """A model without memory for its weights: quick to build however large it is."""
    with torch.device("meta"):
        return build(name)


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    return parameter_groups(model, CONFIG)


def rates(steps: int, config: OptimiserConfig = CONFIG) -> list[float]:
    return [learning_rate(step, steps, config) for step in range(steps)]


def test_the_warm_up_is_a_straight_line_up_to_the_learning_rate():
    line = rates(100)[: CONFIG.warmup_steps]
    assert line == pytest.approx([CONFIG.lr * (i + 1) / CONFIG.warmup_steps for i in range(CONFIG.warmup_steps)])
    assert max(rates(100)) == pytest.approx(CONFIG.lr)


def test_after_the_warm_up_the_rate_only_falls_to_almost_nothing_at_the_last_step():
    falling = rates(1000)[CONFIG.warmup_steps :]
    assert all(a > b > 0 for a, b in zip(falling, falling[1:], strict=False))
    assert falling[-1] < 0.01 * CONFIG.lr


def test_a_power_of_one_falls_on_a_straight_line():
    falling = rates(50, OptimiserConfig(lr=1.0, warmup_steps=0, power=1.0))
    assert falling == pytest.approx([1 - i / 50 for i in range(50)])


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 19, 20, 21])
def test_a_training_shorter_than_the_warm_up_still_reaches_the_learning_rate(steps: int):
    assert all(0 < rate <= CONFIG.lr for rate in rates(steps))
    assert max(rates(steps)) == pytest.approx(CONFIG.lr)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_exactly_one_group(name: str):
    model = shapes_only(name)
    grouped = [id(p) for group in groups_of(model) for p in group["params"]]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_trunks_learn_at_their_own_rates_and_everything_else_at_the_full_one(name: str):
    model = shapes_only(name)
    rate_of = {id(p): group["lr"] for group in groups_of(model) for p in group["params"]}
    query, value = ([id(p) for p in trunk.parameters()] for trunk in model.trunks())
    assert {rate_of[i] for i in query} == {CONFIG.lr * CONFIG.query_trunk_scale}
    assert {rate_of[i] for i in value} == {CONFIG.lr * CONFIG.value_trunk_scale}
    rest = [rate_of[id(p)] for module in (model.key_proj, model.key_comp, model.decoder) for p in module.parameters()]
    assert set(rest) == {CONFIG.lr}


def test_weight_decay_acts_on_matrices_and_on_no_bias_or_norm():
    model = shapes_only("mobilevos-tiny")
    for group in groups_of(model):
        dims = {p.ndim > 1 for p in group["params"]}
        assert dims == {group["weight_decay"] == CONFIG.weight_decay}


def test_the_groups_come_in_the_same_order_so_that_an_optimisers_state_can_be_loaded():
    first, second = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)) for _ in range(2))
    optimisers = [torch.optim.AdamW(parameter_groups(model, CONFIG)) for model in (first, second)]
    first(torch.randn(1, 1, 8, 8)).square().sum().backward()
    optimisers[0].step()
    optimisers[1].load_state_dict(optimisers[0].state_dict())
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(optimisers[1].state[other]["exp_avg"], optimisers[0].state[one]["exp_avg"])


def pair() -> tuple[nn.Module, nn.Module]:
    """An average at 0 and a model at 1, each with a whole-number buffer."""
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    for module, value in ((average, 0.0), (model, 1.0)):
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    return average, model


def test_without_decay_the_average_is_the_model():
    average, model = pair()
    update_average(average, model, decay=0.0, step=10_000)
    assert all((value == 1).all() for value in average.state_dict().values())


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_late_in_training_the_average_moves_by_one_minus_decay(decay: float):
    average, model = pair()
    update_average(average, model, decay, step=10**6)
    assert average.state_dict()["weight"].tolist() == pytest.approx([1 - decay] * 3, rel=1e-4)


def test_the_start_is_forgotten_quickly_even_with_a_slow_decay():
    average, model = pair()
    for step in range(3):
        update_average(average, model, decay=0.9999, step=step)
    assert (average.state_dict()["weight"] > 0.99).all()


def test_the_average_lies_between_where_it_was_and_where_the_model_is():
    average, model = pair()
    before = 0.0
    for step in range(200):
        update_average(average, model, decay=0.99, step=step)
        now = float(average.state_dict()["weight"][0])
        assert before <= now <= 1
        before = now
    assert before == pytest.approx(1, abs=1e-3)


def test_averaging_copies_counters_and_leaves_the_model_alone():
    average, model = pair()
    before = copy.deepcopy(model.state_dict())
    update_average(average, model, decay=0.99, step=100)
    assert average.state_dict()["num_batches_tracked"] == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_cosine_is_half_way_down_in_the_middle_and_falls_all_the_way():
    falling = rates(101, OptimiserConfig(lr=1.0, warmup_steps=0, schedule="cosine"))
    assert falling[0] == 1 and all(a > b > 0 for a, b in zip(falling, falling[1:], strict=False))
    assert learning_rate(50, 100, OptimiserConfig(lr=1.0, warmup_steps=0, schedule="cosine")) == pytest.approx(0.5)


def test_a_step_schedule_drops_once_where_it_is_told_to():
    config = OptimiserConfig(lr=1.0, warmup_steps=0, schedule="step", drop_at=0.75, drop_to=0.1)
    assert rates(8, config) == pytest.approx([1.0] * 6 + [0.1] * 2)
