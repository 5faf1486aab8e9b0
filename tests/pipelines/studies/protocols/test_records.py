"""Records: what makes one count, what makes it another run's, and that files give back what was written."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.studies.davis.plan import plan
from pipelines.studies.protocols import records as results_records
from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.records import Record
from tests.pipelines.studies.protocols.made_up_results import DATA, records_of
from vos.config import EvaluateConfig, TrainConfig
from vos.errors import InputError


@pytest.fixture(scope="module")
def runs() -> list[Planned]:
    return plan("davis-cpu")


@pytest.fixture
def records(runs: list[Planned]) -> dict[str, Record]:
    return records_of(runs)


def named(runs: list[Planned], name: str) -> Planned:
    return next(one for one in runs if one.name == name)


def test_records_that_were_written_are_read_back_and_count(
    runs: list[Planned], records: dict[str, Record], tmp_path: Path
):
    for record in records.values():
        results_records.write(str(tmp_path), record)
    found = results_records.read_all(str(tmp_path))
    assert found == records
    assert results_records.valid(runs, found) == records
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(f"{name}.json" for name in records)


def test_a_record_of_another_configuration_does_not_count_and_neither_does_what_was_made_from_it(
    runs: list[Planned], records: dict[str, Record]
):
    teacher = named(runs, "teacher")
    assert isinstance(teacher.job, TrainConfig)
    other = [
        replace(one, job=replace(teacher.job, steps=teacher.job.steps + 1)) if one == teacher else one for one in runs
    ]
    valid = results_records.valid(other, records)
    # Plain students are made from no teacher.
    assert valid and valid.keys() == {one.name for one in runs if "plain" in one.name}
    assert results_records.changes(other[0], records) == [f"steps: {teacher.job.steps} -> {teacher.job.steps + 1}"]


def test_what_was_made_from_another_run_of_the_same_name_does_not_count(
    runs: list[Planned], records: dict[str, Record]
):
    records["cache-uniform"]["fingerprint"] = "another"
    lost = records.keys() - results_records.valid(runs, records).keys()
    assert lost == {one.name for one in runs if "cache-uniform" in one.needs}


def test_what_was_made_from_a_result_that_was_made_again_does_not_count(
    runs: list[Planned], records: dict[str, Record]
):
    """Of the same configuration: retrained on another machine, or after its record was deleted."""
    older = {name: {k: v for k, v in record.items() if k != "results"} for name, record in records.items()}
    for found in (records, older):
        found["full-noaspp-both-s1"] = found["full-noaspp-both-s1"] | {"mlflow_run": "another"}
    lost = records.keys() - results_records.valid(runs, records).keys()
    assert lost == {one.name for one in runs if "full-noaspp-both-s1" in one.needs} != set()
    assert results_records.valid(runs, older).keys() == older.keys(), (
        "records from before this was kept count as they did"
    )


def test_other_videos_are_other_runs(runs: list[Planned], records: dict[str, Record]):
    others = {**DATA, "val": "other videos"}
    for one in runs:
        assert results_records.identity(one, records, DATA) == records[one.name]["fingerprint"]
        assert results_records.identity(one, records, others) != records[one.name]["fingerprint"]


def test_the_manner_of_running_is_not_a_part_of_a_run(runs: list[Planned]):
    job = named(runs, "short-both-s1").job
    assert isinstance(job, TrainConfig)
    other = replace(job, out="/elsewhere", here=False, checkpoint_every=7, debug=True, max_failures=9)
    assert results_records.lasting(other) == results_records.lasting(job)


def test_an_option_that_is_newer_than_a_record_had_its_default(runs: list[Planned], records: dict[str, Record]):
    older = copy.deepcopy(records)
    for record in older.values():
        if "loss" in record["config"]:
            del record["config"]["teacher_online"], record["config"]["loss"]["poly"]
        if "evaluation" in record and not record["evaluation"]["memory"]["include_last"]:
            del record["evaluation"]["memory"]["include_last"]  # what is left may be the default
    valid = results_records.valid(runs, older)
    assert valid.keys() == {name for name in records if "online" not in name}


def test_a_digest_does_not_name_defaults_so_that_a_new_option_leaves_it(
    runs: list[Planned], records: dict[str, Record], monkeypatch: pytest.MonkeyPatch
):
    one = named(runs, "short-both-s1")
    before = results_records.identity(one, records, DATA)
    plain = results_records.lasting
    monkeypatch.setattr(results_records, "lasting", lambda *jobs: plain(*jobs) | {"newer": "the default"})
    assert results_records.identity(one, records, DATA) == before


def test_the_evaluation_is_a_part_of_the_run(runs: list[Planned], records: dict[str, Record]):
    one = named(runs, "short-both-s1")
    assert isinstance(one.evaluation, EvaluateConfig)
    other = replace(one, evaluation=replace(one.evaluation, size_px=480))
    assert not results_records.is_valid(other, records) and results_records.is_valid(one, records)
    engine = replace(one.evaluation, runtime="openvino")
    assert results_records.lasting(replace(engine, precision="bf16")) != results_records.lasting(engine)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 99, "fingerprint": "x"}', '{"format": 1}', '{"format": 1, "fingerprint": "x"}']
)
def test_a_damaged_record_is_named(text: str, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "teacher.json").write_text(text)
    with pytest.raises(
        InputError, match="teacher.json: (not a record|not JSON .*this record|holds .* instead of an object)"
    ):
        results_records.read_all(str(tmp_path))
