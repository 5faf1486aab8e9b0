"""Files of ours are replaced, those of the user never, unless --overwrite says so."""

import os
from pathlib import Path

import pytest

from vos.errors import InputError
from vos.files.written import LEDGER, Written


@pytest.fixture
def folder(tmp_path: Path) -> Written:
    return Written(str(tmp_path / "out"), "train", "one")


def again(folder: Written, overwrite: bool = False) -> Written:
    """The same folder as another process finds it."""
    return Written(folder.root, folder.job, folder.of, overwrite)


def test_a_file_of_ours_is_replaced_by_a_later_process(folder: Written):
    folder.write("a/b.png", b"one")
    path = again(folder).write("a/b.png", b"two")
    assert Path(path).read_bytes() == b"two"
    assert folder.owns("a/b.png"), "a process that began before sees it too"


@pytest.mark.parametrize("name", ["README.md", "pages/mine.txt", "result.json"])
def test_a_file_of_the_users_is_neither_replaced_nor_deleted(folder: Written, name: str):
    path = Path(folder.root, name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=f"{name} would be replaced.*--overwrite"):
        folder.write(name, b"ours")
    with pytest.raises(InputError, match="--overwrite"):
        folder.write_json(name, {})
    assert not folder.remove(name) and path.read_bytes() == b"mine"
    again(folder, overwrite=True).write(name, b"ours")
    assert path.read_bytes() == b"ours"


def test_a_file_of_ours_that_the_user_edited_is_his(folder: Written):
    path = Path(folder.write("README.md", b"ours"))
    path.write_bytes(b"ours, and a note of mine")
    with pytest.raises(InputError, match="or was changed since"):
        again(folder).write("README.md", b"new")
    assert not again(folder).remove("README.md") and path.exists()
    path.write_bytes(b"ours")
    assert again(folder).remove("README.md") and not path.exists()


def test_a_kill_between_the_line_and_the_file_leaves_nothing_foreign(folder: Written, monkeypatch: pytest.MonkeyPatch):
    folder.write("mask.png", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folder.write("mask.png", b"new")
    monkeypatch.undo()
    again(folder).write("mask.png", b"newer")
    assert Path(folder.root, "mask.png").read_bytes() == b"newer"


def test_a_line_that_a_full_disk_cut_short_costs_no_other(folder: Written):
    ledger = Path(folder.write("a.txt", b"1")).with_name(LEDGER)
    ledger.write_bytes(ledger.read_bytes() + b"0123")
    again(folder).write("b\udcff.txt", b"2")
    assert again(folder).owns("a.txt") and again(folder).owns("b\udcff.txt")


def test_a_link_leads_nowhere(folder: Written, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    theirs = tmp_path / "elsewhere" / "a.png"
    theirs.write_bytes(b"theirs")
    Path(folder.root).mkdir()
    Path(folder.root, "masks").symlink_to(tmp_path / "elsewhere")
    Path(folder.root, "b.png").symlink_to(theirs)
    for call in (lambda: folder.write("masks/a.png", b"ours"), lambda: folder.remove("masks/a.png")):
        with pytest.raises(InputError, match="masks: is a link to elsewhere"):
            call()
    with pytest.raises(InputError, match="b.png would be replaced"):
        folder.write("b.png", b"ours")
    again(folder, overwrite=True).write("b.png", b"ours")
    assert theirs.read_bytes() == b"theirs", "the link was replaced, not what it names"
    with pytest.raises(InputError, match="is a link"):
        Written(f"file://{folder.root}", "train").write("masks/a.png", b"ours")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "", "a//b", "a\0b"])
def test_a_name_stays_within_the_folder(folder: Written, name: str):
    with pytest.raises(InputError, match="not the name of a file below"):
        folder.write(name, b"")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"no digest  a.txt\n", b"0" * 63 + b"  a.txt\n", b"\n" * 9])
def test_a_damaged_list_makes_no_file_ours(folder: Written, text: bytes):
    Path(folder.write("a.txt", b"ours")).with_name(LEDGER).write_bytes(text)
    assert not again(folder).owns("a.txt")


def test_a_folder_or_a_pipe_of_a_files_name_is_foreign(folder: Written):
    Path(folder.root, "a").mkdir(parents=True)
    os.mkfifo(Path(folder.root, "b"))
    for name in ("a", "b"):
        with pytest.raises(InputError, match=f"{name} would be replaced"):
            folder.write(name, b"ours")
    os.mkfifo(Path(folder.root, LEDGER))
    assert not again(folder).knows("a")


def test_sealed_files_prove_themselves_and_are_those_of_their_run(folder: Written):
    path = folder.write_json("result.json", {"steps": 3})
    assert not Path(folder.root, LEDGER).exists()
    assert again(folder).read_json("result.json", dict, "delete it") == {"steps": 3}
    other = Written(folder.root, "train", "two")
    with pytest.raises(InputError, match="belongs to another run"):
        other.read_json("result.json", dict, "delete it")
    other.write_json("result.json", {"steps": 4})
    assert Path(path).read_text().count('"steps": 4') == 1
    assert again(folder).read_json("absent.json", dict, "delete it") is None
    with pytest.raises(InputError, match="another run"):
        again(folder).read_json("result.json", dict, "delete it")
    assert again(folder, overwrite=True).read_json("result.json", dict, "delete it") is None
