"""A finished run's model in the package, with a card that tells its record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.runtime.models import load_model
from pipelines.studies.davis.plan import plan
from pipelines.studies.davis.validation import VALIDATION
from pipelines.studies.protocols import records as results_records
from pipelines.studies.protocols import ship as results_ship
from pipelines.studies.protocols.planned import TEACHER
from pipelines.studies.protocols.site import Site
from pipelines.training.launch import run_identity
from tests.pipelines.studies.protocols.made_up_results import finished_training, records_of
from vos.config import BUILTIN_DAVIS_TEACHER, BUILTIN_STUDENT, BUILTIN_STUDENTS, DataConfig, ReportConfig, TrainConfig
from vos.config.presets import preset
from vos.errors import InputError
from vos.files.canonical import dumps
from vos.models import build
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import save_checkpoint

DISTILLED, PLAIN, ASPP = "short-both-s1", "short-plain-s1", "full-mobilenetv2-plain-s1"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReportConfig:
    """Three finished runs, as a machine would have them, and a package that is not the real one."""
    config = replace(
        preset(ReportConfig, "davis-cpu"), protocol="validation", out=str(tmp_path / "out"), docs=str(tmp_path / "docs")
    )
    runs = plan("davis-cpu")
    records = records_of(runs)
    for record in records.values():
        results_records.write(config.docs, record)
    for name in (DISTILLED, PLAIN, ASPP):
        planned = next(one.job for one in runs if one.name == name)
        assert isinstance(planned, TrainConfig)
        job = replace(planned, data=DataConfig(root="/home/someone/DAVIS"), trunk_weights="/home/someone/weights.pth")
        place = f"{name}-{records[name]['fingerprint'][:8]}"
        identity = json.loads(dumps(run_identity(job, "abc")))
        origin = {"role": "student", "cache": "abc", "commit": "0" * 40, "step": 4, "config": identity}
        save_checkpoint(str(tmp_path / "out" / "runs" / place), build("mobilevos-tiny"), origin)
        finished_training(str(tmp_path / "out" / "runs" / place), job, records[name]["mlflow_run"])
        pages = tmp_path / "out" / "evaluations" / place / "pages"
        pages.mkdir(parents=True)
        (pages / "j-over-time.png").write_bytes(b"a picture")
    monkeypatch.setitem(BUILTIN, BUILTIN_STUDENT, str(tmp_path / "package"))
    monkeypatch.setitem(BUILTIN, BUILTIN_STUDENTS["mobilevos-mobilenetv2"], str(tmp_path / "package-aspp"))
    monkeypatch.setitem(BUILTIN, BUILTIN_DAVIS_TEACHER, str(tmp_path / "teacher"))
    (tmp_path / "teacher").mkdir()
    run = {"name": TEACHER, "fingerprint": records[TEACHER]["fingerprint"]}
    (tmp_path / "teacher" / "model.json").write_text(json.dumps({"run": run}))
    return config


@pytest.mark.parametrize("name", [DISTILLED, PLAIN])
def test_the_model_loads_by_its_name_as_float16_and_knows_its_size_and_its_videos(config: ReportConfig, name: str):
    results_ship.ship(VALIDATION, replace(config, ship=name))
    model, info = load_model(BUILTIN_STUDENT)
    original = load_model(Site(VALIDATION, config, {}, {}, results_records.read_all(config.docs)).place(name))[0]
    for key, value in original.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value.half().float(), rtol=0, atol=0, msg=key)
    evaluation = next(one.evaluation for one in plan("davis-cpu") if one.name == name)
    assert evaluation is not None and info["size_px"] == evaluation.size_px and info["run"]["name"] == name
    assert info["config"]["data"]["root"] == "DAVIS"


def test_each_architecture_ships_under_a_name_of_its_own(config: ReportConfig, tmp_path: Path):
    results_ship.ship(VALIDATION, replace(config, ship=ASPP))
    assert not (tmp_path / "package").exists()
    assert (tmp_path / "package-aspp" / "README.md").read_text().startswith("# builtin-student-mobilenetv2\n")
    trained = [one.job for one in plan("davis-cpu") if one.name != TEACHER and isinstance(one.job, TrainConfig)]
    assert {job.model for job in trained} - {"mobilevos-resnet18"} == set(BUILTIN_STUDENTS), "one has no place"
    with pytest.raises(InputError, match="mobilevos-resnet18 of this run has no place in the package"):
        results_ship.ship(VALIDATION, replace(config, ship="full-resnet18-both-s1"))


def test_the_card_tells_the_record_and_nothing_of_the_machine(config: ReportConfig, tmp_path: Path):
    results_ship.ship(VALIDATION, replace(config, ship=DISTILLED))
    record = results_records.read_all(config.docs)[DISTILLED]
    text = (tmp_path / "package" / "README.md").read_text()
    assert f"{100 * record['figures']['j_and_f']:.1f}" in text and f"{record['steps']} steps" in text
    worst = min(record["sequences"], key=lambda row: row["j_and_f"])["sequence"]
    assert f"**Known failures**: {worst}" in text and "non-commercial" in text
    assert (tmp_path / "package" / "j-over-time.png").read_bytes() == b"a picture" and "(j-over-time.png)" in text
    assert not any("someone" in (tmp_path / "package" / name).read_text() for name in ("model.json", "README.md"))


def test_another_training_of_the_same_configuration_does_not_ship(config: ReportConfig, tmp_path: Path):
    (result,) = (tmp_path / "out" / "runs").glob(f"{PLAIN}-*/result.json")
    finished_training(str(result.parent), TrainConfig(), "of another machine")
    with pytest.raises(InputError, match=f"--ship {PLAIN}: .* does not hold the training of its record"):
        results_ship.ship(VALIDATION, replace(config, ship=PLAIN))
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("name", ["nonsense", "cache-short", "memory-first-both-s1"])
def test_what_is_no_training_cannot_ship(config: ReportConfig, name: str):
    with pytest.raises(InputError, match=f"--ship {name}: no finished training"):
        results_ship.ship(VALIDATION, replace(config, ship=name))


def test_a_distilled_student_ships_after_its_teacher_and_none_of_synthetic_video_does(
    config: ReportConfig, tmp_path: Path
):
    (tmp_path / "teacher" / "model.json").write_text(json.dumps({"run": {"name": TEACHER, "fingerprint": "another"}}))
    with pytest.raises(InputError, match="--ship teacher first"):
        results_ship.ship(VALIDATION, replace(config, ship=DISTILLED))
    with pytest.raises(InputError, match="use davis-cpu"):
        results_ship.ship(VALIDATION, replace(config, ship=DISTILLED, preset="smoke"))
    assert not (tmp_path / "package").exists()
