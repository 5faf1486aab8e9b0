"""The page, from made-up records: what it says is what they hold, and no more."""

import csv
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.studies.davis import page as results_page
from pipelines.studies.davis import plots as results_plots
from pipelines.studies.davis.plan import SCALES, plan
from pipelines.studies.davis.results import Results
from pipelines.studies.davis.validation import VALIDATION
from pipelines.studies.protocols import records as results_records
from pipelines.studies.protocols import study as results
from pipelines.studies.protocols.planned import PRETRAINED, SEARCH, Planned
from pipelines.studies.protocols.queue import log_of
from tests.pipelines.studies.protocols.made_up_results import DATA, SEQUENCES, records_of
from vos.config import ReportConfig
from vos.config.presets import preset
from vos.errors import InputError
from vos.published.bounds import BELOW, REACHED

KNOWN = replace(VALIDATION, prepare=lambda config, _: config, fingerprints=lambda *_: DATA)
"""The protocol where the videos are those of the records."""


@pytest.fixture(scope="module")
def runs() -> list[Planned]:
    return plan("davis-cpu")


@pytest.fixture
def config(tmp_path: Path, store: str) -> ReportConfig:
    return ReportConfig(protocol="validation", out=str(tmp_path / "out"), docs=str(tmp_path / "docs" / "results"))


def published(config: ReportConfig, records: dict[str, results_records.Record]) -> str:
    """The page by the job's own way: records in their files, plots, an MLflow run."""
    for record in records.values():
        results_records.write(config.docs, record)
    results.publish(VALIDATION, config)
    return Path(f"{config.docs}.md").read_text()


