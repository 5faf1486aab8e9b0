"""What the user has in the way of an output: every job refuses it in one line, before any work, and leaves it as it is."""

import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from pipelines.runtime.output_folder import NOTHING, OutputFile, mark
from pipelines.studies.protocols.records import docs_folder
from vos.data.synthetic import main as synthetic
from vos.data.synthetic import synthetic_index, write_davis
from vos.files.written import LEDGER, Written
from vos.media.images import write_mask
from vos.models import build
from vos.models.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _own_store(store: str) -> None:
    """The session's MLflow store."""


def run(job: str, *argv: str) -> int:
    return import_module(f"jobs.{job}").main(list(argv))


def content(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes() for path in found
    }


def assert_refused(capfd: pytest.CaptureFixture[str], said: str, job: str, *argv: str) -> None:
    capfd.readouterr()
    assert run(job, *argv) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert said in err, err


FLAGS: dict[str, tuple[str, ...]] = {
    "cache": ("--preset", "smoke"),
    "check": ("--preset", "smoke"),
    "train": ("--preset", "smoke"),
    "evaluate": ("--preset", "smoke", "--checkpoint", "copy"),
    "export": ("--preset", "smoke"),
    "demo": ("--preset", "smoke"),
    "label": ("--preset", "smoke"),
    "adapt": ("--preset", "smoke"),
    "benchmark": ("cache", "--preset", "smoke"),
    "report": ("--preset", "smoke", "--page"),
    "verify": (),
}


