"""The fingerprint of videos: of every byte, wherever they lie, and fast where nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from vos.data import contents, datasets
from vos.data.contents import FORM, fingerprint, index_fingerprint, same_videos
from vos.data.synthetic import synthetic_index
from vos.data.videos import FolderVideo
from vos.errors import InputError
from vos.media import images

H, W = 24, 32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "contents"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos of three frames in DAVIS layout, all masks of equal size in bytes, last changed long ago."""
    folder = tmp_path / "data"
    draws = np.random.default_rng(0)
    for name in ("bear", "goat"):
        for index in range(3):
            frame = draws.integers(0, 256, (H, W, 3), dtype=np.uint8)
            images.write_frame(str(folder / f"JPEGImages/480p/{name}/{index:05d}.jpg"), frame)
            labels = np.zeros((H, W), np.uint8)
            labels[4:12, 4 + index : 12 + index] = 1
            images.write_mask(str(folder / f"Annotations/480p/{name}/{index:05d}.png"), labels)
    (folder / "ImageSets/2017").mkdir(parents=True)
    (folder / "ImageSets/2017/train.txt").write_text("bear\ngoat\n")
    (folder / "ImageSets/2017/val.txt").write_text("goat\n")
    return folder


def videos(root: Path, split: str = "train") -> list[videos.Video]:
    return datasets.load_index(str(root), "davis2017", split)


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been changed long ago: the clock of the reader is ahead."""
    monkeypatch.setattr(contents, "RACY_S", -1e9)


def reads(root: Path) -> int:
    """How many videos' contents are read for a fingerprint."""
    seen: list[int] = []
    fingerprint(videos(root), lambda done, total: seen.append(total))
    return len(seen)


def test_it_follows_the_content_and_not_the_place(root: Path, tmp_path: Path) -> None:
    first = fingerprint(videos(root))
    assert first.startswith(FORM) and len(first) == len(FORM) + 64
    shutil.copytree(root, tmp_path / "moved")
    assert fingerprint(videos(tmp_path / "moved")) == first
    assert fingerprint(videos(root, "val")) != first
    assert fingerprint(datasets.load_index(str(root), "davis2017", "train")[:1]) != first
    some = {fingerprint(synthetic_index(2, seed=seed, split=split)) for seed in (0, 1) for split in ("train", "val")}
    assert len(some) == 4


@pytest.mark.parametrize("name", ["Annotations/480p/goat/00002.png", "JPEGImages/480p/bear/00001.jpg"])
def test_another_content_of_equal_size_and_time_is_another_fingerprint(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    every = videos(root)
    before, old = fingerprint(every), index_fingerprint(every)
    path = root / name
    data, times = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p and rsync -t leave it
    assert index_fingerprint(every) == old, "names and sizes see nothing"
    assert fingerprint(every) != before


def test_contents_are_read_once_and_again_only_where_a_file_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first = fingerprint(videos(root))
    assert reads(root) == 0
    path = root / "Annotations/480p/goat/00002.png"
    data = path.read_bytes()
    path.write_bytes(data)
    assert reads(root) == 1 and reads(root) == 0
    assert fingerprint(videos(root)) == first, "the same bytes, written again"


def test_a_file_that_changed_just_now_is_not_believed_by_its_time(root: Path, cache: Path) -> None:
    fingerprint(videos(root))
    assert reads(root) == 2 and list(cache.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"files": 3}', b"edit"])
def test_a_damaged_or_edited_memory_is_read_past(
    root: Path, cache: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first = fingerprint(videos(root))
    for path in cache.iterdir():
        if damage == b"edit":
            known = json.loads(path.read_bytes())
            path.write_text(json.dumps(known | {"content": "0" * 64}))
        else:
            path.write_bytes(damage)
    assert fingerprint(videos(root)) == first and reads(root) == 0, "and made again"


def test_the_memory_is_private_and_a_folder_prepared_by_others_is_refused(
    root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    fingerprint(videos(root))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    shutil.rmtree(cache.parent)
    (tmp_path / "elsewhere").mkdir()
    cache.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="not a folder of yours"):
        fingerprint(videos(root))


def test_fingerprints_of_before_are_compared_in_their_own_form(root: Path) -> None:
    every = videos(root)
    assert same_videos(every, fingerprint(every)) and same_videos(every, index_fingerprint(every))
    assert not same_videos(every[:1], fingerprint(every)) and not same_videos(every[:1], index_fingerprint(every))


def test_a_file_that_is_gone_is_named(root: Path) -> None:
    every = videos(root)
    video = every[0]
    assert isinstance(video, FolderVideo)
    os.remove(video.files()[1])
    with pytest.raises(InputError, match="00001.jpg"):
        fingerprint(every)
