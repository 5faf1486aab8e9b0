"""Copies of shards that lie at a URI: the listed file, in a folder that nobody else can write to."""

import hashlib
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.read import prove_shard
from vos.errors import InputError

SHAPES = schema.Shapes(queries=1, samples=2, rank=1, objects=1, grid=4, factor="fp32", logits="none")
RECIPE = "r"


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the copies, in a temporary folder of the test's own; not made yet."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return temporary / f"mobilevos-shards-{os.getuid()}"


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store/shard-000000.parquet"


def write_shard(uri: str, draws: int) -> str:
    """A shard of so many draws at `uri`; returns its digest, as the manifest has it."""
    made_up = {name: np.zeros(shape, dtype) for name, (dtype, shape) in SHAPES.columns().items()}
    rows = [{"draw": number, "record": "{}", "num_objects": 1, "clip_crc32": 0, **made_up} for number in range(draws)]
    data = schema.to_parquet(rows, SHAPES, {"recipe": RECIPE})
    storage.write_bytes(uri, data)
    return hashlib.sha256(data).hexdigest()


def draws_in(path: str) -> int:
    return len(schema.read_rows(path, []))


def test_a_shard_that_was_extended_is_copied_again(copies: Path, uri: str) -> None:
    assert draws_in(prove_shard(uri, RECIPE, write_shard(uri, 3))) == 3
    assert draws_in(prove_shard(uri, RECIPE, write_shard(uri, 5))) == 5


def test_a_copy_that_is_the_listed_file_needs_no_store(copies: Path, uri: str) -> None:
    digest = write_shard(uri, 3)
    here = prove_shard(uri, RECIPE, digest)
    storage.remove(uri)
    assert prove_shard(uri, RECIPE, digest) == here
    assert prove_shard(uri, RECIPE) == here, "nor where the digest is not known"


def test_a_damaged_copy_is_made_again(copies: Path, uri: str) -> None:
    digest = write_shard(uri, 3)
    here = Path(prove_shard(uri, RECIPE, digest))
    for known in (digest, ""):
        here.write_bytes(here.read_bytes()[:-9])
        assert draws_in(prove_shard(uri, RECIPE, known)) == 3


def test_a_shard_that_has_grown_since_serves_an_earlier_manifest_also_at_a_uri(copies: Path, uri: str) -> None:
    earlier = write_shard(uri, 3)
    write_shard(uri, 5)
    assert draws_in(prove_shard(uri, RECIPE, earlier)) == 5


def test_both_folders_of_the_copies_are_the_users_alone_whatever_the_umask(copies: Path, uri: str) -> None:
    before = os.umask(0)
    try:
        copies.mkdir(0o777)  # as an earlier version left it
        here = Path(prove_shard(uri, RECIPE, write_shard(uri, 3)))
    finally:
        os.umask(before)
    assert here.parent.parent == copies
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (copies, here.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("whose", ["another user's", "a link", "a file"])
@pytest.mark.parametrize("level", ["outer", "inner"])
def test_a_folder_that_somebody_else_put_there_is_refused_and_named(
    whose: str, level: str, copies: Path, uri: str, tmp_path: Path
) -> None:
    folder = copies if level == "outer" else copies / RECIPE
    folder.parent.mkdir(exist_ok=True)
    if whose == "a link":
        folder.symlink_to(tmp_path)
    elif whose == "a file":
        folder.touch()
    elif os.getuid() == 0:
        folder.mkdir()
        os.chown(folder, 12345, -1)
    else:
        pytest.skip("only root can make a folder of another user's")
    digest = write_shard(uri, 3)
    with pytest.raises(InputError, match=r"not a folder of yours.*remove it, or set TMPDIR") as refusal:
        prove_shard(uri, RECIPE, digest)
    assert str(refusal.value).startswith(str(folder)) and "\n" not in str(refusal.value)