@pytest.mark.parametrize("name", ["README.md", "pages/mine.txt", "identity.json", "result.json", "masks/a.png"])
@pytest.mark.parametrize("job", FLAGS)
def test_a_folder_of_the_users_is_never_taken_for_an_output(
    job: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    docs = ("--docs", str(tmp_path / "docs" / "results")) if job == "report" else ()
    assert_refused(capfd, str(out), job, *FLAGS[job], *docs, "--out", str(out))
    assert content(tmp_path) == {f"out/{name}": b"mine"}


@pytest.mark.parametrize(("job", "place"), [("demo", "work"), ("report", "runs"), ("benchmark", "train-cache")])
def test_folders_that_other_jobs_work_in_are_no_links(
    job: str, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    theirs.mkdir()
    mark(Written(str(out), job), NOTHING)
    (out / place).symlink_to(theirs)
    docs = ("--docs", str(tmp_path / "docs" / "results")) if job == "report" else ()
    assert_refused(capfd, f"{place}: is a link to elsewhere", job, *FLAGS[job], *docs, "--out", str(out))
    assert content(theirs) == {}


def test_a_search_whose_winner_was_edited_is_refused_before_any_trial(
    cache: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    mark(Written(str(out), "tune"), NOTHING)
    argv = ("--preset", "smoke", "--cache", cache, "--out", str(out))
    (out / "best.json").write_text('{"steps": 7}')
    assert_refused(capfd, "best.json would be replaced", "tune", *argv)
    (out / "best.json").unlink()
    (out / "trials").symlink_to(tmp_path)
    assert_refused(capfd, "trials: is a link to elsewhere", "tune", *argv)


def test_the_search_refuses_a_folder_of_the_users(cache: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "notes.txt").write_text("mine")
    assert_refused(capfd, "notes.txt", "tune", "--preset", "smoke", "--cache", cache, "--out", str(tmp_path))
    assert content(tmp_path) == {"notes.txt": b"mine"}


@pytest.fixture(scope="module")
def evaluated(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished evaluation, which is copied and not changed."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert run("evaluate", "--preset", "smoke", "--checkpoint", "copy", "--out", str(out)) == 0
    return out


def test_an_evaluation_keeps_what_the_user_put_beside_its_pages_and_refuses_what_is_in_the_way(
    evaluated: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out = shutil.copytree(evaluated, tmp_path / "out")
    argv = ("--preset", "smoke", "--checkpoint", "copy", "--out", str(out))
    before = content(out)
    assert {"pages/sequences.csv", "summary.json"} <= before.keys()
    mine = {"pages/mine.txt": b"mine", "masks/notes.txt": b"mine"}
    for name in mine:
        (out / name).write_text("mine")
    assert run("evaluate", *argv) == 0, "the same command again"
    after = content(out)
    assert mine.items() <= after.items() and before.keys() | mine.keys() == after.keys()
    mask = next(name for name in after if name.startswith("masks/") and name.endswith("00002.png"))
    for name in ("scores.csv", "pages/sequences.csv", "summary.json", mask):
        (out / name).write_bytes(b"edited")
        assert_refused(capfd, name, "evaluate", *argv)
        assert (out / name).read_bytes() == b"edited" and content(out) == after | {name: b"edited"}
        (out / name).write_bytes(bytes(after[name]))  # type: ignore[arg-type]
    (out / "scores.csv").write_bytes(b"edited")
    assert run("evaluate", *argv, "--overwrite") == 0
    assert (out / "scores.csv").read_bytes() == after["scores.csv"] and (out / "masks/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["masks", "pages", "identity.json", "summary.json"])
def test_a_link_in_an_evaluations_folder_is_not_followed(
    place: str, evaluated: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out, theirs = shutil.copytree(evaluated, tmp_path / "out"), tmp_path / "theirs"
    argv = ("--preset", "smoke", "--checkpoint", "copy", "--out", str(out))
    (out / place).rename(theirs)
    (out / place).symlink_to(theirs)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert_refused(capfd, place, "evaluate", *argv)
    assert {path: path.read_bytes() for path in before} == before and (out / place).is_symlink()


@pytest.fixture
def scored(tmp_path: Path) -> tuple[str, ...]:
    for index in range(4):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 10:30] = 1
        write_mask(str(tmp_path / f"masks/v/{index:05d}.png"), labels)
    return ("--gt", str(tmp_path / "masks"), "--pred", str(tmp_path / "masks"))


def test_a_table_of_the_users_is_not_replaced_and_one_of_ours_is(
    scored: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    table = tmp_path / "scores.csv"
    argv = (*scored, "--csv", str(table))
    assert run("score", *argv) == run("score", *argv) == 0, "the same command twice"
    ours = table.read_bytes()
    table.write_text("mine")
    assert_refused(capfd, "scores.csv", "score", *argv)
    assert table.read_text() == "mine"
    assert run("score", *argv, "--overwrite") == 0 and table.read_bytes() == ours
    out = tmp_path / "out"
    assert run("score", *scored, "--out", str(out)) == run("score", *scored, "--out", str(out)) == 0


@pytest.mark.parametrize("what", ["cache", "train", "fps"])
def test_a_benchmark_refuses_a_file_of_the_users_for_its_rows(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    rows = tmp_path / "rows.json"
    rows.write_text("mine")
    argv = (what, "--preset", "smoke", "--json", str(rows), "--out", str(tmp_path / "out"))
    assert_refused(capfd, "rows.json", "benchmark", *argv)
    assert rows.read_text() == "mine" and not (tmp_path / "out").exists()


@pytest.fixture
def clip(tmp_path: Path) -> tuple[str, ...]:
    """The arguments that segment a folder of five frames with a small network."""
    (video,) = synthetic_index(1, 5, (48, 64))
    write_davis([video], str(tmp_path / "data"), "val")
    save_checkpoint(str(tmp_path / "model"), build("mobilevos-tiny"), {"role": "student"})
    frames = str(tmp_path / "data/JPEGImages/480p" / video.name)
    mask = str(tmp_path / "data/Annotations/480p" / video.name / "00000.png")
    return (frames, "--first-mask", mask, "--model", str(tmp_path / "model"), "--runtime", "eager", "--threads", "1")


def test_segmenting_replaces_only_what_it_wrote(
    clip: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out, masks = tmp_path / "o.mp4", tmp_path / "o-masks"
    argv = (*clip, "--out", str(out))
    assert run("segment", *argv) == run("segment", *argv) == 0, "the same command twice"
    ours = {path: path.read_bytes() for path in (out, masks / "00002.png")}
    for path, data in ours.items():
        path.write_bytes(b"mine")
        assert_refused(capfd, path.name, "segment", *argv)
        assert path.read_bytes() == b"mine"
        path.write_bytes(data)
    shutil.rmtree(masks)
    masks.mkdir()
    (masks / "notes.txt").write_text("mine")
    assert_refused(capfd, "notes.txt", "segment", *argv)
    assert run("segment", *argv, "--overwrite") == 0 and (masks / "notes.txt").read_text() == "mine"


def test_masks_are_not_written_through_a_link(clip: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "o-masks").symlink_to(tmp_path / "theirs")
    (tmp_path / "theirs" / "00000.png").write_text("mine")
    assert_refused(capfd, "o-masks", "segment", *clip, "--out", str(tmp_path / "o.mp4"))
    assert content(tmp_path / "theirs") == {"00000.png": b"mine"}


def test_synthetic_videos_are_written_over_nothing_of_the_users(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def write(*argv: str) -> int:
        small = ("--videos", "1", "--frames", "2", "--height-px", "32", "--width-px", "32")
        monkeypatch.setattr("sys.argv", ["synthetic", "--out", str(tmp_path / "out"), *small, *argv])
        try:
            synthetic()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    assert write() == write() == write("--split", "val") == 0
    frame = next((tmp_path / "out").rglob("train-*/00001.jpg"))
    frame.write_text("mine")
    assert write() == 2 and "00001.jpg" in capfd.readouterr().err and frame.read_text() == "mine"
    assert write("--overwrite") == 0 and frame.stat().st_size > 100
    assert write("--split", "../../elsewhere") == 2 and capfd.readouterr().err.count("\n") == 1
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert write() == 2 and "notes.txt" in capfd.readouterr().err


def test_the_page_and_its_plots_are_replaced_and_an_edited_page_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    argv = ("--preset", "smoke", "--page", "--docs", str(tmp_path / "docs/results"), "--out", str(tmp_path / "out"))
    assert run("report", *argv) == run("report", *argv) == 0
    page = tmp_path / "docs/results.md"
    page.write_text("mine")
    assert_refused(capfd, "results.md", "report", *argv)
    assert page.read_text() == "mine"
    assert run("report", *argv, "--overwrite") == 0 and page.read_text() != "mine"


def test_the_committed_results_are_the_reports_own():
    """So that `jobs.report --page` needs no --overwrite in a checkout; after an edit by hand, it does once."""
    docs = ROOT / "docs"
    results = [path for path in (docs / "results").rglob("*") if path.is_file() and path.name != LEDGER]
    names = [str(path.relative_to(docs)) for path in (docs / "results.md", *results)]
    folder = docs_folder(str(docs / "results"))
    assert [name for name in names if not folder.owns(name)] == ["results/fps.json"], "which jobs.benchmark writes"
    OutputFile(str(docs / "results/fps.json"), "benchmark", overwrite=False).check()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "identity": lambda out: (out / "identity.json").write_text('{"identity": ' + "1" * 400),
    "marked by another job": lambda out: (out / "identity.json").write_text(
        json.dumps({"identity": {}, "seal": {"job": "train", "of": "", "sha256": ""}})
    ),
    "a list": lambda out: (out / "identity.json").write_text("[" * 9000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_mark_of_a_cache_is_refused(
    damage: str, cache: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out = Path(shutil.copytree(cache, tmp_path / "out"))
    DAMAGES[damage](out)
    before = content(out)
    argv = ("--preset", "smoke", "--draws", "10", "--out", str(out))
    assert_refused(capfd, "identity.json", "cache", *argv)
    assert content(out) == before


def test_a_file_in_the_place_of_a_shard_is_not_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    mark(Written(str(tmp_path / "out"), "cache"), NOTHING)  # as --plan does
    shard = tmp_path / "out" / "shards" / "shard-000000.parquet"
    shard.parent.mkdir()
    shard.write_text("mine")
    assert run("cache", "--preset", "smoke", "--out", str(tmp_path / "out")) == 2
    assert "error: " in (line := capfd.readouterr().err.splitlines()[-1]) and "shard-000000.parquet would be" in line
    assert shard.read_text() == "mine"
