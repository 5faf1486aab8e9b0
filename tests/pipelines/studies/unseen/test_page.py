"""docs/unseen.md from made-up records, and the whole way from data to page."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.studies.protocols import records as results_records
from pipelines.studies.protocols import study
from pipelines.studies.protocols.families import Families
from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.records import Record
from pipelines.studies.unseen import page as unseen_page
from pipelines.studies.unseen.card import card
from pipelines.studies.unseen.claims import ELSEWHERE, claims, looks
from pipelines.studies.unseen.folds import FOLDS
from pipelines.studies.unseen.plan import plan
from pipelines.studies.unseen.plots import PLOTS
from pipelines.studies.unseen.recipes import RECIPES
from tests.conftest import ROOT
from tests.pipelines.studies.protocols.made_up_results import records_of
from vos.config import ReportConfig
from vos.config.presets import preset
from vos.errors import InputError
from vos.published.bounds import BELOW, NOT_RUN, REACHED

RECIPE = RECIPES["davis-cpu"]
SECTIONS = (
    "Protocol",
    "Targets",
    "Choice folds",
    "Validation sequences",
    "Labelled videos",
    "Paired comparisons",
    "Cost",
    "Not run",
)


def score(planned: Planned, place: int) -> float:
    """New recipes are 8 points better than today's, distilled students 6 points better than plain ones."""
    assert planned.videos is not None
    level = 0.74 + 0.02 * place + 0.001 * planned.seed
    level += 0.0 if "before" in planned.name else 0.08
    return level + (0.1 if planned.kind == "teacher" else 0.06 if planned.name.startswith("both") else 0.0)


@pytest.fixture(scope="module")
def runs() -> list[Planned]:
    return plan("davis-cpu")


@pytest.fixture
def config(tmp_path: Path, store: str) -> ReportConfig:
    return ReportConfig(out=str(tmp_path / "out"), docs=str(tmp_path / "docs" / "unseen"))


@pytest.fixture
def page_of(
    runs: list[Planned], config: ReportConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Record]], str]:
    """The page of some records, without plots: they take seconds."""
    monkeypatch.setattr(unseen_page, "write_plots", lambda *_: [])

    def written(records: dict[str, Record]) -> str:
        unseen_page.write(config, runs, records, [])
        return Path(f"{config.docs}.md").read_text()

    return written


def test_every_section_is_there_with_and_without_records(
    runs: list[Planned], page_of: Callable[[dict[str, Record]], str]
):
    empty, full = page_of({}), page_of(records_of(runs, score))
    for page in (empty, full):
        assert [one for one in SECTIONS if f"\n## {one}" not in page] == []
    assert all(f"`{one.family}`" in empty for one in runs) and REACHED not in empty and BELOW not in empty
    assert "Nothing: every run of the plan has its record." in full and "not run" not in full
    assert "Labels of the teachers" in full and "70.2" in full and "72.4" in full


def test_the_page_of_the_records_is_always_the_same_and_has_its_pictures(runs: list[Planned], config: ReportConfig):
    records = records_of(runs, score)
    for record in records.values():
        results_records.write(config.docs, record)
    study.publish(FOLDS, config)
    files = {name: (Path(config.docs) / name).read_bytes() for name in PLOTS}
    page = Path(f"{config.docs}.md").read_text()
    study.publish(FOLDS, config)
    assert Path(f"{config.docs}.md").read_text() == page and all(f"](unseen/{name})" in page for name in files)
    assert {name: (Path(config.docs) / name).read_bytes() for name in PLOTS} == files


def test_the_looks_are_the_scored_final_models_and_nothing_else(
    runs: list[Planned], page_of: Callable[[dict[str, Record]], str]
):
    records = records_of(runs, score)
    counted = looks(Families(records))
    assert counted == {"teacher": 1, "both": 3, "plain": 3, "plain-longer": 3, "both-mobilenetv2": 1}
    assert "**Looks at the validation sequences: 11**" in page_of(records)
    on_folds = {name: one for name, one in records.items() if one["videos"]["fold"]}
    assert "**Looks at the validation sequences: 0**" in page_of(on_folds)


def judged(records: dict[str, Record]) -> dict[str, str]:
    return {one.name: one.outcome for one in claims(Families(records), RECIPE)}


