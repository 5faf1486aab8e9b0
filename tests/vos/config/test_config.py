"""Configurations: what JSON keeps, what is refused and how, and what a fingerprint depends on."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest

from vos.config import (
    CacheConfig,
    ClipConfig,
    DataConfig,
    EvaluateConfig,
    FactorConfig,
    FpsConfig,
    JobConfig,
    LossConfig,
    MemoryConfig,
    OptimiserConfig,
    ScoreConfig,
    SegmentConfig,
    SpaceConfig,
    TeacherConfig,
    TrainConfig,
    TuneConfig,
    ValidationConfig,
    fields,
)
from vos.config.as_json import from_dict
from vos.config.presets import PRESETS, preset
from vos.errors import InputError
from vos.files.canonical import differences, dumps, fingerprint, to_dict

ROOT = Path(__file__).resolve().parents[3]
EVERY_PRESET = [
    pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls, table in PRESETS.items() for name in table
]


def leaves(values: dict[str, Any], *path: str) -> list[tuple[str, ...]]:
    """The path of every value in a nested dict that is no dict itself."""
    found: list[tuple[str, ...]] = []
    for name, value in values.items():
        found += leaves(value, *path, name) if isinstance(value, dict) else [(*path, name)]
    return found


def changed_at(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A deep copy in which the value at `path` is another one."""
    copied = json.loads(json.dumps(values))
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    old = inner[path[-1]]
    if isinstance(old, list):
        inner[path[-1]] = [*old, 1]
    else:
        inner[path[-1]] = (not old) if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else old + 1
    return copied


@pytest.mark.parametrize(("cls", "name"), EVERY_PRESET)
def test_the_json_form_of_a_configuration_gives_it_back(cls: type[JobConfig], name: str):
    config = preset(cls, name)
    values = json.loads(dumps(config))
    assert from_dict(cls, values, preset(cls, None), "config.json") == config


def test_only_the_named_fields_change_also_in_nested_objects():
    default = preset(TrainConfig, "demo")
    config = from_dict(TrainConfig, {"steps": 7, "loss": {"w": 0.5}}, default, "config.json")
    assert config == replace(default, steps=7, loss=replace(default.loss, w=0.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stepps": 7}, "'stepps'"),
        ({"shards": 7}, "'shards'"),  # a field of another job
        ({"loss": {"ww": 1}}, "'ww'"),
        ({"loss": 3}, "'loss'"),
        ({"steps": "7"}, "'steps'"),
        ({"steps": 7.5}, "'steps'"),
        ({"steps": True}, "'steps'"),
        ({"steps": None}, "'steps'"),
        ({"out": 7}, "'out'"),
        ({"debug": 1}, "'debug'"),
        ({"optimiser": {"lr": "fast"}}, "'lr'"),
        ({"optimiser": {"lr": True}}, "'lr'"),
        ({"role": "wizard"}, "'role'"),
        ({"data": {"kind": "davis2015"}}, "'kind'"),
    ],
)
def test_a_field_that_is_unknown_or_of_the_wrong_type_is_named_with_its_file(values: dict[str, Any], said: str):
    with pytest.raises(InputError) as refusal:
        from_dict(TrainConfig, values, TrainConfig(), "runs/a/config.json")
    message = str(refusal.value)
    assert message.startswith("runs/a/config.json") and said in message and "\n" not in message


def test_ranges_come_back_from_json_as_floats():
    config = from_dict(TuneConfig, {"space": {"w": [0, 1], "lr": []}}, TuneConfig(), "best.json")
    assert config == TuneConfig() and all(isinstance(bound, float) for bound in config.space.w)
    with pytest.raises(InputError, match="best.json: space: field 'w'"):
        from_dict(TuneConfig, {"space": {"w": ["0", 1]}}, TuneConfig(), "best.json")


