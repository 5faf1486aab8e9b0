"""Advisories and licences of what is installed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests import audit
from tests.test_setup import pins

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
        ([{"introduced": "1.1"}, {"fixed": "1.3"}, {"introduced": "0"}, {"fixed": "1.0"}], [], True),
        ([{"fixed": "1.1"}, {"introduced": "1.0"}], [], False),
        ([{"introduced": "1.2"}, {"last_affected": "1.2"}], [], True),
        ([{"fixed": "1.2"}, {"introduced": "1.2"}], [], True),
        ([], ["1.2.0"], True),
    ],
)
def test_a_version_is_affected_where_a_range_or_the_list_says_so(
    events: list[dict[str, str]], versions: list[str], affected: bool
) -> None:
    entry = {"ranges": [{"type": "ECOSYSTEM", "events": events}], "versions": versions}
    assert audit.is_affected(entry, "1.2") == affected
    assert audit.is_affected(entry, "1.2+cpu") == affected, "another build of the same release"


def test_a_version_that_cannot_be_compared_counts_as_affected() -> None:
    entry = {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "1.0"}]}]}
    assert audit.is_affected(entry, "of-our-own") and not audit.is_affected({"versions": ["1.0"]}, "of-our-own")


def made_up(**changed: object) -> dict[str, object]:
    """An advisory for every numpy."""
    entry = {
        "package": {"ecosystem": "PyPI", "name": "NumPy"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
    }
    return {"id": "PYSEC-1", "summary": "made up", "modified": "2026-11-01T00:00:00Z", "affected": [entry]} | changed


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(made_up(affected=None)).encode(),
        json.dumps(made_up(affected=[{"package": {"ecosystem": "PyPI", "name": None}}])).encode(),
        json.dumps({"affected": made_up()["affected"]}).encode(),
    ],
)
def test_a_database_with_a_damaged_file_is_not_called_looked_through(
    text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.json").write_text(
        json.dumps(made_up(affected=[{"package": {"ecosystem": "PyPI", "name": "other"}}]))
    )
    assert audit.audit(str(tmp_path)) == 0
    (tmp_path / "two.json").write_bytes(text)
    assert audit.audit(str(tmp_path)) == audit.COULD_NOT_LOOK and "two.json" in capsys.readouterr().out
    (tmp_path / "one.json").write_text(json.dumps(made_up()))
    assert audit.audit(str(tmp_path)) == 1, "what is found is reported all the same"


def test_a_database_of_another_ecosystem_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"package": {"ecosystem": "npm", "name": "numpy"}}
    (tmp_path / "one.json").write_text(json.dumps(made_up(affected=[entry])))
    assert audit.audit(str(tmp_path)) == audit.COULD_NOT_LOOK
    assert capsys.readouterr().out.startswith("could not look")


def test_a_zip_is_read_as_its_folder_would_be_and_a_cut_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PYSEC-1.json", json.dumps(made_up()))
    assert audit.audit(str(path)) == 1 and "PYSEC-1" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-30])
    assert audit.audit(str(path)) == audit.COULD_NOT_LOOK


def test_the_age_of_an_old_database_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.json").write_text(json.dumps(made_up(modified="2021-07-17T00:00:00Z")))
    audit.audit(str(tmp_path))
    assert "days old" in capsys.readouterr().out


def test_advisories_of_a_local_database_are_listed_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = made_up()
    (tmp_path / "one.json").write_text(json.dumps(about))
    (tmp_path / "withdrawn.yaml").write_text(
        json.dumps({**about, "id": "PYSEC-2", "withdrawn": "2026-11-02T00:00:00Z"})
    )
    assert audit.audit(str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "numpy" in said and "PYSEC-1" in said and "PYSEC-2" not in said and "the newest of 2026-11-01" in said
    other = {"package": {"ecosystem": "PyPI", "name": "other"}}
    (tmp_path / "one.json").write_text(json.dumps({**about, "affected": [other]}))
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
    assert [f"{name} {version}" for name, version in pins().items() if f"| {name} | {version}" not in page] == []
    assert all(reason in page for reason in audit.COPYLEFT.values())
