"""Checkpoints: what is saved comes back, what is damaged or foreign is refused by name."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vos import models
from vos.errors import InputError, NotFiniteError
from vos.models import VOSModel, build
from vos.models.checkpoint import load_checkpoint, load_trunk_weights, save_checkpoint
from vos.models.mobilenetv2 import MobileNetV2Trunk
from vos.models.resnet import resnet18_trunk


@pytest.fixture(scope="module")
def stcn() -> VOSModel:
    return build("stcn")


@pytest.fixture
def tiny() -> VOSModel:
    torch.manual_seed(0)
    return build("mobilevos-tiny")


def test_a_saved_model_comes_back_with_its_weights_and_its_description(tiny: VOSModel, tmp_path: Path):
    save_checkpoint(str(tmp_path / "a"), tiny, {"step": 7, "config": {"lr": 1e-3}})
    for path in (tmp_path / "a", tmp_path / "a" / "model.safetensors"):
        model, info = load_checkpoint(str(path))
        assert (info["model"], info["step"], info["config"]) == ("mobilevos-tiny", 7, {"lr": 1e-3})
        assert info["parameters"] == sum(p.numel() for p in tiny.parameters())
        assert not model.training
        _assert_same_weights(model, tiny.state_dict())


def test_saving_leaves_only_the_two_files_and_replaces_what_was_there(tiny: VOSModel, tmp_path: Path):
    save_checkpoint(str(tmp_path), build("teacher-small"), {})
    save_checkpoint(str(tmp_path), tiny, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert load_checkpoint(str(tmp_path))[1]["model"] == "mobilevos-tiny"


def test_a_checkpoint_remembers_the_convention_and_the_frozen_batch_norm(tmp_path: Path):
    student = build("mobilevos-mobilenetv2-noaspp", preprocessing="tensorflow")
    student.freeze_batch_norm()
    save_checkpoint(str(tmp_path), student, {})
    model, info = load_checkpoint(str(tmp_path))
    assert (model.preprocessing, model.batch_norm_frozen) == ("tensorflow", True)
    assert (info["preprocessing"], info["batch_norm_frozen"]) == ("tensorflow", True)
    frames = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_query(frames).key, student.eval().encode_query(frames).key)
    norm = next(m for m in model.train().trunks()[0].modules() if isinstance(m, nn.BatchNorm2d))
    assert not norm.training


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_stcn_files_load_with_and_without_the_prefix(stcn: VOSModel, tmp_path: Path, prefix: str):
    weights = {prefix + name: tensor for name, tensor in stcn.state_dict().items()}
    torch.save(weights, tmp_path / "stcn.pth")
    model, info = load_checkpoint(str(tmp_path / "stcn.pth"))
    assert (info["model"], info["parameters"]) == ("stcn", 54_434_180)
    _assert_same_weights(model, stcn.state_dict())


def test_the_single_object_stem_is_widened_by_a_channel_of_zeros(stcn: VOSModel, tmp_path: Path):
    weights = dict(stcn.state_dict())
    five = weights["value_encoder.conv1.weight"]
    weights["value_encoder.conv1.weight"] = five[:, :4].clone()
    torch.save(weights, tmp_path / "stcn_s0.pth")
    model, _ = load_checkpoint(str(tmp_path / "stcn_s0.pth"), "stcn")
    stem = model.state_dict()["value_encoder.conv1.weight"]
    assert torch.equal(stem[:, :4], five[:, :4])
    assert not stem[:, 4:].any()


def test_another_architecture_is_refused_with_the_first_differing_names(tiny: VOSModel, tmp_path: Path):
    save_file(tiny.state_dict(), tmp_path / "weights.safetensors")
    error = _refusal(lambda: load_checkpoint(str(tmp_path / "weights.safetensors"), "mobilevos-resnet18"))
    assert "weights.safetensors" in error
    assert "query_trunk.conv1.weight" in error
    save_checkpoint(str(tmp_path / "a"), tiny, {})
    assert "mobilevos-tiny" in _refusal(lambda: load_checkpoint(str(tmp_path / "a"), "stcn"))


def test_a_differing_shape_is_named_with_both_shapes(tiny: VOSModel, tmp_path: Path):
    weights = dict(tiny.state_dict())
    weights["decoder.pred.bias"] = torch.zeros(2)
    save_file(weights, tmp_path / "w.safetensors")
    error = _refusal(lambda: load_checkpoint(str(tmp_path / "w.safetensors"), "mobilevos-tiny"))
    assert "decoder.pred.bias as (2,) instead of (1,)" in error


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_a_truncated_file_is_refused_by_name(tiny: VOSModel, tmp_path: Path, suffix: str, keep: float):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(tiny.state_dict(), path)
    else:
        save_file(tiny.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    error = _refusal(lambda: load_checkpoint(str(path), "mobilevos-tiny"))
    assert str(path) in error
    assert "truncated" in error


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole_module.pth")
    assert "whole_module.pth" in _refusal(lambda: load_checkpoint(str(tmp_path / "whole_module.pth")))


def test_a_training_state_around_the_weights_is_refused_with_the_mend(tiny: VOSModel, tmp_path: Path):
    torch.save({"model": tiny.state_dict(), "step": 3}, tmp_path / "state.pth")
    assert "save only the model's state_dict()" in _refusal(lambda: load_checkpoint(str(tmp_path / "state.pth")))


def test_what_is_missing_is_named(tiny: VOSModel, tmp_path: Path):
    assert "nowhere" in _refusal(lambda: load_checkpoint(str(tmp_path / "nowhere")))
    assert "model.safetensors" in _refusal(lambda: load_checkpoint(str(tmp_path)))
    save_checkpoint(str(tmp_path), tiny, {})
    (tmp_path / "model.json").unlink()
    assert "model.json" in _refusal(lambda: load_checkpoint(str(tmp_path)))
    assert "name" in _refusal(lambda: load_checkpoint(str(tmp_path / "model.safetensors")))
    _assert_same_weights(load_checkpoint(str(tmp_path / "model.safetensors"), "mobilevos-tiny")[0], tiny.state_dict())


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}', '{"model": "vgg"}'])
def test_a_damaged_description_is_refused(tiny: VOSModel, tmp_path: Path, text: str):
    save_checkpoint(str(tmp_path), tiny, {})
    (tmp_path / "model.json").write_text(text)
    assert _refusal(lambda: load_checkpoint(str(tmp_path)))


def test_a_checkpoint_without_feature_statistics_loads_with_features_as_they_are(tiny: VOSModel, tmp_path: Path):
    save_checkpoint(str(tmp_path), tiny, {})
    path = tmp_path / "model.safetensors"
    old = {name: tensor for name, tensor in load_file(path).items() if "_standard." not in name}
    save_file(old, path)
    (tmp_path / "model.json").write_text('{"model": "mobilevos-tiny"}')
    model, _ = load_checkpoint(str(tmp_path))
    _assert_same_weights(model, tiny.state_dict())


def poisoned(weights: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    return {**weights, "decoder.pred.bias": torch.full_like(weights["decoder.pred.bias"], value)}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_are_not_finite_are_refused_by_name_wherever_they_come_from(
    tiny: VOSModel, tmp_path: Path, suffix: str, value: float
):
    path = tmp_path / f"w{suffix}"
    write(poisoned(tiny.state_dict(), value), path)
    error = _refusal(lambda: load_checkpoint(str(path), "mobilevos-tiny"))
    assert str(path) in error and "decoder.pred.bias" in error and "NaN" in error
    trunk = {**MobileNetV2Trunk(3).state_dict(), "features.0.1.bias": torch.full((32,), value)}
    write(trunk, path)
    error = _refusal(lambda: load_trunk_weights(build("mobilevos-mobilenetv2-noaspp"), str(path)))
    assert str(path) in error and "features.0.1.bias" in error


def test_numbers_that_overflow_in_the_networks_own_type_are_refused(tiny: VOSModel, tmp_path: Path):
    weights = {**tiny.state_dict(), "decoder.pred.bias": torch.full((1,), 1e300, dtype=torch.float64)}
    save_file(weights, tmp_path / "w.safetensors")
    assert "decoder.pred.bias" in _refusal(lambda: load_checkpoint(str(tmp_path / "w.safetensors"), "mobilevos-tiny"))


def test_weights_that_are_not_finite_are_not_saved_over_those_that_are(tiny: VOSModel, tmp_path: Path):
    save_checkpoint(str(tmp_path), tiny, {"step": 1})
    broken = build("mobilevos-tiny")
    broken.load_state_dict(poisoned(broken.state_dict(), float("nan")))
    with pytest.raises(NotFiniteError, match=r"decoder\.pred\.bias"):
        save_checkpoint(str(tmp_path), broken, {"step": 2})
    assert load_checkpoint(str(tmp_path))[1]["step"] == 1


def test_weights_that_were_changed_or_exchanged_are_refused_with_both_digests(tiny: VOSModel, tmp_path: Path):
    save_checkpoint(str(tmp_path / "a"), tiny, {})
    save_checkpoint(str(tmp_path / "b"), build("mobilevos-tiny"), {})
    path = tmp_path / "a" / "model.safetensors"
    original = path.read_bytes()
    changed = [original[:-1] + bytes([original[-1] ^ 1]), (tmp_path / "b" / "model.safetensors").read_bytes()]
    for content in changed:
        path.write_bytes(content)
        error = _refusal(lambda: load_checkpoint(str(tmp_path / "a")))
        found, expected = (hashlib.sha256(one).hexdigest()[:12] for one in (content, original))
        assert str(path) in error and found in error and expected in error and "copy" in error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "mobilevos-resnet18"),
        ("parameters", 7),
        ("preprocessing", "tensorflow"),
        ("batch_norm_frozen", True),
        ("role", "teacher"),
        ("size_px", 24),
        ("weights_sha256", "0" * 64),
        ("seal", None),
    ],
)
def test_an_edited_description_is_refused_and_named(tiny: VOSModel, tmp_path: Path, name: str, value: object):
    save_checkpoint(str(tmp_path), tiny, {"role": "student"})
    path = tmp_path / "model.json"
    about = {**json.loads(path.read_text()), name: value}
    path.write_text(json.dumps({key: one for key, one in about.items() if one is not None}))
    assert str(path) in _refusal(lambda: load_checkpoint(str(tmp_path)))


@pytest.mark.parametrize(
    "about",
    [
        {"parameters": 7},
        {"parameters": "many"},
        {"preprocessing": "grey"},
        {"role": "boss"},
        {"size_px": -1},
        {"weights_sha256": "../x"},
        {"batch_norm_frozen": 1},
    ],
)
def test_a_description_of_an_earlier_version_that_contradicts_the_weights_is_refused(
    tiny: VOSModel, tmp_path: Path, about: dict[str, object]
):
    save_checkpoint(str(tmp_path), tiny, {})
    (tmp_path / "model.json").write_text(json.dumps({"model": "mobilevos-tiny", **about}))
    assert str(tmp_path) in _refusal(lambda: load_checkpoint(str(tmp_path)))


def test_a_checkpoint_of_an_earlier_version_loads_with_one_note(
    tiny: VOSModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    save_checkpoint(str(tmp_path), tiny, {})
    (tmp_path / "model.json").write_text('{"model": "mobilevos-tiny", "role": "student"}')
    for _ in range(2):
        _assert_same_weights(load_checkpoint(str(tmp_path))[0], tiny.state_dict())
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and str(tmp_path) in said[0] and "cannot be verified" in said[0]


@pytest.mark.parametrize(
    "folder", sorted(Path(models.__file__).parent.glob("builtin_*")), ids=lambda folder: folder.name
)
def test_what_ships_is_sealed_and_carries_the_digest_of_its_weights(folder: Path):
    about = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert about["weights_sha256"] == about["seal"]["of"] == digest
    assert load_checkpoint(str(folder))[1]["weights_sha256"] == digest


def test_a_pipe_in_place_of_the_weights_is_refused_at_once(tiny: VOSModel, tmp_path: Path):
    save_checkpoint(str(tmp_path), tiny, {})
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    assert "not a file" in _refusal(lambda: load_checkpoint(str(tmp_path)))


def test_reserved_names_and_values_beyond_json_are_refused_before_anything_is_written(tiny: VOSModel, tmp_path: Path):
    assert "parameters" in _refusal(lambda: save_checkpoint(str(tmp_path / "a"), tiny, {"parameters": 1}))
    assert "JSON" in _refusal(lambda: save_checkpoint(str(tmp_path / "a"), tiny, {"tensor": torch.zeros(1)}))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_imagenet_weights_load_into_both_trunks_and_the_masks_are_seen(tmp_path: Path, suffix: str):
    source = {**MobileNetV2Trunk(3, num_features=18).state_dict(), "classifier.1.weight": torch.zeros(1000, 1280)}
    path = tmp_path / f"imagenet{suffix}"
    if suffix == ".pth":
        torch.save(source, path)
    else:
        save_file(source, path)
    model = build("mobilevos-mobilenetv2")
    assert load_trunk_weights(model, str(path)) == {"preprocessing": "imagenet", "batch_norm_frozen": False}
    stem = model.trunks()[1].state_dict()["features.0.0.weight"]
    assert torch.equal(stem[:, :3], source["features.0.0.weight"])
    masks = stem[:, 3:].flatten(1)
    torch.testing.assert_close(masks.T @ masks, torch.eye(18))
    again = build("mobilevos-mobilenetv2")
    load_trunk_weights(again, str(path))
    assert torch.equal(again.trunks()[1].state_dict()["features.0.0.weight"], stem)
    for trunk in model.trunks():
        for name, tensor in trunk.state_dict().items():
            if name != "features.0.0.weight":
                assert torch.equal(tensor, source[name]), name


def test_before_training_the_value_trunk_sees_what_the_query_trunk_sees_where_no_object_is(tmp_path: Path):
    save_file(MobileNetV2Trunk(3).state_dict(), tmp_path / "trunk.safetensors")
    model = build("mobilevos-mobilenetv2-noaspp").eval()
    load_trunk_weights(model, str(tmp_path / "trunk.safetensors"), preprocessing="tensorflow")
    frames, masks = torch.randn(1, 3, 32, 32), torch.zeros(1, 2, 32, 32)
    query_trunk, value_trunk = model.trunks()
    with torch.no_grad():
        torch.testing.assert_close(value_trunk(torch.cat((frames, masks), 1)).f16, query_trunk(frames).f16)


@pytest.mark.parametrize("name", ["mobilenet_v2_imagenet", "mobilenet_v2_pascal_trunk"])
def test_folded_weights_bring_their_convention_and_freeze_their_batch_norm(shared: Path, name: str):
    path = shared / f"data/weights/{name}.fp16.safetensors"
    model = build("mobilevos-mobilenetv2")
    assert load_trunk_weights(model, str(path)) == {"preprocessing": "tensorflow", "batch_norm_frozen": True}
    folded = load_file(str(path))["features.13.conv.3.bias"].float()
    assert torch.equal(model.state_dict()["value_trunk.features.13.conv.3.bias"], folded)


@pytest.mark.parametrize(("entry", "shift"), [("running_mean", 0.5), ("running_var", 0.5), ("1.weight", 0.5)])
def test_batch_norm_with_statistics_of_its_own_is_not_taken_for_folded(tmp_path: Path, entry: str, shift: float):
    source = MobileNetV2Trunk(3).state_dict()
    source = {k: v + 0.5 if k.endswith("1.bias") else v for k, v in source.items()}
    save_file(source, tmp_path / "folded.safetensors")
    assert load_trunk_weights(build("mobilevos-mobilenetv2"), str(tmp_path / "folded.safetensors"))["batch_norm_frozen"]
    save_file({k: v + shift if k.endswith(entry) else v for k, v in source.items()}, tmp_path / "own.safetensors")
    found = load_trunk_weights(build("mobilevos-mobilenetv2"), str(tmp_path / "own.safetensors"))
    assert found == {"preprocessing": "imagenet", "batch_norm_frozen": False}


def test_torchvision_resnet18_names_load_into_the_resnet_student(tmp_path: Path):
    source = {**resnet18_trunk().state_dict(), "fc.weight": torch.zeros(1000, 512)}
    torch.save(source, tmp_path / "resnet18.pth")
    model = build("mobilevos-resnet18")
    load_trunk_weights(model, str(tmp_path / "resnet18.pth"))
    for trunk in ("query_trunk", "value_trunk"):
        assert torch.equal(model.state_dict()[f"{trunk}.layer3.1.conv2.weight"], source["layer3.1.conv2.weight"])


def test_weights_of_another_trunk_are_refused(tmp_path: Path):
    save_file(MobileNetV2Trunk(3).state_dict(), tmp_path / "mobilenet.safetensors")
    error = _refusal(lambda: load_trunk_weights(build("mobilevos-resnet18"), str(tmp_path / "mobilenet.safetensors")))
    assert "mobilenet.safetensors" in error
    assert "conv1.weight" in error


def write(weights: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)


def _assert_same_weights(model: VOSModel, expected: dict[str, Tensor]) -> None:
    weights = model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def _refusal(action) -> str:
    with pytest.raises(InputError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)