def test_targets_are_judged_by_the_records_and_the_unseen_sequences_by_nobody_here(runs: list[Planned]):
    found = judged(records_of(runs, score))
    assert found["teacher − today's recipe, choice folds"] == REACHED
    assert found["distilled with unlabelled video − plain, 8 labelled videos"] == REACHED
    assert found["1.9 M student, 8 validation sequences"] == REACHED
    assert {outcome for name, outcome in found.items() if "unseen" in name} == {ELSEWHERE}
    worse = judged(records_of(runs, lambda one, place: score(one, place) - 0.06 * (one.name[:4] in ("both", "teac"))))
    assert worse["teacher − today's recipe, choice folds"] == REACHED, "both recipes lost as much"
    assert worse["distilled with unlabelled video − plain, 8 labelled videos"] == BELOW
    assert worse["1.9 M student, 8 validation sequences"] == BELOW


def test_a_target_on_the_folds_waits_for_all_of_them(runs: list[Planned]):
    records = records_of(runs, score)
    del records["teacher-before-3"]
    assert judged(records)["teacher − today's recipe, choice folds"] == f"{NOT_RUN}: 2 of 3 folds"
    assert set(judged({}).values()) == {
        NOT_RUN,
        ELSEWHERE,
        "measured by `jobs.adapt`",
        "measured by `jobs.benchmark mixture`",
    }


def test_a_record_does_not_count_for_other_videos_of_the_run(runs: list[Planned]):
    records = records_of(runs, score)
    records["teacher-n8"]["videos"]["labelled"] = 9
    lost = records.keys() - results_records.valid(runs, records).keys()
    assert {"teacher-n8", "labels-n8", "cache-n8", "both-n8-s1"} <= lost and "plain-n8-s1" not in lost
    assert results_records.changes(next(one for one in runs if one.name == "teacher-n8"), records) == [
        "videos.labelled: 9 -> 8"
    ]


def test_other_stills_change_the_runs_that_read_them_only(runs: list[Planned]):
    records = records_of(runs, score)
    for one in runs[:6]:
        before = records[one.name]
        other = results_records.identity(one, records, {**before["data"], "stills": "others"})
        assert (other == before["fingerprint"]) == ("before" in one.name)
        assert "val" not in before["data"]


@pytest.mark.parametrize("name", ["teacher", "both-s1", "both-mobilenetv2-s1"])
def test_a_card_lists_every_data_set_with_its_licence(runs: list[Planned], name: str):
    planned = next(one for one in runs if one.name == name)
    assert planned.evaluation is not None
    text = card("some-name", planned, planned.evaluation, records_of(runs, score)[name])
    for words in ("non-commercial", "Arbelaez et al. 2011", "Wang et al. 2007", "Perazzi et al. 2016", "ImageNet"):
        assert words in text
    assert f"--ship {name}" in text and "docs/unseen.md" in text and "scored on these once" in text


def test_a_model_that_learned_from_a_part_of_the_videos_does_not_ship(runs: list[Planned], config: ReportConfig):
    from pipelines.studies.protocols.ship import ship

    for record in records_of(runs, score).values():
        results_records.write(config.docs, record)
    for name in ("teacher-1", "both-n8-s1", "plain-1"):
        with pytest.raises(InputError, match=f"--ship {name}: .* has no place in the package"):
            ship(FOLDS, replace(config, ship=name))


def test_the_committed_page_is_made_from_the_committed_records(
    runs: list[Planned], page_of: Callable[[dict[str, Record]], str]
):
    records = results_records.valid(runs, results_records.read_all(str(ROOT / "docs" / "unseen")))
    without_pictures = re.sub(r"!\[[^\]]*\]\([^)]*\)\n\n", "", (ROOT / "docs" / "unseen.md").read_text())
    assert page_of(records) == without_pictures


@pytest.mark.slow
def test_a_protocol_of_seconds_runs_from_data_to_page_and_a_second_time_nothing(store: str, tmp_path: Path):
    words = ("both-n4-s1", "plain-1")
    config = replace(preset(ReportConfig, "smoke"), out=str(tmp_path / "out"), only=words).completed()
    assert study.run(FOLDS, config, tell=print)
    records = results_records.read_all(config.docs)
    begun = {"first-teacher", "first-student-s1"}
    assert begun | {"teacher-n4", "labels-n4", "cache-n4", "both-n4-s1", "plain-1"} == records.keys()
    assert records["both-n4-s1"]["teacher_forwards"] == 0 and records["labels-n4"]["labelled_videos"] == 6
    assert set(records["first-student-s1"]["data"]) == {"train", "stills"}
    assert set(records["plain-1"]["data"]) == {"train"} and "first-student-s1" in records["plain-1"]["made_from"]
    logs = {path: path.read_bytes() for path in Path(config.out, "logs").iterdir()}
    assert study.run(FOLDS, config, tell=print)
    assert {path: path.read_bytes() for path in Path(config.out, "logs").iterdir()} == logs
