"""A finished run's model in the package, with a card that tells its record."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import results_records, results_ship
from pipelines.models import BUILTIN, load_model
from pipelines.results_plan import plan
from tests.pipelines.made_up_results import records_of
from vos.checkpoint import save_checkpoint
from vos.config import BUILTIN_STUDENT, ReportConfig
from vos.errors import InputError
from vos.models import build
from vos.presets import preset

NAME = "short-both-s1"
ORIGIN = {
    "role": "student",
    "cache": "abc",
    "commit": "0" * 40,
    "step": 4,
    "config": {"seed": 1, "trunk_weights": "/home/someone/weights.pth", "data": {"root": "/home/someone/DAVIS"}},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReportConfig:
    """One finished run, and a package that is not the real one."""
    base = preset(ReportConfig, "smoke")
    config = replace(base, out=str(tmp_path / "out"), docs=str(tmp_path / "docs"), ship=NAME)
    records = records_of(plan("smoke"))
    for record in records.values():
        results_records.write(config.docs, record)
    place = f"{NAME}-{records[NAME]['fingerprint'][:8]}"
    save_checkpoint(str(tmp_path / "out" / "runs" / place), build("mobilevos-tiny"), ORIGIN)
    pages = tmp_path / "out" / "evaluations" / place / "pages"
    pages.mkdir(parents=True)
    (pages / "j-over-time.png").write_bytes(b"a picture")
    monkeypatch.setitem(BUILTIN, BUILTIN_STUDENT, str(tmp_path / "package"))
    return config


def test_the_model_loads_by_its_name_as_float16_and_knows_the_size_that_it_was_scored_at(config: ReportConfig):
    results_ship.ship(config)
    model, info = load_model(BUILTIN_STUDENT)
    original = load_model(results_ship.Site(config, "", {}, results_records.read_all(config.docs)).place(NAME))[0]
    for name, value in original.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value.half().float(), rtol=0, atol=0, msg=name)
    evaluation = next(one.evaluation for one in plan("smoke") if one.name == NAME)
    assert evaluation is not None and info["size_px"] == evaluation.size_px and info["run"]["name"] == NAME


def test_the_card_tells_the_record_and_nothing_of_the_machine(config: ReportConfig, tmp_path: Path):
    results_ship.ship(config)
    record = results_records.read_all(config.docs)[NAME]
    text = (tmp_path / "package" / "README.md").read_text()
    assert f"{100 * record['figures']['j_and_f']:.1f}" in text and f"{record['steps']} steps" in text
    worst = min(record["sequences"], key=lambda row: row["j_and_f"])["sequence"]
    assert f"**Known failures**: {worst}" in text and "non-commercial" in text
    assert (tmp_path / "package" / "j-over-time.png").read_bytes() == b"a picture" and "(j-over-time.png)" in text
    assert not any("someone" in path.read_text() for path in (tmp_path / "package").glob("*.[jR]*"))


@pytest.mark.parametrize("name", ["nonsense", "cache-short", "memory-first-both-s1"])
def test_what_is_no_training_cannot_ship(config: ReportConfig, name: str):
    with pytest.raises(InputError, match=f"--ship {name}: no finished training"):
        results_ship.ship(replace(config, ship=name))
