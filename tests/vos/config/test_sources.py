"""The data sets of a mixture on the command line: spelling, paths, and what is refused with one line."""

import os
from pathlib import Path

import pytest

from vos.config import CacheConfig, DataConfig
from vos.config.command_line import parse_config
from vos.config.fields import identity
from vos.config.sources import KINDS, read_sources
from vos.errors import InputError


def parse(*argv: str) -> CacheConfig:
    return parse_config(CacheConfig, "Cache.", list(argv))


def test_the_parts_of_a_source():
    found = read_sources(
        ["davis2016@val=/a:0.5", "stills=/b", "stills=s3://bucket/c:2", "folder=/d=e:f:0", "synthetic=:1e-1"]
    )
    assert [(one.name, one.split, one.root, one.weight) for one in found] == [
        ("davis2016", "val", "/a", 0.5),
        ("stills", "", "/b", 1.0),
        ("stills-2", "", "s3://bucket/c", 2.0),
        ("folder", "", "/d=e:f", 0.0),
        ("synthetic", "", "", 0.1),
    ]
    for kind in KINDS:
        assert read_sources([f"{kind}=/x"])[0].kind == kind


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["/a"], "no source; write KIND=PATH:WEIGHT"),
        (["stills="], "no source"),
        (["stills=:0.5"], "no source"),
        ([""], "no source"),
        (["films=/a"], "kind 'films' is unknown; use one of auto, davis2016"),
        (["=/a"], "kind '' is unknown"),
        (["stills=/a:-1"], "use 0 or more"),
        (["stills=/a:nan"], "use 0 or more"),
        (["stills=/a:inf"], "use 0 or more"),
        (["stills=/a:1", "stills=/a:2"], "stills=/a:2: is listed twice"),
        (["stills=/a:0", "folder=/a:0"], "sum to 0"),
        (["stills=/a:1e308", "folder=/a:1e308"], "none a huge one"),
        (["stills=/a:1", "folder=/a:0.001"], "folder=/a:0.001: is 0.001 of the clips; use a share of 1/256"),
    ],
)
def test_bad_sources_are_one_line(texts: list[str], said: str):
    with pytest.raises(InputError) as caught:
        read_sources(texts)
    text = str(caught.value)
    assert said in text and text.startswith("--data.sources") and "\n" not in text
    with pytest.raises(InputError, match="--data.sources"):
        parse("--data.sources", *texts)


def test_relative_paths_start_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    data = parse("--data.sources", "stills=a/b:0.5", "folder=./c", "auto=/abs:1", "synthetic=:1").data
    assert data.sources == (f"stills={tmp_path}/a/b:0.5", f"folder={tmp_path}/c", "auto=/abs:1", "synthetic=:1")
    assert [one.root for one in data.mixture] == [f"{tmp_path}/a/b", f"{tmp_path}/c", "/abs", ""]


def test_another_spelling_of_the_same_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    for other in ("./x", "y/../x", f"{tmp_path}/x", "x/"):
        with pytest.raises(InputError, match="is listed twice"):
            parse("--data.sources", "stills=x:1", f"stills={other}:2")
    assert len(parse("--data.sources", "stills@a=x:1", "stills@b=x:1").data.mixture) == 2


def test_the_environments_data_set_gives_way_to_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DAVIS_ROOT", os.fspath(tmp_path))
    assert parse("--data.sources", "stills=/a").data.root == ""
    assert parse("--data.sources=stills=/a").data.root == ""
    assert parse().data.root == str(tmp_path)
    with pytest.raises(InputError, match="give one of them"):
        parse("--data.sources", "stills=/a", "--data.root", "/b")


def test_without_sources_and_folds_the_identity_is_that_of_older_folders():
    assert not {"sources", "fold", "fold_videos"} & identity(DataConfig()).keys()
    assert list(identity(DataConfig(sources=("stills=/a",)))["sources"]) == ["stills=/a"]


@pytest.mark.parametrize("flags", [("--data.fold", "-1"), ("--data.fold", "1", "--data.fold-videos", "0")])
def test_impossible_folds_are_one_line(flags: tuple[str, ...]):
    with pytest.raises(InputError, match="--data.fold-videos"):
        parse(*flags)
