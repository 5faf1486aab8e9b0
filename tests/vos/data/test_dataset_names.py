"""A data set's lists, names and links lead nowhere but into it, and what no output can be called is found when it is indexed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vos.data import datasets
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
from vos.files.limits import variable
from vos.media.frame_files import image_files

NAMES = {
    "../bear": "leaves its folder",
    "/etc": "leaves its folder",
    "..": "leaves its folder",
    "a\\b": "leaves its folder",
    "a\0b": "leaves its folder",
    "bear\x1b[2J": "control characters",
    "bear\x07": "control characters",
    "b\x9bear": "control characters",
    "b" * 250: "longer than 200 bytes",
    "熊" * 80: "longer than 200 bytes",
}


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    write_davis(synthetic_index(2, 2, (32, 48)), str(tmp_path / "data"), "train")
    return tmp_path / "data"


@pytest.fixture
def youtubevos(davis: Path) -> Path:
    folder = davis / "train"
    folder.mkdir()
    for name in ("JPEGImages", "Annotations"):
        (davis / name / "480p").rename(folder / name)
    return davis


@pytest.fixture
def folder(davis: Path) -> Path:
    shutil.rmtree(davis / "ImageSets")
    (davis / "JPEGImages/480p").rename(davis / "frames")
    (davis / "Annotations/480p").rename(davis / "masks")
    return davis


def videos_in(root: Path) -> list[str]:
    return [video.name for video in datasets.load_index(str(root), split="train")]


def refused(root: Path, *parts: str, kind: str = "auto") -> None:
    with pytest.raises(InputError) as refusal:
        datasets.load_index(str(root), kind, "train")
    assert str(refusal.value).isprintable()
    for part in parts:
        assert part in str(refusal.value), str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_list_that_no_folder_of_the_data_set_can_have_is_refused(name: str, davis: Path):
    path = davis / "ImageSets/2017/train.txt"
    path.write_text(f"{path.read_text()}{name}\n")
    refused(davis, "ImageSets/2017/train.txt", NAMES[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_meta_json_that_no_folder_of_the_data_set_can_have_is_refused(name: str, youtubevos: Path):
    (youtubevos / "train/meta.json").write_text(json.dumps({"videos": {name: {"objects": {}}}}))
    refused(youtubevos, "train/meta.json", NAMES[name], kind="youtubevos")


@pytest.mark.parametrize("name", [b"clip\xff", b"clip\n2", b"\x1b[31mclip", b"c" * 230])
@pytest.mark.parametrize("what", ["a video", "a frame"])
def test_a_name_on_disk_that_no_output_can_have_is_found_when_it_is_indexed(name: bytes, what: str, folder: Path):
    video = sorted((folder / "frames").iterdir())[0]
    if what == "a video":
        os.rename(os.fsencode(video), os.fsencode(video.parent) + b"/" + name)
    else:
        os.rename(os.fsencode(video / "00001.jpg"), os.fsencode(video) + b"/" + name + b".jpg")
    refused(folder, "the name")


def test_names_of_every_language_are_names(folder: Path):
    for number, video in enumerate(sorted((folder / "frames").iterdir())):
        name = ("Ünïcödé 日本 🎬", "Screenshot at 10.00\u202fAM")[number]
        (folder / "masks" / video.name).rename(folder / "masks" / name)
        video.rename(folder / "frames" / name)
    assert len(videos_in(folder)) == 2


@pytest.mark.parametrize(
    "meta",
    [
        {"videos": []},
        {"videos": {"v": {"objects": {"x": {"frames": []}}}}},
        {"videos": {"v": {"objects": {"-1": {"frames": []}}}}},
        {"videos": {"v": {"objects": {"999999999999999999999999": {"frames": []}}}}},
        {"videos": {"v": {"objects": {"255": {"frames": []}}}}},
        {"videos": {"v": {"objects": {"1": {"frames": [1]}}}}},
        {"videos": {"v": {"objects": {"1": {"frames": "00000"}}}}},
        {"videos": {f"v{number}": {"objects": {}} for number in range(50_000)}},
    ],
    ids=["list", "letter", "negative", "immense", "void", "number", "string", "many videos"],
)
def test_a_meta_json_of_another_form_is_named_at_once(meta: object, youtubevos: Path):
    (youtubevos / "train/meta.json").write_text(json.dumps(meta))
    started = time.process_time()
    refused(youtubevos, str(youtubevos / "train"), kind="youtubevos")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("what", ["a pipe", "a device", "an immense file", "a folder"])
@pytest.mark.parametrize("which", ["ImageSets/2017/train.txt", "train/meta.json", "frames"])
def test_a_list_that_is_no_file_or_immense_is_named_and_not_waited_for(
    what: str, which: str, davis: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MOBILEVOS_OUTSIDE_LINKS", "1")  # for the device
    if which == "frames":
        which = os.path.relpath(next(davis.glob("JPEGImages/480p/*/00000.jpg")), davis)
    path = davis / which
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    elif what == "a folder":
        path.mkdir()
    else:
        with open(path, "wb") as file:
            file.truncate(2**34)
    refused(davis, path.name, kind="youtubevos" if "meta" in which else "davis2017")


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "a video's frames": lambda root, outside: _linked(next(root.glob("JPEGImages/480p/*")), outside),
    "a video's masks": lambda root, outside: _linked(next(root.glob("Annotations/480p/*")), outside),
    "one frame": lambda root, outside: _linked(next(root.glob("JPEGImages/480p/*/00001.jpg")), outside),
    "one mask": lambda root, outside: _linked(next(root.glob("Annotations/480p/*/00001.png")), outside),
    "all frames": lambda root, outside: _linked(root / "JPEGImages", outside),
    "the split file": lambda root, outside: _linked(root / "ImageSets/2017/train.txt", outside),
}


def _linked(path: Path, to: Path) -> None:
    """Move a file or folder there and leave a link."""
    to.mkdir(exist_ok=True)
    path.rename(to / path.name)
    path.symlink_to(to / path.name)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leaves_the_data_set_is_refused_unless_that_is_allowed(
    name: str, davis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    LINKS[name](davis, tmp_path / "elsewhere")
    refused(davis, "leads out of the data folder", "MOBILEVOS_OUTSIDE_LINKS=1")
    monkeypatch.setenv("MOBILEVOS_OUTSIDE_LINKS", "1")
    assert len(videos_in(davis)) == 2


@pytest.mark.parametrize("name", LINKS)
def test_a_link_within_the_data_set_and_the_root_itself_may_be_links(name: str, davis: Path, tmp_path: Path):
    LINKS[name](davis, davis / "store")
    (tmp_path / "link").symlink_to(davis)
    assert len(videos_in(tmp_path / "link")) == 2


def test_a_folder_whose_name_only_begins_like_the_root_is_outside(davis: Path):
    LINKS["one frame"](davis, davis.with_name("data-2"))
    refused(davis, "00001.jpg", "leads out of the data folder")


def test_synthetic_data_sets_are_bounded(monkeypatch: pytest.MonkeyPatch):
    for arguments, flag in (
        ((10**10, 5, (32, 48)), "--data.synthetic-videos"),
        ((2, 10**10, (32, 48)), "--data.synthetic-frames"),
        ((2, 5, (10**6, 10**6)), "--data.synthetic-height-px"),
    ):
        started = time.process_time()
        with pytest.raises(InputError, match=flag):
            synthetic_index(*arguments)
        assert time.process_time() - started < 0.1
    monkeypatch.setenv(variable("synthetic_videos"), "3")
    assert len(synthetic_index(3, 1, (32, 48))) == 3


def test_a_frame_folder_of_very_many_names_of_which_two_are_alike_is_told_quickly(tmp_path: Path):
    for number in range(3000):
        (tmp_path / f"{number}.jpg").symlink_to(".")
    (tmp_path / "2999.png").touch()
    started = time.process_time()
    with pytest.raises(InputError, match="2999: two files"):
        image_files(str(tmp_path))
    assert time.process_time() - started < 0.5


def test_meta_json_may_name_several_videos(youtubevos: Path):
    names = sorted(path.name for path in (youtubevos / "train/JPEGImages").iterdir())
    objects = {"1": {"category": "ape", "frames": ["00000", "00001"]}}
    (youtubevos / "train/meta.json").write_text(json.dumps({"videos": {name: {"objects": objects} for name in names}}))
    assert [video.name for video in datasets.load_index(str(youtubevos), "youtubevos", "train")] == names
