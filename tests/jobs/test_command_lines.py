"""Every job from its command line: help that answers at once, and bad input as one line, exit code 2 and no half result."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos.config import DataConfig
from vos.data.synthetic import synthetic_index, write_davis
from vos.files.canonical import to_dict
from vos.media.images import write_frame, write_mask

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(
    path.stem for path in (ROOT / "jobs").glob("*.py") if re.search(r"^def main\(", path.read_text(), re.MULTILINE)
)
HEAVY = ("torch", "ray", "mlflow", "cv2", "numpy", "pyarrow", "pandas", "matplotlib", "PIL")
VIDEO, OTHER_VIDEO = "train-0-00000", "train-0-00001"

# Help.

ASK_FOR_HELP = f"""
import contextlib, importlib, io, json, sys
answers = {{}}
for name in {JOBS!r}:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = importlib.import_module(f"jobs.{{name}}").main(["--help"])
    answers[name] = {{"code": code, "text": said.getvalue(), "heavy": sorted(set({HEAVY!r}) & set(sys.modules))}}
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """What every job answers to --help, asked in one process of its own."""
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def flags(help_text: str) -> Iterator[tuple[str, str]]:
    """Each flag of a help page with all that is said about it."""
    chunks: list[list[str]] = []
    for line in help_text.splitlines():
        if line[:2] not in ("  ", "│ "):  # tyro draws a box where the output can show one
            continue
        inside = line[2:].rstrip(" │")
        if inside.startswith("-") and not inside.startswith("---"):
            chunks.append([])
        elif not inside.startswith(" ") or not chunks:
            continue  # an example, or the description of a group
        chunks[-1].append(inside.strip())
    for chunk in chunks:
        found = re.match(r"(--?[\w.-]+)((?:, --?[\w.-]+)*)( \{[^}]*\}| [A-Z]+)?(.*)", " ".join(chunk))
        assert found is not None
        yield found[1], found[4].strip()


@pytest.mark.parametrize("job", JOBS)
def test_help_exits_with_0_and_shows_two_example_lines(job: str, answers: dict[str, dict[str, Any]]):
    assert answers[job]["code"] == 0
    examples = answers[job]["text"].split("Examples:")[1].split("--help")[0]
    assert examples.count(f"python -m jobs.{job}") >= 2


@pytest.mark.parametrize("job", JOBS)
def test_every_flag_says_what_it_is_and_its_default(job: str, answers: dict[str, dict[str, Any]]):
    found = dict(flags(answers[job]["text"]))
    assert {"--preset", "--data.root", "--out", "--seed", "--workers"} <= found.keys()
    for flag, said in found.items():
        if flag == "-h":
            continue
        if said.endswith("(repeatable)"):  # it adds to nothing, and tyro names no default
            said = said.removesuffix("(repeatable)") + "(default: none)"
        words, _, default = said.rpartition("(default: ")
        assert len(words.split()) >= 2, f"{flag} says nothing of itself: {said!r}"
        assert default.endswith(")"), f"{flag} shows no default: {said!r}"


def test_help_waits_for_no_heavy_library(answers: dict[str, dict[str, Any]]):
    assert {job: answer["heavy"] for job, answer in answers.items()} == dict.fromkeys(JOBS, [])


# Bad input. Each of these ends before Ray starts.


def assert_refused(capfd: pytest.CaptureFixture[str], job: str, argv: list[str], named: str) -> str:
    """The job exits with 2 and prints one line that holds `named`; returns the line."""
    capfd.readouterr()
    code = import_module(f"jobs.{job}").main(argv)
    said = capfd.readouterr()
    assert code == 2 and said.out == ""
    err = re.sub("^data    not checked; .*\n", "", said.err)  # what a long job says at its start
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert named in err
    return err


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of five frames in DAVIS layout; both are in both splits."""
    root = tmp_path_factory.mktemp("davis") / "DAVIS"
    videos = synthetic_index(2, 5, (48, 64))
    assert [video.name for video in videos] == [VIDEO, OTHER_VIDEO]
    for split in ("train", "val"):
        write_davis(videos, str(root), split)
    return root


@pytest.fixture
def davis(pristine: Path, tmp_path: Path) -> Path:
    """A copy of those videos to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "DAVIS"))


