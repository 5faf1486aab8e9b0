"""The plan's names on this machine: what has to be made again, and what cannot be built upon."""

import json
from pathlib import Path

import pytest

from pipelines.cache.schema import MANIFEST
from pipelines.studies.davis.plan import plan
from pipelines.studies.davis.validation import VALIDATION
from pipelines.studies.protocols.site import Site
from tests.pipelines.studies.protocols.made_up_results import DATA, finished_training, records_of
from vos.config import BUILTIN_DAVIS_TEACHER, ReportConfig, TrainConfig
from vos.errors import InputError
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import DESCRIPTION


def test_a_cache_on_another_machine_is_made_again_before_what_needs_it_and_only_for_that(tmp_path: Path):
    runs = plan("davis-cpu")
    done = records_of(one for one in runs if one.name not in ("short-uniform-s1", "short-plain-s1"))
    shipped = json.loads(Path(BUILTIN[BUILTIN_DAVIS_TEACHER], "model.json").read_text())["run"]["fingerprint"]
    done["teacher"]["fingerprint"] = shipped
    site = Site(VALIDATION, ReportConfig(out=str(tmp_path)), {}, DATA, done)
    wanted = ["short-plain-s1", "cache-uniform", "short-uniform-s1"]
    assert [one.name for one in site.missing(runs)] == wanted

    # Made again, and found to be another one: it is no more to be built upon when the same command runs again.
    manifest = Path(site.place("cache-uniform"), MANIFEST)
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"fingerprint": "of another content"}))
    assert [one.name for one in site.missing(runs)] == wanted
    manifest.write_text(json.dumps({"fingerprint": done["cache-uniform"]["cache"]}))
    assert [one.name for one in site.missing(runs)] == ["short-plain-s1", "short-uniform-s1"]


def test_a_training_of_the_same_configuration_is_not_the_one_that_a_record_tells_of(tmp_path: Path):
    runs = plan("smoke")
    done = records_of(one for one in runs if one.name != "memory-first-plain-s1")
    site = Site(VALIDATION, ReportConfig(out=str(tmp_path)), {}, DATA, done)
    folder = Path(site.place("full-noaspp-plain-s1"))
    folder.mkdir(parents=True)
    (folder / DESCRIPTION).write_text("{}")
    finished_training(str(folder), TrainConfig(), "of another machine")
    with pytest.raises(InputError, match="full-noaspp-plain-s1 has a record, but its result is not on this machine"):
        site.missing(runs)
    finished_training(str(folder), TrainConfig(), done["full-noaspp-plain-s1"]["mlflow_run"])
    assert [one.name for one in site.missing(runs)] == ["memory-first-plain-s1"]
