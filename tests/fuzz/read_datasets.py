"""Data sets: split files, meta.json, and whether the right files are there."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from tests.fuzz import png_files
from tests.fuzz.byte_mutations import any_bytes, in_one_file
from tests.fuzz.cases import Files, Mutation, NotTellableError, Reader
from tests.fuzz.json_mutations import json_changes, strict
from tests.fuzz.read_images import png
from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index

SIZE = (32, 32)
SHADES_FROM = 64
ENDINGS = (".png", ".jpg", ".jpeg")
NAMES = ("bear", "camel", "dog")


def _video(name: str, seed: int, frames: str, masks: str) -> Files:
    video = synthetic_index(1, 3, SIZE, seed=seed)[0]
    files: Files = {}
    for index in range(3):
        mask = video.mask(index)
        assert mask is not None
        files[f"{frames}/{name}/{index:05d}.png"] = png(video.frame(index))
        files[f"{masks}/{name}/{index:05d}.png"] = png(mask, palette=bytes(range(256)) * 3)
    return files


def _bytes(content: bytes | str | None) -> bytes:
    assert isinstance(content, bytes)
    return content


def davis_samples(folder: Path) -> dict[str, Files]:
    files: Files = {"ImageSets/2017/train.txt": "".join(f"{name}\n" for name in NAMES).encode()}
    for seed, name in enumerate(NAMES):
        files |= _video(name, seed, "JPEGImages/480p", "Annotations/480p")
    return {"davis": files}


def youtube_samples(folder: Path) -> dict[str, Files]:
    files: Files = {}
    videos: dict[str, Any] = {}
    for seed, name in enumerate(NAMES[:2]):
        files |= _video(name, seed, "train/JPEGImages", "train/Annotations")
        ids = sorted(
            set(np.unique(png_files.decoded(_bytes(files[f"train/Annotations/{name}/00000.png"]))[0]).tolist()) - {0}
        )
        videos[name] = {
            "objects": {str(one): {"category": "animal", "frames": ["00000", "00001", "00002"]} for one in ids}
        }
    return {"youtubevos": files | {"train/meta.json": json.dumps({"videos": videos}, indent=1).encode()}}


def read_index(folder: Path) -> Any:
    """Every frame and mask of every video, as a training reads them."""
    found = []
    for video in load_index(str(folder), "auto", "train"):
        digest = hashlib.sha256()
        for index in range(video.num_frames):
            digest.update(video.frame(index).tobytes())
            mask = video.mask(index)
            digest.update(b"none" if mask is None else mask.tobytes())
        found.append(
            [
                video.name,
                video.num_frames,
                {str(number): first for number, first in video.first_seen.items()},
                digest.hexdigest(),
            ]
        )
    return found


def davis_by_others(folder: Path) -> Any:
    data = (folder / "ImageSets/2017/train.txt").read_bytes()
    marked = data[:2] in (b"\xff\xfe", b"\xfe\xff") and len(data) > 2
    lines = (line.strip() for line in data.decode("utf-16" if marked else "utf-8-sig").splitlines())
    names = sorted({line for line in lines if line and line != "#" and not line.startswith("# ")})
    assert names, "no name"
    return [_read(folder, name, "JPEGImages/480p", "Annotations/480p", None) for name in names]


def youtube_by_others(folder: Path) -> Any:
    videos = strict((folder / "train/meta.json").read_bytes())["videos"]
    found = []
    for name, content in sorted(videos.items()):
        objects = {}
        for number, entry in content["objects"].items():
            assert number.isascii() and str(int(number)) == number and 1 <= int(number) <= 254, "no object's number"
            assert entry["frames"] and all(isinstance(one, str) for one in entry["frames"])
            objects[int(number)] = entry["frames"]
        found.append(_read(folder, name, "train/JPEGImages", "train/Annotations", objects))
    assert found
    return found


def _read(folder: Path, name: str, frames: str, masks: str, objects: dict[int, list[str]] | None) -> Any:
    assert name and "/" not in name and name not in (".", "..") and name.isprintable(), "no folder's name"
    places = {
        path.stem: path
        for path in (folder / frames / name).iterdir()
        if path.suffix.lower() in ENDINGS and path.name[0] != "."
    }
    stems = sorted(places, key=_by_numbers)
    assert stems
    digest, sizes = hashlib.sha256(), set()
    known = None if objects is None else set(objects)
    first_seen = {str(number): stems.index(listed[0]) for number, listed in sorted((objects or {}).items())}
    needed = {stem for listed in objects.values() for stem in listed} if objects is not None else set(stems)
    for index, stem in enumerate(stems):
        digest.update((pixels := _pixels(places[stem])).tobytes())
        sizes.add(pixels.shape[:2])
        path = folder / masks / name / f"{stem}.png"
        if stem not in needed and not path.exists():
            digest.update(b"none")
            continue
        labels = png_files.decoded(path.read_bytes())[0]
        assert labels.shape[2] == 1
        values = set(np.unique(labels).tolist()) - {0}
        if known is None and max(values, default=0) >= SHADES_FROM:
            raise NotTellableError  # shades of one object, or ids: vos/media/mask_values.py decides by shapes
        labels = np.where(labels[..., 0] == 255, 0, labels[..., 0]).astype(np.uint8)
        ids = set(np.unique(labels).tolist()) - {0}
        if known is None:
            known, first_seen = ids, {str(one): index for one in sorted(ids)}
        assert ids <= known and known, "an unknown object"
        sizes.add(labels.shape)
        digest.update(labels.tobytes())
    assert len(sizes) == 1, "sizes"
    return [name, len(stems), first_seen, digest.hexdigest()]


def _pixels(path: Path) -> np.ndarray:
    data = path.read_bytes()
    pixels, _, colour = png_files.decoded(data)
    if colour == 3:
        pixels = png_files.palette_of(data)[pixels[..., 0]]
    return np.ascontiguousarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels[..., :3])


def _by_numbers(stem: str) -> list[Any]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", stem))]


LINES = (
    "bear",
    "dog",
    "",
    " ",
    "..",
    ".",
    "../bear",
    "bear/",
    "/etc",
    "a\\b",
    "x" * 300,
    "x" * 70_000,
    "\x00",
    "\x1b[2J",
    "bear\r",
    "#bear",
    "é",
    "\udcff",
    "BEAR",
    "bear camel",
    "\u202e",
)


def change_lines(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """A line of the split dropped, doubled, replaced or put in; other line ends."""
    name = "ImageSets/2017/train.txt"
    data = files.get(name)
    if not isinstance(data, bytes):
        return files
    lines = data.decode("utf-8", "replace").splitlines() or [""]
    at, action = int(rng.integers(len(lines))), int(rng.integers(6))
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(at, lines[at])
    elif action == 2:
        lines[at] = LINES[int(rng.integers(len(LINES)))]
    elif action == 3:
        lines.insert(at, LINES[int(rng.integers(len(LINES)))])
    elif action == 4:
        lines = lines * max(1, 200_000 // max(1, sum(map(len, lines))))
    end = str(rng.choice(["\n", "\r\n", "\r", "\n\n"]))
    return files | {name: end.join(lines).encode("utf-8", "surrogateescape")}


def rename(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """A frame or mask under another name, another ending, or twice."""
    names = sorted(one for one in files if one.endswith(".png"))
    name = names[int(rng.integers(len(names)))]
    heads = (
        "00001.png",
        "00009.png",
        "00000.jpg",
        "00000.PNG",
        ".hidden.png",
        "a.png",
        "0.png",
        "x" * 200 + ".png",
        "1e5.png",
        "\u0663.png",
        "00000.jpeg",
        "-1.png",
    )
    other = name.rpartition("/")[0] + "/" + heads[int(rng.integers(len(heads)))]
    changed = dict(files)
    changed[other] = changed[name] if rng.random() < 0.5 else changed.pop(name)
    return changed


def _texts(name: str) -> dict[str, Mutation]:
    from tests.fuzz.byte_mutations import CHANGES

    return {f"{why} in {name}": in_one_file(change, lambda one: one.endswith(name)) for why, change in CHANGES.items()}


READERS = [
    Reader(
        "davis index",
        davis_samples,
        read_index,
        davis_by_others,
        {
            **any_bytes(),
            **_texts(".txt"),
            **{f"lines {i}": change_lines for i in range(8)},
            **png_files.png_mutations(),
            "rename": rename,
            "rename 2": rename,
        },
        1.2,
    ),
    Reader(
        "youtubevos index",
        youtube_samples,
        read_index,
        youtube_by_others,
        {
            **any_bytes(),
            **_texts(".json"),
            **{
                f"{why} {i}": one
                for i in range(4)
                for why, one in json_changes(lambda name: name.endswith("meta.json")).items()
            },
            "rename": rename,
        },
        1.2,
    ),
]
