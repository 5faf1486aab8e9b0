"""Advisories and licences of what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import audit

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("events", "versions", "affected"),
    [
        ([{"introduced": "0"}], [], True),
        ([{"introduced": "0"}, {"fixed": "1.5"}], [], True),
        ([{"introduced": "0"}, {"fixed": "1.2"}], [], False),
        ([{"introduced": "1.3"}], [], False),
        ([{"introduced": "0"}, {"last_affected": "1.2"}], [], True),
        ([{"introduced": "0"}, {"last_affected": "1.1"}], [], False),
        ([{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "1.1"}, {"fixed": "1.3"}], [], True),
        ([], ["1.2"], True),
        ([], ["1.2.0.post1"], False),
        ([{"introduced": "no version"}], [], False),
    ],
)
def test_a_version_is_affected_where_a_range_or_the_list_says_so(
    events: list[dict[str, str]], versions: list[str], affected: bool
) -> None:
    entry = {"ranges": [{"type": "ECOSYSTEM", "events": events}], "versions": versions}
    assert audit.is_affected(entry, "1.2") == affected


def test_advisories_of_a_local_database_are_listed_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {
        "package": {"ecosystem": "PyPI", "name": "NumPy"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
    }
    about = {"id": "PYSEC-1", "summary": "made up", "modified": "2026-11-01T00:00:00Z", "affected": [entry]}
    (tmp_path / "one.json").write_text(json.dumps(about))
    (tmp_path / "withdrawn.yaml").write_text(
        json.dumps({**about, "id": "PYSEC-2", "withdrawn": "2026-11-02T00:00:00Z"})
    )
    assert audit.audit(str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "numpy" in said and "PYSEC-1" in said and "PYSEC-2" not in said and "the newest of 2026-11-01" in said
    (tmp_path / "one.json").write_text(json.dumps({**about, "affected": [{**entry, "package": {"name": "other"}}]}))
    assert audit.audit(str(tmp_path)) == 0 and "0 known" in capsys.readouterr().out


@pytest.mark.parametrize("database", ["", "absent", "."])
def test_without_a_database_it_says_that_it_could_not_look(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert audit.audit(database) == audit.COULD_NOT_LOOK
    assert capsys.readouterr().out.startswith("could not look")


def test_every_copyleft_part_has_a_reason_and_every_package_a_line() -> None:
    copyleft = {
        name
        for name in audit.installed()
        if any(mark in audit.licence(name).upper() for mark in ("GPL", "MPL", "MOZILLA", "EUPL"))
    }
    assert copyleft <= audit.COPYLEFT.keys()
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    direct = {"av", "numpy", "ray", "mlflow", "openvino", "pyarrow", "safetensors", "pillow", "tqdm"}
    assert all(f"| {name} | {audit.installed()[name]} |" in page for name in direct)
    assert all(reason in page for reason in audit.COPYLEFT.values())