def test_a_whole_number_is_taken_for_a_float_field_and_kept_as_a_float():
    config = from_dict(TrainConfig, {"loss": {"kd": 2}}, TrainConfig(), "config.json")
    assert isinstance(config.loss.kd, float)
    assert dumps(config) == dumps(replace(TrainConfig(), loss=LossConfig(kd=2.0)))


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: ClipConfig(num_frames=1), "--clip.num-frames 1"),
        (lambda: ClipConfig(max_skip_frames=0), "--clip.max-skip-frames 0"),
        (lambda: ClipConfig(max_objects=0), "--clip.max-objects 0"),
        (lambda: ClipConfig(max_objects=256), "--clip.max-objects 256"),
        (lambda: ClipConfig(crop_px=100), "--clip.crop-px 100"),
        (lambda: ClipConfig(crop_px=16), "--clip.crop-px 16"),
        (lambda: ClipConfig(scale_min=0.0), "--clip.scale-min 0.0"),
        (lambda: ClipConfig(scale_min=2.0, scale_max=1.0), "--clip.scale-max 1.0"),
        (lambda: CacheConfig(samples=1), "--samples 1"),
        (lambda: FactorConfig(rank=-1), "--factor.rank -1"),
        (lambda: CacheConfig(boundary_radius_px=-1), "--boundary-radius-px -1"),
        (lambda: CacheConfig(plan=True, verify=True), "--plan --verify"),
        (lambda: CacheConfig(show=-1), "--show -1"),
        (lambda: ClipConfig(skip_curriculum=(5, 0)), "--clip.skip-curriculum"),
        (lambda: TeacherConfig(context_frames=-1), "--teacher.context-frames -1"),
        (lambda: TeacherConfig(gpus=0.0), "--teacher.gpus 0.0"),
        (lambda: LossConfig(w=1.5), "--loss.w 1.5"),
        (lambda: LossConfig(w=-0.1), "--loss.w -0.1"),
        (lambda: LossConfig(w=float("nan")), "--loss.w nan"),
        (lambda: LossConfig(density=0.0), "--loss.density 0.0"),
        (lambda: LossConfig(hardest=0.0), "--loss.hardest 0.0"),
        (lambda: LossConfig(temperature=0.0), "--loss.temperature 0.0"),
        (lambda: LossConfig(kd=-1.0), "--loss.kd -1.0"),
        (lambda: LossConfig(representation=-1.0), "--loss.representation -1.0"),
        (lambda: TrainConfig(workers=0), "--workers 0"),
        (lambda: TrainConfig(threads=0), "--threads 0"),
        (lambda: TrainConfig(seed=-1), "--seed -1"),
        (lambda: TrainConfig(seed=2**31), f"--seed {2**31}"),
        (lambda: TrainConfig(steps=0), "--steps 0"),
        (lambda: TrainConfig(checkpoint_every=0), "--checkpoint-every 0"),
        (lambda: TrainConfig(batch=0), "--batch 0"),
        (lambda: TrainConfig(batch=3, workers=2), "--batch 3"),
        (lambda: TrainConfig(role="teacher", cache="runs/cache"), "--cache"),
        (lambda: CacheConfig(draws=0), "--draws 0"),
        (lambda: CacheConfig(shard_draws=0), "--shard-draws 0"),
        (lambda: ClipConfig(shear_deg=90.0), "--clip.shear-deg 90.0"),
        (lambda: ClipConfig(colour=5.0), "--clip.colour 5.0"),
        (lambda: LossConfig(temperature=float("nan")), "--loss.temperature nan"),
        (lambda: LossConfig(dice=-1.0), "--loss.dice -1.0"),
        (lambda: OptimiserConfig(lr=-1.0), "--optimiser.lr -1.0"),
        (lambda: OptimiserConfig(ema=1.5), "--optimiser.ema 1.5"),
        (lambda: TeacherConfig(top_k=0), "--teacher.top-k 0"),
        (lambda: MemoryConfig(gate=1.5), "--memory.gate 1.5"),
        (lambda: MemoryConfig(gate=float("nan")), "--memory.gate nan"),
        (lambda: MemoryConfig(kind="first", gate=0.5), "--memory.gate 0.5"),
        (lambda: SegmentConfig(sample=True, gate=-0.1), "--gate -0.1"),
        (lambda: FpsConfig(sequences=-1), "--fps.sequences -1"),
        (lambda: FpsConfig(long_repeats=0), "--fps.long-repeats 0"),
        (lambda: EvaluateConfig(max_frames=-3), "--max-frames -3"),
        (lambda: EvaluateConfig(max_frames=1), "--max-frames 1"),  # the first frame is given: nothing is left
        (lambda: EvaluateConfig(size_px=-5), "--size-px -5"),
        (lambda: TuneConfig(trials=0), "--trials 0"),
        (lambda: TuneConfig(concurrent=0), "--concurrent 0"),
        (lambda: TuneConfig(val_videos=0), "--val-videos 0"),
        (lambda: TuneConfig(max_frames=1), "--max-frames 1"),
        (lambda: TuneConfig(rungs=0), "--rungs 0"),
        (lambda: TuneConfig(repeat=1), "--repeat 1"),
        (lambda: SpaceConfig(w=(0.5, 1.5)), "--space.w 0.5 1.5"),
        (lambda: SpaceConfig(temperature=(0.0, 1.0)), "--space.temperature 0.0 1.0"),
        (lambda: SpaceConfig(lr=(1e-3,)), "--space.lr 0.001"),
        (lambda: SpaceConfig(density=(0.9, 0.1)), "--space.density 0.9 0.1"),
        (lambda: SpaceConfig(w=(), temperature=(), density=()), "--space"),
        (lambda: LossConfig(rank=-1), "--loss.rank -1"),
        (lambda: OptimiserConfig(drop_at=0.0), "--optimiser.drop-at 0.0"),
        (lambda: OptimiserConfig(clip_norm=0.0), "--optimiser.clip-norm 0.0"),
        (lambda: TrainConfig(micro_batch=-1), "--micro-batch -1"),
        (lambda: ValidationConfig(patience=2), "--validation.patience 2"),
        (lambda: ValidationConfig(every=-1), "--validation.every -1"),
        (lambda: ScoreConfig(gt="masks"), "--gt and --pred"),
        (lambda: ScoreConfig(pred="masks"), "--gt and --pred"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_one_line_with_its_flag(make: Any, flag: str):
    with pytest.raises(InputError) as refusal:
        make()
    assert flag in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("crop_px", [33, 47, 57, 100, 383, 1])
def test_the_crop_that_a_refusal_proposes_is_accepted(crop_px: int):
    with pytest.raises(InputError) as refusal:
        ClipConfig(crop_px=crop_px)
    assert ClipConfig(crop_px=int(str(refusal.value).rsplit(" ", 1)[1])).crop_px % 16 == 0


@pytest.mark.parametrize("cls", [ClipConfig, FactorConfig, DataConfig])
def test_changing_any_field_changes_the_fingerprint(cls: type):
    values = to_dict(cls())
    digests = {fingerprint(changed_at(values, path)) for path in leaves(values)} | {fingerprint(values)}
    assert len(digests) == len(leaves(values)) + 1


def test_a_fingerprint_is_the_same_in_another_process_whatever_its_hash_seed():
    imports = "from vos.config import *; from vos.files.canonical import *; "
    code = imports + "print(fingerprint(TrainConfig(), {'b': 1, 'a': [1.5, None]}, 'text'))"
    done = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert set(done) == {fingerprint(TrainConfig(), {"a": [1.5, None], "b": 1}, "text")}


def test_a_fingerprint_keeps_its_parts_apart():
    assert fingerprint("ab", "c") != fingerprint("a", "bc") != fingerprint("abc")


def test_the_order_of_keys_changes_neither_text_nor_fingerprint():
    assert dumps({"a": 1, "b": {"c": 2, "d": 3}}) == dumps({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("path", leaves(to_dict(TrainConfig())), ids=".".join)
def test_differences_name_exactly_the_field_that_changed(path: tuple[str, ...]):
    old = json.loads(dumps(TrainConfig()))
    lines = differences(old, changed_at(old, path))
    assert len(lines) == 1 and lines[0].startswith(f"{'.'.join(path)}: ") and " -> " in lines[0]


def test_equal_configurations_have_no_differences_and_a_missing_field_is_called_absent():
    values = to_dict(TrainConfig())
    assert differences(values, to_dict(TrainConfig())) == []
    assert differences({"a": {"b": 1}}, {"a": {}}) == ["a.b: 1 -> absent"]
    assert differences({}, {"c": 2}) == ["c: absent -> 2"]


def test_nothing_edits_a_configuration_after_it_is_built():
    config = TrainConfig()
    for name in ("steps", "loss"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, getattr(config, name))


# What a field is.

PLAIN_TEXTS = {
    "model": "an architecture, or a name that find_model looks up",
    "student": "an architecture",
    "online_teacher": "an architecture",
    "experiment": "of MLflow",
    "split": "of a data set",
    "sequence": "of a data set",
    "sequences": "names, or a file of them: evaluation finds out",
    "ship": "a run of the plan",
    "run": "a run of the plan",
    "size": "WIDTHxHEIGHT",
    "pipe_size": "WIDTHxHEIGHT",
}
WORDS = {"only": "of names of runs", "systems": "of labels", "add": "FRAME:MASK.png"}


def kinds_of(cls: type) -> list[type]:
    """The class of a configuration and those of the groups in it."""
    inner = [type(value) for _, value, _ in fields.marked_fields(cls()) if dataclasses.is_dataclass(value)]
    return [cls, *(one for kind in inner for one in kinds_of(kind))]


@pytest.mark.parametrize("cls", PRESETS)
def test_every_text_of_a_configuration_is_a_choice_a_path_or_known_as_plain(cls: type[JobConfig]):
    """A path that is not marked would mean another folder on every worker, and nothing would check it."""
    for kind in kinds_of(cls):
        hints = get_type_hints(kind)
        for name, value, mark in fields.marked_fields(kind()):
            if isinstance(value, str) and not mark.path and get_origin(hints[name]) is not Literal:
                assert name in PLAIN_TEXTS, name
            if hints[name] == tuple[str, ...] and not mark.path:
                assert name in WORDS, name


@pytest.mark.parametrize("cls", PRESETS)
def test_the_identity_has_every_field_but_those_marked_as_deciding_nothing(cls: type[JobConfig]):
    whole, kept = leaves(to_dict(cls())), set(leaves(fields.identity(cls())))
    groups = {name: mark for name, value, mark in fields.marked_fields(cls()) if dataclasses.is_dataclass(value)}
    marks = {name: mark for name, _, mark in fields.leaves(cls())}
    for path in whole:
        group = groups.get(path[0])
        apart = group is not None and (not group.decides or path[1] in group.apart)
        mark = marks[".".join(path)]
        assert (path in kept) == (mark.decides and not mark.later and not apart), path


def test_a_field_that_came_later_is_in_the_identity_where_it_differs_from_its_default():
    usual, other = fields.identity(CacheConfig()), fields.identity(CacheConfig(clip=ClipConfig(compose=0.25)))
    assert other["clip"] == {**usual["clip"], "compose": 0.25}


def test_where_a_result_is_written_decides_nothing():
    for cls in PRESETS:
        for name, _, mark in fields.leaves(cls()):
            assert not (mark.written and mark.decides), f"{cls.__name__}.{name}"