@pytest.fixture
def page_of(runs: list[Planned], config: ReportConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The page of some records, without plots: they take seconds."""
    monkeypatch.setattr(results_page, "write_plots", lambda *_: [])

    def written(records: dict[str, results_records.Record], unused: Sequence[str] = ()) -> str:
        results_page.write(config, runs, records, list(unused))
        return Path(f"{config.docs}.md").read_text()

    return written


def test_without_a_record_everything_is_called_not_run(runs: list[Planned], config: ReportConfig):
    page = published(config, {})
    assert all(f"`{one.family}`" in page for one in runs)
    assert REACHED not in page and BELOW not in page and "![" not in page


def test_the_page_is_made_from_the_records_alone_and_always_the_same(
    runs: list[Planned], config: ReportConfig, tmp_path: Path
):
    records = records_of(runs)
    first = published(config, records)
    elsewhere = replace(config, out=str(tmp_path / "out 2"), docs=str(tmp_path / "other" / "results"))
    assert published(elsewhere, records) == first
    assert "Nothing: every run of the plan has its record." in first and "not run" not in first
    pictures = sorted(path.name for path in Path(config.docs).glob("*.png"))
    drawn = ("ablations", "differences", "search-density", "search-trials", "sequences", "steps")
    assert pictures == [f"{name}.png" for name in drawn]
    for name in pictures:
        assert f"](results/{name})" in first
        assert (Path(config.docs) / name).read_bytes() == (Path(elsewhere.docs) / name).read_bytes()


def test_the_main_table_has_mean_and_deviation_over_seeds(runs: list[Planned], page_of: Callable[..., str]):
    records = records_of(runs)
    page = page_of(records)
    for loss in ("plain", "both"):
        scores = [100 * records[f"full-noaspp-{loss}-s{seed}"]["figures"]["j_and_f"] for seed in (1, 2, 3)]
        assert f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}" in page
    line = next(line for line in page.splitlines() if line.startswith("| mobilevos-mobilenetv2-noaspp, plain |"))
    assert "| 1.89 M |" in line and "| 3 | 30 |" in line  # 1900 steps of 0.96 s
    assert page.count("*reported*") >= 4


def test_the_search_is_on_the_page_with_every_trial_the_best_finished_one_first(
    runs: list[Planned], page_of: Callable[..., str]
):
    records = records_of(runs)
    page = page_of(records)
    trials = records[SEARCH]["trials"]
    best = max((one for one in trials if one["status"] == "finished"), key=lambda one: one["score"])
    rows = page.split("## Search\n")[1].split("\n## ")[0].split("| --- |")[-1].strip().splitlines()
    table = [line for line in rows if line.startswith("| ")]
    assert len(table) == len(trials) and f"{100 * best['score']:.1f} | {best['step']} | finished" in table[0]


def test_a_trial_that_was_never_scored_is_listed_without_a_figure_and_not_drawn(
    runs: list[Planned], page_of: Callable[..., str]
):
    records = records_of(runs)
    failed = {**records[SEARCH]["trials"][0], "name": "diverged", "score": -1.0, "step": 0, "status": "failed"}
    with_failed = {**records, SEARCH: {**records[SEARCH], "trials": [*records[SEARCH]["trials"], failed]}}
    page = page_of(with_failed)
    assert "| - | 0 | failed |" in page and "-100.0" not in page
    drawn = [results_plots.search_plots(Results("davis-cpu", found)) for found in (records, with_failed)]
    assert drawn[0] == drawn[1]


def test_the_sheet_has_every_sequence_of_every_scored_run(
    runs: list[Planned], config: ReportConfig, page_of: Callable[..., str]
):
    page_of(records_of(runs))
    with open(Path(config.docs) / "sequences.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scored = [one for one in runs if one.kind not in ("cache", "search")]
    assert {(row["run"], row["sequence"]) for row in rows} == {(o.name, s) for o in scored for s in SEQUENCES}


def test_a_record_that_no_longer_counts_is_left_out_and_named(runs: list[Planned], config: ReportConfig):
    records = records_of(runs)
    records["short-w0-s1"]["config"]["loss"]["w"] = 0.3
    page = published(config, records)
    assert "- `short-w0`: s1\n" in page and page.rstrip().endswith("another configuration now: `short-w0-s1`.")


def test_speed_comes_from_the_benchmark_s_rows_and_only_from_there(
    runs: list[Planned], config: ReportConfig, page_of: Callable[..., str]
):
    records = records_of(runs)
    assert "| - | - | - / - |" in page_of(records)
    names = {"stcn": 1.0, "mobilevos-mobilenetv2-noaspp": 12.5}
    rows = [
        {"system": name, "protocol": protocol, "objects": 1, "ms_per_frame_median": 1000 / fps}
        for name, fps in names.items()
        for protocol in ("short", "long")
    ]
    (Path(config.docs) / "fps.json").write_text(json.dumps(rows))
    assert "| 12.5 | 12.5 | 12.5 / 12.5 |" in page_of(records)


def test_the_plan_is_listed_with_the_state_of_every_run(runs: list[Planned], config: ReportConfig):
    records = records_of(runs)
    for name in ("teacher", "cache-main"):
        results_records.write(config.docs, records[name])
    failed = Path(log_of(config.out, "full-noaspp-plain-s1"))
    failed.parent.mkdir(parents=True)
    failed.write_text("step 1\rstep 2\nerror: the disk is full\n\n")
    lines = {line.split()[0]: line for line in results.listed(VALIDATION, config).splitlines() if line.strip()}
    assert lines.keys() >= {one.name for one in runs}
    assert "finished" in lines["teacher"] and "waiting" in lines["full-noaspp-both-s1"]
    assert "failed" in lines["full-noaspp-plain-s1"] and "disk is full" in lines["full-noaspp-plain-s1"]
    assert "for cache-short" in lines["short-both-s1"]
    assert f"2 of {len(runs)} runs finished" in results.listed(VALIDATION, config)
    assert "memory-first-both-s1" not in results.listed(VALIDATION, replace(config, only=("short",)))
    # Records do not ask what the file of the ImageNet weights is called on this machine.
    assert results.listed(VALIDATION, replace(config, trunk_weights="/elsewhere/weights.pth")) == results.listed(
        VALIDATION, config
    )


def test_real_video_is_asked_for_before_anything_is_run(config: ReportConfig, tmp_path: Path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    with pytest.raises(InputError, match="DAVIS_ROOT"):
        results.run(VALIDATION, replace(config, trunk_weights=str(weights)), tell=print)
    with pytest.raises(InputError, match="--trunk-weights .*no such file"):
        results.run(VALIDATION, replace(config, trunk_weights=str(tmp_path / "nowhere")), tell=print)
    assert not Path(config.out).exists()


@pytest.mark.parametrize("option", ["out", "docs"])
def test_a_folder_at_a_uri_is_refused_before_anything_is_run(config: ReportConfig, option: str):
    with pytest.raises(InputError, match=f"--{option} s3://bucket/x: .*give a local folder"):
        results.run(VALIDATION, replace(config, **{option: "s3://bucket/x"}), tell=print)  # type: ignore[arg-type]


def test_records_of_two_data_sets_are_not_put_into_one_table(runs: list[Planned], config: ReportConfig):
    records = records_of(runs)
    plain = records["short-plain-s1"]
    records["short-plain-s1"] = plain | {"data": {**plain["data"], "val": "digest of a full DAVIS"}}
    with pytest.raises(InputError, match="teacher and short-plain-s1 are of different videos"):
        published(config, records)


def test_a_model_that_is_on_another_machine_is_named_before_anything_is_run(config: ReportConfig):
    smoke = replace(config, preset="smoke", data=preset(ReportConfig, "smoke").data, only=("memory-first-plain-s1",))
    records = records_of(plan("smoke"))
    del records["memory-first-plain-s1"]
    for record in records.values():
        results_records.write(config.docs, record)
    with pytest.raises(
        InputError,
        match="full-noaspp-plain-s1 has a record, but its result is not on this machine; .* delete .*plain-s1.json",
    ):
        results.run(KNOWN, smoke, tell=print)
    Path(config.docs, "runs", "short-both-s1.json").unlink()  # its cache is not here either, but that can be made again
    with pytest.raises(InputError, match="teacher has a record, .*copy it from"):
        results.run(KNOWN, replace(smoke, only=("short-both-s1",)), tell=print)


def test_records_of_other_videos_are_neither_built_upon_nor_written_over(config: ReportConfig):
    smoke = replace(config, preset="smoke", data=preset(ReportConfig, "smoke").data, only=("short-plain-s1",))
    for record in records_of(plan("smoke")).values():
        results_records.write(config.docs, record)
    with pytest.raises(InputError, match="not the videos that the records in .*teacher, .*give --docs and --out"):
        results.run(VALIDATION, smoke, tell=print)


def test_records_that_began_with_other_weights_of_the_same_name_are_not_built_upon(
    runs: list[Planned], config: ReportConfig, tmp_path: Path
):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"others")
    teacher = records_of(runs[:1])["teacher"]
    results_records.write(config.docs, teacher | {"trunk_weights": {"file": PRETRAINED, "sha256": "0" * 64}})
    with pytest.raises(InputError, match="--trunk-weights .*not the file"):
        results.run(KNOWN, replace(config, trunk_weights=str(weights)), tell=print)


@pytest.mark.parametrize(
    "change", [{"threads": 2}, {"seed": 3}, {"list": True, "page": True}, {"run": "teacher", "ship": "teacher"}]
)
def test_what_the_protocol_fixes_is_no_choice(change: dict):
    with pytest.raises(InputError, match="leave them out|give only one of them"):
        ReportConfig(**change)


@pytest.mark.slow
def test_a_protocol_of_seconds_runs_from_teacher_to_page_and_a_second_time_nothing(store: str, tmp_path: Path):
    words = ("short-both-s1", "short-plain-s1", "memory-recent-both-s1", "search")
    base = preset(ReportConfig, "smoke")
    config = replace(
        base, protocol="validation", out=str(tmp_path / "out"), docs=str(tmp_path / "docs" / "results"), only=words
    )
    said: list[str] = []
    assert results.run(VALIDATION, config, tell=said.append)
    records = results_records.read_all(config.docs)
    assert {"teacher", "cache-main", "cache-short", *words} < records.keys()
    assert records["cache-short"]["draws_made"] == records["cache-short"]["draws"]
    assert records["cache-short"]["teacher_cpu_s"] > 0
    assert records["short-both-s1"]["teacher_forwards"] == 0
    assert str(SCALES["smoke"].short) == str(records["short-both-s1"]["steps"])
    logs = {path: path.read_bytes() for path in Path(config.out, "logs").iterdir()}
    assert results.run(VALIDATION, config, tell=said.append)
    assert {path: path.read_bytes() for path in Path(config.out, "logs").iterdir()} == logs

    # On another machine: the records are there, the cache is not.
    def without_the_cache() -> None:
        (cache,) = Path(config.out, "runs").glob("cache-short-*")
        shutil.rmtree(cache)
        Path(config.docs, "runs", "short-both-s1.json").unlink()

    without_the_cache()
    assert results.run(VALIDATION, config, tell=said.append)
    found = results_records.read_all(config.docs)
    assert found["cache-short"] == records["cache-short"], "made again, its record is that of the first time"
    assert found["short-both-s1"]["fingerprint"] == records["short-both-s1"]["fingerprint"]
    without_the_cache()
    results_records.write(config.docs, records["cache-short"] | {"cache": "another"})
    assert not results.run(VALIDATION, config, tell=said.append)
    assert any("made again, cache-short is" in line and "its record's was another" in line for line in said)


def test_a_run_that_needs_another_first_or_is_not_of_the_plan_is_refused(config: ReportConfig):
    smoke = replace(config, preset="smoke", data=preset(ReportConfig, "smoke").data)
    with pytest.raises(InputError, match="short-both-s1: needs cache-short first"):
        results.run_one(VALIDATION, replace(smoke, run="short-both-s1"))
    with pytest.raises(InputError, match="--run nonsense: no run of the plan"):
        results.run_one(VALIDATION, replace(smoke, run="nonsense"))
