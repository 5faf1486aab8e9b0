"""Data sets as people have them: marks of editors, files of operating systems, names of other systems, turned photographs."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.check import main as check
from jobs.score import main as score
from pipelines.runtime.videos import index_videos
from tests.symptoms.pictures import SIZE, blob, holiday, save_png, turned_jpeg
from vos.config import ClipConfig, DataConfig
from vos.data.checking import check_video
from vos.data.clips import read_clip
from vos.data.contents import fingerprint
from vos.data.datasets import load_index, notes_on
from vos.data.draws import draw_clip
from vos.data.videos import Video
from vos.errors import InputError
from vos.inference.whole_video import segment_video
from vos.media.images import read_frame, write_mask

NFC, NFD = "Müller im Café", unicodedata.normalize("NFD", "Müller im Café")
LABELS = np.where(blob(20, 24, 12) > 0, 1, np.where(blob(28, 60, 14) > 0, 2, 0)).astype(np.uint8)
WHITE = np.where(LABELS > 0, 255, 0).astype(np.uint8)


def davis(root: Path, *names: str, masks: np.ndarray = LABELS) -> Path:
    for name in names:
        holiday(root / "JPEGImages/480p" / name, 3)
        for index in range(3):
            save_png(root / f"Annotations/480p/{name}/{index:03d}.png", masks)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def folder(root: Path, *names: str, masks: tuple[np.ndarray | None, ...] = (LABELS, LABELS, LABELS)) -> Path:
    for name in names:
        holiday(root / "frames" / name, len(masks))
        (root / "masks" / name).mkdir(parents=True, exist_ok=True)
        for index, mask in enumerate(masks):
            if mask is not None:
                save_png(root / f"masks/{name}/{index:03d}.png", mask)
    return root


def names_of(videos: list[Video]) -> list[str]:
    return [video.name for video in videos]


def masks_of(video: Video) -> list[np.ndarray]:
    found = [video.mask(index) for index in video.annotated]
    return [mask for mask in found if mask is not None]


# M5: roots as people have them


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with its mark", "utf-16-be with its mark"]
)
def test_a_split_file_of_any_editor_is_read(tmp_path: Path, encoding: str):
    root = davis(tmp_path, "bear", "my cat", NFC)
    text = f"# the first half\r\nbear  \r\n\r\n#\r\n\tmy cat\r\n{NFC}"
    short = encoding.split()[0]
    data = ("\ufeff" + text if "mark" in encoding else text).encode(short)
    (root / "ImageSets/2017/train.txt").write_bytes(data)
    assert names_of(load_index(str(root))) == ["Müller im Café", "bear", "my cat"]


def test_what_systems_and_people_put_beside_the_folders_is_no_video_and_no_split(tmp_path: Path):
    root = folder(tmp_path, "cat", "dog")
    (root / "README.txt").write_text("These videos were taken in May.\n\ncat and dog: see below. http://example.org/\n")
    (root / "classes.txt").write_text("animal\nperson\n")
    (root / "cover.png").write_bytes(Path(save_png(tmp_path / "x/cover.png", WHITE)).read_bytes())
    (root / "Thumbs.db").write_bytes(b"\0")
    for place in (".", "frames", "masks", "frames/cat", "masks/dog"):
        for name in (".ipynb_checkpoints", "__MACOSX"):
            holiday(root / place / name, 1)
        for name in (".DS_Store", "._000.jpg", "desktop.ini", "Thumbs.db"):
            (root / place / name).write_bytes(b"\0")
    for split in ("train", "val"):
        videos = load_index(str(root), "auto", split)
        assert names_of(videos) == ["cat", "dog"] and {video.num_frames for video in videos} == {3}


def test_a_list_of_videos_is_a_split_and_another_split_is_then_missed(tmp_path: Path):
    root = folder(tmp_path, "cat", "dog")
    (root / "README.txt").write_text("words\n")
    (root / "val.txt").write_text("\ufeffdog\n", encoding="utf-8")
    assert names_of(load_index(str(root), "auto", "val")) == ["dog"]
    with pytest.raises(InputError, match=r"train\.txt: no such split file"):
        load_index(str(root), "auto", "train")


def test_endings_in_capitals_are_read(tmp_path: Path):
    root = folder(tmp_path, "cat")
    for path in [*root.glob("frames/*/*"), *root.glob("masks/*/*")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    (video,) = load_index(str(root))
    assert video.num_frames == 3 and len(masks_of(video)) == 3
    shutil.copy(root / "masks/cat/000.PNG", root / "masks/cat/000.png")
    with pytest.raises(InputError, match="000: two masks for one frame"):
        load_index(str(root))


@pytest.mark.parametrize("where", ["split", "frames", "masks", "stems"])
def test_names_are_compared_as_people_see_them(tmp_path: Path, where: str):
    """A zip made by macOS has NFD names; a list typed elsewhere has NFC ones."""
    root = davis(tmp_path / "d", NFD if where != "split" else NFC)
    (root / "ImageSets/2017/train.txt").write_text(f"{NFD if where == 'split' else NFC}\n")
    if where == "frames":
        (root / "JPEGImages/480p" / NFD).rename(root / "JPEGImages/480p" / NFC)
    elif where == "masks":
        (root / "Annotations/480p" / NFD).rename(root / "Annotations/480p" / NFC)
    elif where == "stems":
        (root / "JPEGImages/480p" / NFD / "001.jpg").rename(root / "JPEGImages/480p" / NFD / f"{NFC} 1.jpg")
        (root / "Annotations/480p" / NFD / "001.png").rename(root / "Annotations/480p" / NFD / f"{NFD} 1.png")
    (video,) = load_index(str(root))
    assert video.num_frames == 3 and len(masks_of(video)) == 3


def test_meta_json_and_folders_may_write_names_differently(tmp_path: Path):
    holiday(tmp_path / "train/JPEGImages" / NFD, 3)
    save_png(tmp_path / "train/Annotations" / NFC / "000.png", LABELS)
    objects = {str(one): {"frames": ["000"]} for one in (1, 2)}
    (tmp_path / "train/meta.json").write_text(json.dumps({"videos": {NFC: {"objects": objects}}}), "utf-8-sig")
    (video,) = load_index(str(tmp_path))
    assert video.first_seen == {1: 0, 2: 0} and len(masks_of(video)) == 1


@pytest.mark.parametrize("spelling", ["{}/", "{}/.", "{}/../data", "link"])
def test_the_root_may_be_spelled_in_any_way(tmp_path: Path, spelling: str):
    folder(tmp_path / "data", "cat")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    root = str(tmp_path / "link") if spelling == "link" else spelling.format(tmp_path / "data")
    assert names_of(load_index(root)) == ["cat"]


def test_a_root_one_folder_too_high_or_too_low_names_the_right_one(tmp_path: Path):
    root = davis(tmp_path / "download/DAVIS/DAVIS", "bear")
    for given in (
        tmp_path / "download",
        root.parent,
        root / "JPEGImages",
        root / "JPEGImages/480p",
        root / "ImageSets",
    ):
        with pytest.raises(InputError, match=f"but {root} is one; give that folder as --data.root") as error:
            load_index(str(given))
        assert "\n" not in str(error.value)


def test_a_list_of_sequences_may_have_names_with_spaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for place in ("gt", "pred"):
        for name in ("my cat", "dog"):
            for index in range(4):
                write_mask(str(tmp_path / place / name / f"{index}.png"), LABELS)
    (tmp_path / "a list.txt").write_bytes("\ufeffmy cat\r\n".encode())
    argv = ["--gt", f"{tmp_path}/gt", "--pred", f"{tmp_path}/pred", "--csv", f"{tmp_path}/o.csv", "--overwrite"]
    for given in (f"{tmp_path}/a list.txt", "my cat"):
        assert not score([*argv, "--sequences", given])
        said = capsys.readouterr().out
        assert "my cat" in said and "dog" not in said


def test_a_mask_that_is_no_png_is_named_in_place_of_a_missing_one(tmp_path: Path):
    root = folder(tmp_path, "cat", masks=(None, None))
    Image.fromarray(WHITE).save(root / "masks/cat/000.jpg")
    with pytest.raises(InputError, match=r"masks/cat/000\.png: .* is missing \(000\.jpg is no PNG file\)"):
        load_index(str(root))


# V8 in data sets


def test_pictures_of_other_kinds_are_named_or_refused(tmp_path: Path):
    root = folder(tmp_path, "cat")
    (root / "frames/cat/old.jpg").mkdir()
    Image.fromarray(WHITE).save(root / "frames/cat/poster.webp")
    videos = load_index(str(root))
    assert videos[0].num_frames == 3 and any("poster.webp" in note for note in notes_on(videos))
    Image.fromarray(WHITE).save(root / "frames/cat/003.bmp")
    with pytest.raises(InputError, match=r"frames/cat: 003\.bmp .* neither JPEG nor PNG; convert"):
        load_index(str(root))


# M1 and M3 in data sets


def soft(white: np.ndarray) -> np.ndarray:
    small = Image.fromarray(white).resize((SIZE[1] // 2, SIZE[0] // 2), Image.Resampling.NEAREST)
    return np.array(small.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("kind", ["davis2016", "davis2017", "folder"])
@pytest.mark.parametrize("how", [np.copy, soft], ids=["hard", "soft"])
def test_black_and_white_masks_of_any_layout_are_one_object(tmp_path: Path, kind: str, how: Callable):
    shown = how(WHITE)
    root = folder(tmp_path, "a", masks=(shown,) * 3) if kind == "folder" else davis(tmp_path, "a", masks=shown)
    if kind == "davis2016":
        (root / "ImageSets/2017").rename(root / "ImageSets/2016")
    (video,) = load_index(str(root), kind)
    assert video.first_seen == {1: 0}
    for mask in masks_of(video):
        assert np.array_equal(mask, np.where(shown >= 128, 1, 0))
    clip = read_clip(video, draw_clip([video], ClipConfig(crop_px=32), 0, 0), 32)
    assert set(np.unique(clip.labels)) <= {0, 1}


@pytest.mark.parametrize("kind", ["davis2017", "folder"])
def test_void_around_objects_stays_void_in_every_mask(tmp_path: Path, kind: str):
    band = np.where((blob(20, 24, 15) > 0) & (LABELS == 0), 255, LABELS)
    root = folder(tmp_path, "a", masks=(band,) * 3) if kind == "folder" else davis(tmp_path, "a", masks=band)
    (video,) = load_index(str(root), kind)
    assert video.first_seen == {1: 0, 2: 0} and all(np.array_equal(mask, LABELS) for mask in masks_of(video))


def test_masks_of_a_video_that_contradict_each_other_are_named(tmp_path: Path):
    root = folder(tmp_path, "a", masks=(WHITE, LABELS))
    (video,) = load_index(str(root))
    with pytest.raises(InputError, match=r"001\.png: shows 1, 2, but the first mask of a is black and white"):
        video.mask(1)


def test_a_palette_that_an_optimiser_permuted_in_each_file_gives_back_the_ids(tmp_path: Path):
    root = davis(tmp_path, "a")
    for number in range(3):
        path = root / f"Annotations/480p/a/{number:03d}.png"
        write_mask(str(path), LABELS)
        Image.open(path).convert("RGB").quantize(3).save(path)
    (video,) = load_index(str(root))
    assert all(np.array_equal(mask, LABELS) for mask in masks_of(video))
    assert any("DAVIS's colours in another order" in line for line in check_video(video, False).warnings)


def test_the_check_of_a_data_set_says_how_unusual_masks_are_read(tmp_path: Path):
    for name, mask, words in (
        ("soft", soft(WHITE), "soft edges: in this video values from 128 on are the object"),
        ("white", WHITE, "255 is the object, not void"),
        ("full", np.where(LABELS == 2, 2, 1), "no background"),
    ):
        (video,) = load_index(str(davis(tmp_path / name, "a", masks=mask.astype(np.uint8))))
        assert any(words in line for line in check_video(video, True).warnings)


# M4 in data sets


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_frames_are_turned_everywhere_and_it_is_said_once(
    tmp_path: Path, orientation: int, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "data"
    for index in range(3):
        turned_jpeg(root / f"frames/a/{index}.jpg", orientation)
        turned_jpeg(root / f"frames/b/{index}.jpg", orientation)
    shown = read_frame(str(root / "frames/a/0.jpg"))
    mask = np.zeros(shown.shape[:2], np.uint8)
    mask[4:30, 4:30] = 1
    for index in range(6):
        save_png(root / f"masks/{'ab'[index % 2]}/{index // 2}.png", mask)
    videos = load_index(str(root))
    assert {video.size for video in videos} == {mask.shape} and np.array_equal(videos[0].frame(1), shown)
    (note,) = notes_on(videos)
    assert "turned as their EXIF orientation says" in note and "1 more video" in note
    (_, labels), *_ = segment_video(None, videos[0], None)
    assert np.array_equal(labels, mask)
    for split in ("train", "val"):
        index_videos(DataConfig(root=str(root)), split)
    if orientation == 6:
        assert not check(["--data.root", str(root), "--split", "val", "--out", f"{tmp_path}/out"])
    assert capsys.readouterr().err.count("EXIF orientation") == 1
    # The tag decides what is shown, so videos without it are other videos, even where sizes are equal.
    tagged = fingerprint(videos)
    for path in root.glob("frames/*/*.jpg"):
        Image.open(path).save(path, quality=95)
    if orientation in (2, 3):
        assert fingerprint(load_index(str(root))) != tagged
    else:
        with pytest.raises(InputError, match="resize it"):
            load_index(str(root))


def test_masks_that_fit_only_the_stored_rows_are_told_why(tmp_path: Path):
    for index in range(2):
        turned_jpeg(tmp_path / f"frames/a/{index}.jpg", 6)
        save_png(tmp_path / f"masks/a/{index}.png", LABELS)
    with pytest.raises(
        InputError, match=r"masks/a/0\.png: 96x48 pixels.*has 48x96; frames are turned as their EXIF"
    ) as error:
        load_index(str(tmp_path))
    assert "\n" not in str(error.value)


# M6


def test_an_object_that_begins_later_is_followed_from_its_first_mask(tmp_path: Path):
    only_one, only_three = np.where(LABELS == 1, 1, 0), np.where(blob(10, 80, 6) > 0, 3, 0)
    root = folder(tmp_path, "a", masks=(only_one, LABELS, None, np.maximum(only_one, only_three)))
    (video,) = load_index(str(root))
    assert video.first_seen == {1: 0, 2: 1, 3: 3}
    found = dict(segment_video(None, video, None))
    assert [sorted(set(np.unique(found[i])) - {0}) for i in range(4)] == [[1], [1, 2], [1, 2], [1, 2, 3]]
    draws = [draw_clip([video], ClipConfig(crop_px=32), 0, number) for number in range(20)]
    assert {one for draw in draws for one in draw.objects} == {1, 3}, "clips run from either end of three masks"
    said = check_video(video, True)
    assert not said.faults and any("003.png: object 3 begins here" in line for line in said.warnings)


def test_a_video_without_a_mask_of_its_first_frames_begins_at_its_first_mask(tmp_path: Path):
    root = folder(tmp_path, "a", masks=(None, np.zeros(SIZE, np.uint8), LABELS, LABELS))
    videos = load_index(str(root))
    assert videos[0].first_seen == {1: 2, 2: 2}
    assert [index for index, _ in segment_video(None, videos[0], None)] == [2, 3]
    assert any("the first mask of this video; the 1 frames before it" in note for note in notes_on(videos))


def test_a_black_and_white_object_may_begin_later_too(tmp_path: Path):
    root = folder(tmp_path, "a", masks=(np.zeros(SIZE, np.uint8), soft(WHITE), WHITE))
    (video,) = load_index(str(root))
    assert video.first_seen == {1: 1} and np.array_equal(masks_of(video)[2], np.where(WHITE, 1, 0))