def truncate(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def frame(davis: Path, index: int = 3) -> Path:
    return davis / "JPEGImages/480p" / OTHER_VIDEO / f"{index:05d}.jpg"


def mask(davis: Path, index: int = 3) -> Path:
    return davis / "Annotations/480p" / OTHER_VIDEO / f"{index:05d}.png"


def without_root(davis: Path) -> Path:
    shutil.rmtree(davis)
    return davis


def with_nothing_known_in_it(davis: Path) -> Path:
    shutil.rmtree(davis / "ImageSets")
    return davis


def with_empty_splits(davis: Path) -> str:
    for path in (davis / "ImageSets/2017").iterdir():
        path.write_text("\n\n")
    return "ImageSets/2017/"


def with_a_split_that_names_no_folder(davis: Path) -> str:
    for path in (davis / "ImageSets/2017").iterdir():
        path.write_text("no-such-video\n")
    return "no-such-video"


def with_an_empty_frame(davis: Path) -> Path:
    frame(davis).write_bytes(b"")
    return frame(davis)


def with_text_for_a_mask(davis: Path) -> Path:
    mask(davis).write_text("not an image")
    return mask(davis)


def with_a_frame_without_mask(davis: Path) -> Path:
    mask(davis).unlink()
    return mask(davis)


def with_a_mask_of_another_size(davis: Path) -> Path:
    write_mask(str(mask(davis)), np.ones((48, 48), np.uint8))
    return mask(davis)


def with_a_frame_of_another_size(davis: Path) -> Path:
    write_frame(str(frame(davis)), np.zeros((48, 48, 3), np.uint8))
    return frame(davis)


DAMAGES: list[Callable[[Path], Path | str]] = [
    without_root,
    with_nothing_known_in_it,
    with_empty_splits,
    with_a_split_that_names_no_folder,
    with_an_empty_frame,
    with_text_for_a_mask,
    with_a_frame_without_mask,
    with_a_mask_of_another_size,
    with_a_frame_of_another_size,
    lambda davis: truncate(frame(davis)),
    lambda davis: truncate(mask(davis)),
]


@pytest.mark.parametrize("job", ["cache", "train", "evaluate", "demo"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("<>"))
def test_a_damaged_data_set_is_named_and_nothing_is_written(
    job: str, damage: Callable[[Path], Path | str], davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    named, out = str(damage(davis)), tmp_path / "out"
    assert_refused(capfd, job, ["--data.root", str(davis), "--out", str(out)], named)
    assert not out.exists()


def test_a_split_that_does_not_exist_is_named_with_those_that_do(
    davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    argv = ["--data.root", str(davis), "--out", str(tmp_path / "out"), "--split", "testing"]
    assert "train, val" in assert_refused(capfd, "evaluate", argv, "testing.txt")
    assert not (tmp_path / "out").exists()


def inline_teacher(config: Any, plan: Any, missing: Any) -> Iterator[Any]:
    """The teacher's actor without Ray around it."""
    from pipelines.cache.teacher import Teacher

    teacher = Teacher(config, plan.videos, plan.shapes, plan.recipe)
    for one in missing:
        yield teacher(asdict(one))


def inline_segmenter(config: Any, videos: Any, policy: Any, folder: Any, info: Any, label: str) -> Iterator[Any]:
    """The evaluation's actor without Ray around it."""
    from pipelines.evaluation.sequences import SegmentActor

    actor = SegmentActor(config, videos, policy, folder, info)
    for number in range(len(videos)):
        yield actor({"id": number})


def with_a_palette_index_that_no_object_has(davis: Path) -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[10:30, 10:30] = 77
    for index in range(1, 5):
        write_mask(str(mask(davis, index)), labels)


def test_a_palette_index_without_object_is_named_by_the_cache_which_keeps_no_half_shard(
    davis: Path, tmp_path: Path, store: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.cache.build._run_teacher", inline_teacher)
    with_a_palette_index_that_no_object_has(davis)
    out = tmp_path / "out"
    argv = ["--data.root", str(davis), "--out", str(out), "--draws", "6", "--shard-draws", "6", "--clip.crop-px", "32"]
    said = assert_refused(capfd, "cache", argv, f"Annotations/480p/{OTHER_VIDEO}/0000")
    assert "palette index 77" in said
    assert not (out / "manifest.json").exists() and list((out / "shards").iterdir()) == []


def test_a_palette_index_without_object_is_named_by_the_evaluation_which_keeps_whole_masks_only(
    davis: Path, tmp_path: Path, store: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from vos.media.images import check_complete

    monkeypatch.setattr("pipelines.evaluation.evaluate.segment_all", inline_segmenter)
    with_a_palette_index_that_no_object_has(davis)
    out = tmp_path / "out"
    argv = ["--data.root", str(davis), "--out", str(out), "--checkpoint", "copy"]
    said = assert_refused(capfd, "evaluate", argv, str(mask(davis, 1)))
    assert "palette index 77" in said
    assert not (out / "summary.json").exists() and not (out / "scores.csv").exists()
    written = [path for path in (out / "masks").rglob("*") if path.is_file()]
    assert all(check_complete(str(path)) == (48, 64) for path in written)


# Outputs that cannot be written. Root may write anywhere, but nobody can make a folder below a file.


@pytest.fixture
def regular_file(tmp_path: Path) -> Path:
    path = tmp_path / "regular"
    path.write_text("kept")
    return path


def small_manifest(folder: Path, **changes: Any) -> Path:
    """The manifest of a cache of synthetic videos, without its shards."""
    from pipelines.cache.manifest import sealed
    from pipelines.cache.plan import cache_identity, recipe_of
    from pipelines.cache.schema import VERSION, Shapes
    from pipelines.runtime.videos import index_videos
    from vos.config import CacheConfig, ClipConfig
    from vos.files.canonical import dumps
    from vos.files.canonical import fingerprint as digest_of

    data = DataConfig(synthetic_videos=2, synthetic_frames=4, synthetic_height_px=48)
    version = changes.pop("schema_version", VERSION)
    videos = index_videos(data, "train")
    settings = CacheConfig(clip=ClipConfig(crop_px=32), draws=1)
    shapes = {**asdict(Shapes.of(settings, 16)), "rank": 16}
    made = cache_identity(settings, videos, {"model": "none", "weights": "none"}, shapes)
    identity = json.loads(dumps({**made, **changes}))
    shard = {"number": 0, "file": "shard-000000.parquet", "first_draw": 0, "rows": 1, "bytes": 1, "sha256": "0" * 64}
    manifest = {
        "schema_version": version,
        "fingerprint": digest_of(identity),
        "recipe": recipe_of(identity),
        "identity": identity,
        "data": to_dict(data),
        "teacher": {},
        "draws": 1,
        "bytes": 1,
        "column_bytes": {},
        "quantisation": {},
        "shards": [shard],
    }
    folder.mkdir()
    (folder / "manifest.json").write_bytes(sealed(manifest))
    return folder


@pytest.mark.parametrize("below", ["", "/runs/x"])
@pytest.mark.parametrize("job", [job for job in JOBS if job != "verify"])  # verify writes nothing
def test_an_output_that_cannot_be_written_is_named_before_any_work(
    job: str, below: str, regular_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    argv = ["--preset", "smoke", "--out", f"{regular_file}{below}"]
    if job == "tune":
        argv += ["--cache", str(small_manifest(tmp_path / "cache"))]
    if job == "score":
        argv += ["--gt", str(tmp_path), "--pred", str(tmp_path)]
    assert_refused(capfd, job, argv, str(regular_file))
    assert regular_file.read_text() == "kept"


def test_a_table_of_scores_that_cannot_be_written_is_named(
    pristine: Path, regular_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    masks = str(pristine / "Annotations/480p")
    argv = ["--gt", masks, "--pred", masks, "--csv", f"{regular_file}/scores.csv", "--out", str(tmp_path / "out")]
    assert_refused(capfd, "score", argv, f"{regular_file}/scores.csv")


# Caches.


@pytest.mark.parametrize("job", ["train", "tune"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "jobs.cache"),
        (lambda folder: (folder / "manifest.json").unlink(), "absent or unfinished"),
        (lambda folder: truncate(folder / "manifest.json"), "not a cache manifest"),
        (lambda folder: (shutil.rmtree(folder), small_manifest(folder, schema_version=99)), "schema version 99"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("a file")), "a directory"),
    ],
    ids=["no folder", "no manifest", "truncated", "newer version", "a file"],
)
def test_a_cache_that_cannot_be_read_is_named_and_nothing_is_written(
    job: str, damage: Callable[[Path], Any], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    cache, out = small_manifest(tmp_path / "cache"), tmp_path / "out"
    damage(cache)
    line = assert_refused(capfd, job, ["--cache", str(cache), "--out", str(out)], f"{cache}/manifest.json")
    assert said in line
    assert not out.exists()


def test_a_cache_of_other_videos_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    cache = small_manifest(tmp_path / "cache", data="0" * 64)
    for job in ("train", "tune"):
        assert_refused(capfd, job, ["--cache", str(cache), "--out", str(tmp_path / "out")], str(cache))
    assert not (tmp_path / "out").exists()


# Checkpoints.


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A whole checkpoint of the small student."""
    from vos.models import build
    from vos.models.checkpoint import save_checkpoint

    save_checkpoint(str(tmp_path / "checkpoint"), build("mobilevos-tiny"), {"role": "student"})
    return tmp_path / "checkpoint"


def with_another_name(checkpoint: Path) -> Path:
    text = (checkpoint / "model.json").read_text()
    (checkpoint / "model.json").write_text(text.replace("mobilevos-tiny", "teacher-small"))
    return checkpoint / "model.json"


def with_an_unknown_name(checkpoint: Path) -> str:
    (checkpoint / "model.json").write_text('{"model": "mobilevos-huge"}')
    return "mobilevos-huge"


def without_its_description(checkpoint: Path) -> Path:
    (checkpoint / "model.json").unlink()
    return checkpoint


def without_itself(checkpoint: Path) -> Path:
    shutil.rmtree(checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ("job", "flag"), [("evaluate", "--checkpoint"), ("cache", "--teacher.checkpoint"), ("train", "--init")]
)
@pytest.mark.parametrize(
    "damage",
    [
        with_another_name,
        with_an_unknown_name,
        without_its_description,
        without_itself,
        lambda checkpoint: truncate(checkpoint / "model.safetensors"),
        lambda checkpoint: truncate(checkpoint / "model.json"),
    ],
    ids=lambda damage: damage.__name__.strip("<>"),
)
def test_a_checkpoint_that_does_not_fit_is_named_and_nothing_is_written(
    job: str,
    flag: str,
    damage: Callable[[Path], Path | str],
    checkpoint: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    named, out = str(damage(checkpoint)), tmp_path / "out"
    assert_refused(capfd, job, ["--preset", "smoke", flag, str(checkpoint), "--out", str(out)], named)
    assert not out.exists()


def test_training_starts_from_no_other_architecture(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    argv = ["--init", str(checkpoint), "--model", "teacher-small", "--out", str(tmp_path / "out")]
    assert "--model mobilevos-tiny" in assert_refused(capfd, "train", argv, str(checkpoint))
    argv = ["--model", "mobilevos-huge", "--out", str(tmp_path / "out")]
    assert "mobilevos-tiny" in assert_refused(capfd, "train", argv, "mobilevos-huge")
    assert not (tmp_path / "out").exists()


# Scoring two folders.


def test_masks_that_cannot_be_scored_are_named(davis: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    truth, predicted, out = davis / "Annotations/480p", tmp_path / "predicted", tmp_path / "out"

    def refused(named: str, *flags: str) -> None:
        given = ["--gt", str(truth), "--pred", str(predicted), "--out", str(out), *flags]
        assert_refused(capfd, "score", given, named)
        assert not out.exists()

    refused(str(predicted))
    shutil.copytree(truth, predicted)
    path = predicted / OTHER_VIDEO / "00002.png"
    write_mask(str(path), np.ones((24, 32), np.uint8))
    refused(str(path))
    truncate(path)
    refused(str(path))
    path.unlink()
    refused(str(path), "--strict")
    assert_refused(capfd, "score", ["--gt", str(tmp_path / "no-gt"), "--pred", str(predicted)], "no-gt")
    assert_refused(capfd, "score", ["--gt", str(truth)], "--pred")


# The same through real processes, once: nothing else may reach stderr there, at start or at exit.


def test_real_processes_exit_with_2_and_one_line(checkpoint: Path, tmp_path: Path):
    missing = str(tmp_path / "missing")
    truncate(checkpoint / "model.safetensors")
    commands = {
        missing: ["cache", "--data.root", missing],
        f"{missing}/manifest.json": ["tune", "--cache", missing],
        str(checkpoint / "model.safetensors"): ["evaluate", "--checkpoint", str(checkpoint)],
    }
    environment = {**os.environ, "MOBILEVOS_HOME": str(tmp_path / "home")}
    running = {
        named: subprocess.Popen(
            [sys.executable, "-m", f"jobs.{argv[0]}", *argv[1:]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for named, argv in commands.items()
    }
    for named, process in running.items():
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2 and out == ""
        assert err.startswith("error: ") and err.count("\n") == 1 and named in err
    assert not (tmp_path / "home").exists()
