"""The kind `labels`: what it takes from a list that it does not trust."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos.data.contents import fingerprint
from vos.data.datasets import detect_kind, load_index
from vos.data.labels import LabelledVideo
from vos.errors import InputError
from vos.files.canonical import fingerprint as digest_of
from vos.files.seals import sealed
from vos.media.images import write_frame, write_mask

IDENTITY = {"data": "made by hand"}


def labelled(root: Path, change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None) -> str:
    """Labels of one video of four frames, of which frame 2 is left out; `change` edits receipt and list before they are sealed."""
    data, out = root / "data", root / "labels"
    frames = []
    for index in range(4):
        write_frame(str(data / f"frames/v/{index:05d}.png"), np.full((32, 48, 3), 40 * index, np.uint8))
        labels = np.zeros((32, 48), np.uint8)
        labels[4:12, 4:12] = 1
        labels[20:28, 30:40] = 5 * (index > 0)
        write_mask(str(out / f"masks/v/{index:05d}.png"), labels)
        digest = hashlib.sha256((out / f"masks/v/{index:05d}.png").read_bytes()).hexdigest()
        frame = {"index": index, "name": f"{index:05d}", "kept": index != 2, "reason": "", "given": [], "begins": False}
        shown = {"1": 0.9} | ({"5": 0.9} if index else {})
        frames.append(
            {**frame, "confidence": shown, "agreement": {}, "mask_sha256": digest, "confidence_sha256": "0" * 64}
        )
    files = [f"{index:05d}.png" for index in range(4)]
    receipt = {"video": "v", "size": [32, 48], "folder": "frames/v", "files": files, "frames": frames}
    listed = {"name": "v", "frames": 4, "kept": 3}
    whole = {"identity": IDENTITY, "root": str(data), "split": "train", "teacher": {}, "videos": [listed]}
    if change:
        change(receipt, whole)
    (out / "videos").mkdir()
    written = sealed(receipt, "label", digest_of(IDENTITY))
    (out / "videos/v.json").write_bytes(written)
    listed.setdefault("sha256", hashlib.sha256(written).hexdigest())
    (out / "labels.json").write_bytes(sealed(whole, "label", digest_of(IDENTITY)))
    return str(out)


def test_the_kept_frames_have_masks_and_every_frame_is_there(tmp_path: Path):
    root = labelled(tmp_path)
    assert detect_kind(root) == "labels"
    (video,) = load_index(root)
    assert isinstance(video, LabelledVideo)
    assert (video.name, video.num_frames, video.size) == ("v", 4, (32, 48))
    assert video.annotated == (0, 1, 3) and video.first_seen == {1: 0, 5: 1}
    assert video.mask(2) is None and video.frame(2).mean() == 80
    mask = video.mask(3)
    assert mask is not None and set(np.unique(mask)) == {0, 1, 5}
    assert len(video.files()) == 7


def test_the_fingerprint_follows_the_labels_and_not_the_place(tmp_path: Path):
    first = fingerprint(load_index(labelled(tmp_path / "a")))
    assert fingerprint(load_index(labelled(tmp_path / "b"))) == first

    def drop(receipt: dict[str, Any], _: Any) -> None:
        receipt["frames"][1]["kept"] = False

    assert fingerprint(load_index(labelled(tmp_path / "c", drop))) != first


def test_a_mask_that_was_edited_is_refused_when_it_is_read(tmp_path: Path):
    root = labelled(tmp_path)
    write_mask(f"{root}/masks/v/00001.png", np.ones((32, 48), np.uint8))
    (video,) = load_index(root)
    assert video.mask(0) is not None
    with pytest.raises(InputError, match=r"masks/v/00001\.png: was changed after jobs\.label wrote it"):
        video.mask(1)


def test_unfinished_labels_are_named(tmp_path: Path):
    (tmp_path / "confidence").mkdir()
    with pytest.raises(InputError, match=r"labels\.json: these labels are absent or unfinished; .*jobs\.label"):
        load_index(str(tmp_path))


def outside(receipt: dict[str, Any], _: Any) -> None:
    receipt["folder"] = "../../etc"


def absolute(receipt: dict[str, Any], _: Any) -> None:
    receipt["files"][0] = "/etc/passwd"


def renamed(_: Any, whole: dict[str, Any]) -> None:
    whole["videos"][0]["name"] = "../v"


def twice(_: Any, whole: dict[str, Any]) -> None:
    whole["videos"].append({**whole["videos"][0], "sha256": "0" * 64})


def frame_outside(receipt: dict[str, Any], _: Any) -> None:
    receipt["frames"][3]["index"] = 7


def other_frame(receipt: dict[str, Any], _: Any) -> None:
    receipt["frames"][3]["name"] = "00009"


def object_300(receipt: dict[str, Any], _: Any) -> None:
    receipt["frames"][3]["confidence"] = {"300": 0.9}


def no_place(receipt: dict[str, Any], _: Any) -> None:
    del receipt["folder"]


def no_frames(_: Any, whole: dict[str, Any]) -> None:
    whole["root"] += "/gone"


def wrong_type(receipt: dict[str, Any], _: Any) -> None:
    receipt["frames"][0]["kept"] = "yes"


HOSTILE = [outside, absolute, renamed, twice, frame_outside, other_frame, object_300, no_place, no_frames, wrong_type]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_forged_list_or_receipt_is_refused_in_one_line(change: Callable[..., None], tmp_path: Path):
    with pytest.raises(InputError) as refusal:
        load_index(labelled(tmp_path, change))
    assert "\n" not in str(refusal.value)


def test_a_changed_receipt_a_link_and_a_lost_frame_are_refused(tmp_path: Path):
    root = labelled(tmp_path / "a")
    path = Path(root, "videos/v.json")
    path.write_text(path.read_text().replace('"kept": false', '"kept": true'))
    with pytest.raises(InputError, match="is not the file that labels.json lists"):
        load_index(root)

    root = labelled(tmp_path / "b")
    Path(root, "masks/v").rename(tmp_path / "elsewhere")
    Path(root, "masks/v").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        load_index(root)

    root = labelled(tmp_path / "c")
    Path(tmp_path, "c/data/frames/v/00002.png").unlink()
    with pytest.raises(InputError, match=r"00002\.png"):
        load_index(root)


def test_a_synthetic_video_that_cannot_be_is_refused(tmp_path: Path):
    def forge(receipt: dict[str, Any], whole: dict[str, Any]) -> None:
        del receipt["folder"], receipt["files"]
        numbers = {"split": "train", "seed": -1, "number": 0, "num_frames": 4, "height": 32, "width": 48}
        receipt["synthetic"], whole["root"] = numbers, ""

    with pytest.raises(InputError, match="its synthetic video is impossible"):
        load_index(labelled(tmp_path, forge))
    assert json.loads(Path(tmp_path, "labels/labels.json").read_text())["root"] == ""
