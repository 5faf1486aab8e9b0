"""Proving a cache: what is intact passes, whatever is not is named."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cache import schema
from pipelines.cache.manifest import read_manifest, sealed
from pipelines.cache.plan import ShardPlan
from pipelines.cache.teacher import shard_metadata
from pipelines.cache.verify import shard_problem, verify_cache
from pipelines.runtime.output_folder import existing
from vos.config import CacheConfig
from vos.errors import InputError


@pytest.fixture
def copied(cache: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def check(folder: Path, rows: int = 0) -> str:
    return verify_cache(replace(CacheConfig(), out=str(folder), verify_rows=rows))


def test_an_intact_cache_passes_and_its_rows_come_out_of_the_teacher_again(cache: str):
    text = check(Path(cache), rows=3)
    assert "FAILED" not in text and "3 of 3 shards" in text
    again = [line for line in text.splitlines() if "recomputed" in line]
    assert len(again) == 3 and all("logits by 0.000" in line for line in again)


def test_every_damaged_or_missing_shard_is_named(copied: Path, capsys: pytest.CaptureFixture[str]):
    shards = sorted((copied / "shards").iterdir())
    shards[0].unlink()
    data = bytearray(shards[2].read_bytes())
    data[len(data) // 2] ^= 1
    shards[2].write_bytes(data)
    with pytest.raises(InputError) as refusal:
        check(copied, rows=2)
    message = str(refusal.value)
    assert f"{shards[0]}: missing" in message and f"{shards[2]}: damaged" in message and str(shards[1]) not in message
    assert "\n" not in message and "1 of 3 shards" in capsys.readouterr().out


def test_an_unfinished_cache_says_so(copied: Path):
    (copied / schema.MANIFEST).unlink()
    with pytest.raises(InputError, match="absent or unfinished"):
        check(copied)


def test_any_single_flipped_byte_of_a_shard_or_the_manifest_is_noticed(copied: Path):
    manifest = read_manifest(str(copied))
    entries = {entry["file"]: entry for entry in manifest["shards"]}
    files = [*sorted((copied / "shards").iterdir()), copied / schema.MANIFEST]
    places = random.Random(0)
    overlooked = []
    for _ in range(200):
        path = places.choice(files)
        intact = path.read_bytes()
        changed = bytearray(intact)
        place = places.randrange(len(changed))
        changed[place] ^= places.randrange(1, 256)
        path.write_bytes(changed)
        if path.name in entries:
            noticed = shard_problem(str(path), entries[path.name], manifest) != ""
        else:
            with pytest.raises(InputError, match=schema.MANIFEST):
                read_manifest(str(copied))
            noticed = True
        overlooked += [] if noticed else [(path.name, place)]
        path.write_bytes(intact)
    assert overlooked == []


def rewritten(copied: Path, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """What is said of a shard whose rows were changed and that was then written and listed properly."""
    manifest = read_manifest(str(copied))
    entry = manifest["shards"][1]
    path = copied / "shards" / entry["file"]
    rows = [
        {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in row.items()}
        for row in schema.read_rows(str(path), [])
    ]
    change(rows)
    data = schema.to_parquet(
        rows, schema.Shapes(**manifest["identity"]["shapes"]), shard_metadata(ShardPlan(1, 4, 4), manifest["recipe"])
    )
    path.write_bytes(data)
    assert "not the file that the manifest lists" in shard_problem(str(path), entry, manifest)
    return shard_problem(str(path), entry | {"sha256": hashlib.sha256(data).hexdigest()}, manifest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.reverse(), "draws [7, 6, 5, 4] instead of 4 to 7"),
        (lambda rows: rows[2].update(draw=4), "instead of 4 to 7"),
        (lambda rows: rows[0].update(record="{"), "draw 4: its record: not JSON"),
        (lambda rows: rows[0].update(record=rows[1]["record"]), "draw 4: its record belongs to another draw"),
        (lambda rows: rows[1]["sample_index"].__setitem__((0, 0), 9999), "draw 5: a sampled cell is outside"),
        (lambda rows: rows[1]["sample_index"].__setitem__((0, 0), rows[1]["sample_index"][0, 1]), "sampled twice"),
        (lambda rows: rows[3]["sample_label"].__setitem__((1, 0), 9), "draw 7: a label is no object"),
        (lambda rows: rows[3]["factor_scale"].__setitem__(0, np.nan), "draw 7: a factor or its scale is not finite"),
        (lambda rows: rows[3]["logit_scale"].__setitem__((0, 0), np.inf), "draw 7: a logit or its scale is not finite"),
    ],
)
def test_rows_that_make_no_sense_are_found_even_under_a_right_checksum(
    copied: Path, change: Callable[[list[dict[str, Any]]], None], said: str
):
    with np.errstate(invalid="ignore"):
        assert said in rewritten(copied, change)


def test_a_manifest_that_leaves_a_draw_out_is_noticed(copied: Path):
    manifest = read_manifest(str(copied))
    del manifest["shards"][1]
    (copied / schema.MANIFEST).write_bytes(sealed(manifest))
    with pytest.raises(InputError, match="shard 1 is not 'shard-000001.parquet'"):
        check(copied)


def test_a_row_that_the_teacher_would_not_say_again_is_found(copied: Path):
    """Another seed in the stored configuration stands for a teacher's machine that computes something else."""
    folder = existing(str(copied), "cache")
    config = folder.read_json("config.json", dict[str, Any], "")
    assert config is not None
    (copied / "config.json").write_text(json.dumps(config | {"seed": 5}))
    with pytest.raises(InputError, match="config.json: has no seal"):
        check(copied, rows=2)
    folder.overwrite = True
    folder.write_json("config.json", config | {"seed": 5})
    with pytest.raises(InputError, match="not those that the teacher saw|other pixels"):
        check(copied, rows=2)


def test_another_teacher_is_refused(copied: Path, tmp_path: Path):
    from vos.models import build
    from vos.models.checkpoint import save_checkpoint

    save_checkpoint(str(tmp_path / "other"), build("teacher-small"), {"role": "teacher"})
    config = replace(CacheConfig(), out=str(copied), verify_rows=1)
    teacher = replace(config.teacher, checkpoint=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"not the teacher of .*--verify-rows 0"):
        verify_cache(replace(config, teacher=teacher))
