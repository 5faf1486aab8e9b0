"""The command that checks everything: its outcome is its exit code, and what it cannot check it says."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.verify import main
from pipelines.studies import verification
from vos.config import VerifyConfig
from vos.errors import InputError
from vos.metrics.davis import score_folders
from vos.published.bounds import Figure

OK, BAD = Figure("a claim", 1e-7, "<=", 1e-6), Figure("another", 3, "=", 4)
MISSING = Figure("a third", None, "=", "-", how="no file")


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_check_is_met_on_this_machine(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    named = ["--golden", str(shared / "golden"), "--weights", str(shared / "data" / "weights")]
    assert main([*named, "--data.root", str(shared / "data" / "DAVIS"), "--strict", "--out", str(tmp_path)]) == 0
    *rows, last = capsys.readouterr().out.splitlines()[1:]
    assert all("  ok" in row for row in rows)
    assert last == f"{len(rows)} checks: {len(rows)} ok, 0 FAILED, 0 skipped"
    written = json.loads((tmp_path / "checks.json").read_text())
    assert [check["outcome"] for check in written] == ["ok"] * len(rows)


@pytest.mark.parametrize(
    ("found", "flags", "code"),
    [
        ([OK, OK], [], 0),
        ([OK, BAD, OK], [], 1),
        ([OK, MISSING], [], 0),
        ([OK, MISSING], ["--strict"], 1),
        ([BAD, MISSING], ["--strict"], 1),
    ],
)
def test_the_exit_code_tells_whether_every_check_is_met(
    found: list[Figure],
    flags: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(verification, "all_checks", lambda *_: iter(found))
    assert main(flags) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found) + 2
    for line, check in zip(lines[1:], found, strict=False):
        assert line.startswith(check.name) and verification.check_line(check) == line


def test_a_row_holds_the_figure_the_bound_and_the_outcome_in_columns():
    rows = [verification.check_line(check) for check in (OK, BAD, MISSING)]
    assert [row.split() for row in rows] == [
        ["a", "claim", "1.0e-07", "<=", "1e-06", "ok"],
        ["another", "3", "=", "4", "FAILED"],
        ["a", "third", "-", "=", "-", "skipped:", "no", "file"],
    ]
    assert len({row.index(word) for row, word in zip(rows, ("ok", "FAILED", "skipped"), strict=True)}) == 1


def test_a_row_is_told_before_the_next_check_is_measured(monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []

    def measured(*_) -> Iterator[Figure]:
        for number in range(3):
            assert len(told) == 1 + number
            yield OK

    monkeypatch.setattr(verification, "all_checks", measured)
    assert verification.verify(VerifyConfig(), tell=told.append)


def test_without_files_their_checks_are_skipped_with_the_reason():
    skipped = [
        *verification.stcn_checks(None),
        *verification.trunk_checks(None, None),
        *verification.evaluator_checks(None, workers=1),
    ]
    assert all(check.value is None for check in skipped)
    assert [flag for flag in ("--golden", "--weights") if any(flag in check.how for check in skipped)] == [
        "--golden",
        "--weights",
    ]
    assert verification.frames_root(VerifyConfig()) is None


@pytest.mark.parametrize("flag", ["--golden", "--weights", "--data.root"])
def test_a_path_that_was_named_and_does_not_exist_is_an_error_before_any_check(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([flag, str(tmp_path / "absent")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {flag} {tmp_path / 'absent'}: no such") and output.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_named_before_any_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("kept")
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    output = capsys.readouterr()
    assert output.out == "" and str(tmp_path / "file" / "out") in output.err and output.err.count("\n") == 1


def test_nothing_in_a_folder_of_golden_numbers_is_executed(shared: Path, tmp_path: Path):
    folder = tmp_path / "golden"
    shutil.copytree(shared / "golden" / "stcn", folder / "stcn", ignore=shutil.ignore_patterns("case_[b-z]*"))
    (folder / "recipe.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    assert next(verification.stcn_checks(folder)).met and not (tmp_path / "it-ran").exists()


def test_a_folder_without_golden_numbers_is_named(tmp_path: Path):
    for group in (verification.stcn_checks(tmp_path), verification.evaluator_checks(tmp_path, workers=1)):
        with pytest.raises(InputError, match="give"):
            list(group)


@pytest.fixture
def golden(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One golden sequence of the evaluator, in a copy that a test may spoil; no speed is measured."""
    folder = tmp_path / "golden"
    for kind in ("gt", "pred"):
        shutil.copytree(shared / "golden/davis_eval" / kind / "blackswan", folder / "davis_eval" / kind / "blackswan")
    lines = (shared / "golden/davis_eval/scores.csv").read_text().splitlines(keepends=True)
    (folder / "davis_eval/scores.csv").write_text("".join([lines[0], *(x for x in lines if x.startswith("blackswan"))]))
    monkeypatch.setattr(verification, "CHECKOUT", tmp_path)
    return folder


def outcomes(golden: Path) -> list[str]:
    found = list(verification.evaluator_checks(golden, workers=1))
    return [verification._outcome(check) for check in found]


def test_scores_are_compared_with_the_official_table_and_speed_needs_a_checkout(golden: Path):
    assert outcomes(golden) == ["ok", "ok", "skipped"]


@pytest.mark.parametrize("spoilt", ["one figure in the sixth decimal", "an object more"])
def test_scores_unlike_the_official_table_are_noticed(golden: Path, spoilt: str):
    path = golden / "davis_eval/scores.csv"
    *figures, last = score_folders(golden / "davis_eval/gt", golden / "davis_eval/pred").rows()[0]
    if spoilt == "an object more":
        path.write_text(path.read_text() + "blackswan,2,0,0,0,0,0,0\n")
        assert outcomes(golden)[:2] == ["FAILED", "FAILED"]
    else:
        path.write_text(path.read_text().splitlines()[0] + "\n" + ",".join(map(str, (*figures, last + 2e-6))) + "\n")
        assert outcomes(golden)[:2] == ["ok", "FAILED"]


def test_trunk_weights_are_checked_without_frames_and_the_frames_reported_missing(shared: Path):
    weights = shared / "data/weights" / verification.IMAGENET_FILE
    *found, last = verification.trunk_checks(weights, None)
    assert all(check.met for check in found)
    assert last.value is None and "--data.root" in last.how
