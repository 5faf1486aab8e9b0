"""Records of clips made of stills: JSON and back, and records that no draw makes."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from vos.config import ClipConfig
from vos.data.draw_records import Augmentation, ClipDraw, Layer, Pose
from vos.data.draws import draw_clip
from vos.data.synthetic import synthetic_index
from vos.errors import InputError
from vos.files.json_files import parse_json

AUGMENTATION = Augmentation((1.5, 0.1, -3.25, 0.0, 0.7, 1e-3), (1.0, 0.9, 1.1), (0.0, -3.5, 1 / 3))
POSES = (Pose(AUGMENTATION), Pose(AUGMENTATION, tuple(range(-16, 16)), (3, -12)))
DRAW = ClipDraw(
    5,
    "scene",
    (0, 0),
    (7,),
    AUGMENTATION,
    source="stills-2",
    layers=(
        Layer("scene", 0, 0, (0, 0, 64), POSES),
        Layer("other", 3, 2, (-5, 60, 20), POSES),
        Layer("scene", 7, 0, (1, 2, 8), POSES),
        Layer("third", 254, 3, (1, 2, 8), POSES),
    ),
)


def test_layers_survive_json_exactly():
    assert ClipDraw.from_dict(json.loads(json.dumps(DRAW.to_dict()))) == DRAW
    assert DRAW.num_objects == 3 and DRAW.video_key == "stills-2/scene"


def test_a_clip_of_a_video_is_stored_as_before():
    draw = draw_clip(synthetic_index(3, 6, (32, 48)), ClipConfig(crop_px=32, max_skip_frames=2), 0, 1)
    assert list(draw.to_dict()) == ["number", "video", "frames", "objects", "augmentation", "context"]


def layer(number: int, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["layers"][number].update(values)


def pose(number: int, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["layers"][number]["poses"][1].update(values)


def affine(*numbers: float) -> dict[str, Any]:
    return {"affine": list(numbers), "gain": [1.0] * 3, "offset": [0.0] * 3}


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no pose": layer(1, poses=[]),
    "a pose missing": lambda record: record["layers"][2]["poses"].pop(),
    "labels swapped": lambda record: (layer(1, label=3)(record), layer(3, label=2)(record)),
    "a label twice": layer(3, label=2),
    "a label of the scene's object": layer(1, label=1),
    "a negative label": layer(1, label=-1),
    "a label beyond": layer(3, label=4),
    "no label at all": lambda record: (layer(1, label=0)(record), layer(3, label=0)(record), record.update(objects=[])),
    "a short warp": pose(1, bend=[1, 2, 3]),
    "a long warp": pose(0, bend=[0] * 33),
    "a huge warp": pose(0, bend=[2**40] * 32),
    "a warp of fractions": pose(0, bend=[0.5] * 32),
    "huge blur": pose(1, blur=[10**6, 0]),
    "three blurs": pose(1, blur=[1, 2, 3]),
    "a huge affine map": pose(1, augmentation=affine(1e300, 0, 0, 0, 1, 0)),
    "a flat affine map": pose(1, augmentation=affine(1, 1, 0, 1, 1, 0)),
    "a huge own affine map": lambda record: record.update(augmentation=affine(1e300, 0, 0, 0, 1, 0)),
    "a box without a side": layer(1, box=[0, 0, 0]),
    "a box of negative side": layer(0, box=[0, 0, -4]),
    "a huge box": layer(1, box=[10**12, 0, 5]),
    "a first layer that is cut out": layer(0, object_id=1),
    "a first layer with a label": layer(0, label=1),
    "a first layer of another image": layer(0, image="other"),
    "a second whole image": layer(1, object_id=0),
    "an object beyond a byte": layer(1, object_id=256),
    "frames of a video": lambda record: record.update(frames=[0, 1]),
    "context": lambda record: record.update(context=[0]),
    "many layers": lambda record: record["layers"].extend([record["layers"][2]] * 40),
    "too many objects": lambda record: record.update(objects=list(range(1, 255))),
    "no list": lambda record: record.update(layers={"a": 1}),
    "a draw of no objects nor layers": lambda record: record.update(objects=[], layers=[]),
}


@pytest.mark.parametrize("why", HOSTILE)
def test_hostile_records_are_one_line(why: str):
    record = json.loads(json.dumps(DRAW.to_dict()))
    HOSTILE[why](record)
    with pytest.raises(InputError) as caught:
        ClipDraw.from_dict(record, "row 3")
    assert str(caught.value).startswith("row 3") and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_do_not_come_in(number: str):
    text = json.dumps(DRAW.to_dict()).replace("-3.25", number)
    with pytest.raises(InputError, match="row 3"):
        ClipDraw.from_dict(parse_json(text, "row 3", "make it again"), "row 3")
