"""A cache at `s3://…`: a real S3 protocol over loopback, the same shards as in a local folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer

from pipelines import storage
from pipelines.cache.build import build_cache
from pipelines.cache.manifest import read_manifest
from pipelines.cache.read import CachedClips
from pipelines.evaluation.score import score_two_folders
from pipelines.runtime.models import load_model
from pipelines.training import state as training_state
from pipelines.training.launch import train
from vos.config import CacheConfig, ScoreConfig, TrainConfig
from vos.distillation.training_step import TrainingStep
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.written import LEDGER, Written
from vos.media.images import write_mask
from vos.models import build

OUT = "s3://team/caches/one"


@pytest.fixture(scope="module")
def object_store() -> Iterator[None]:
    """An S3 server on a free port of loopback, with one empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="team")
        yield
    server.stop()


@pytest.fixture(scope="module")
def remote(object_store: None, store: str) -> str:
    """The cache of the fixture `cache`, built at a URI by the job itself."""
    build_at_the_store()
    return OUT


def build_at_the_store() -> str:
    """Run the job; returns what it said. A process of its own: Ray's workers inherit the store's address from it."""
    command = [sys.executable, "-m", "jobs.cache", "--preset", "smoke", "--draws", "10", "--out", OUT]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_objects_are_the_files_of_a_local_cache(remote: str, cache: str) -> None:
    for folder in ("", "shards"):
        names = [name for name in storage.list_names(storage.join(cache, folder)) if name not in (".lock", LEDGER)]
        found = storage.list_names(storage.join(remote, folder) if folder else remote)
        assert [name for name in found if name != LEDGER] == names
        for name in names:
            here, there = (storage.read_bytes(storage.join(root, folder, name)) for root in (cache, remote))
            assert here == there, name


def test_batches_come_from_the_store_as_from_a_folder(
    remote: str, cache: str, cache_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    local, distant = (CachedClips(root, cache_config.data).batch([9, 0]) for root in (cache, remote))
    assert local.frames.equal(distant.frames)
    assert local.targets is not None and distant.targets is not None
    assert all(one.equal(other) for one, other in zip(local.targets, distant.targets, strict=True))
    copies = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(copies) == 2 and all(path.parent.stat().st_mode & 0o077 == 0 for path in copies)


def test_a_damaged_object_is_named_by_a_reader_and_made_again_by_the_job(
    remote: str, cache: str, cache_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = storage.join(remote, "shards", "shard-000001.parquet")
    data = bytearray(storage.read_bytes(path))
    data[100] ^= 1
    storage.write_bytes(path, bytes(data))
    manifest = read_manifest(remote)
    with pytest.raises(InputError, match=r"s3://team/caches/one/shards/shard-000001\.parquet: damaged"):
        CachedClips(remote, cache_config.data).batch([5])
    assert "shard-000001.parquet: damaged" in build_at_the_store()
    assert read_manifest(remote) == manifest
    assert storage.read_bytes(path) == storage.read_bytes(storage.join(cache, "shards", "shard-000001.parquet"))


def test_a_bucket_that_is_not_there_is_one_line(object_store: None, cache_config: CacheConfig) -> None:
    with pytest.raises(InputError) as refusal:
        build_cache(replace(cache_config, out="s3://nobody/cache"))
    assert "s3://nobody/cache" in str(refusal.value) and "\n" not in str(refusal.value)


def test_checkpoints_at_a_uri_are_found_again_and_old_ones_go(object_store: None) -> None:
    out = "s3://team/student"
    folder = Written(out, "train", fingerprint({}), files=storage.FILES)
    step = TrainingStep(build("mobilevos-tiny"), TrainConfig())
    about = {
        "role": "student",
        "config": {},
        "cache": "none",
        "commit": "",
        "size_px": 0,
        "manner": {},
        "recent": [],
        "random": [],
    }
    for number in (1, 2, 3):
        training_state.write(
            folder, training_state.Progress(step=number), step.average, step.state(), about, half=False
        )
    newest = training_state.newest(folder)
    assert newest is not None and newest.progress.step == 3
    assert torch.equal(newest.tensors()["model.decoder.pred.weight"], step.state()["model.decoder.pred.weight"])
    assert storage.list_folders(f"{out}/checkpoints") == ["step-0000002", "step-0000003"]
    storage.write_bytes(f"{newest.folder}/{training_state.TENSORS}", b"cut")
    older = training_state.newest(folder)
    assert older is not None and older.progress.step == 2


def test_a_training_at_a_uri_ends_with_a_model_there_and_is_not_run_again(
    object_store: None, train_config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(train_config, out="s3://team/trained")
    result = train(config, here=True)
    assert result.version.startswith("mobilevos-tiny/")
    local = train(train_config, here=True, register=False)
    ours, theirs = (load_model(folder)[0].state_dict() for folder in (config.out, local.checkpoint))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert train(config, here=True) == result and "already finished" in capsys.readouterr().out


def test_a_table_of_scores_is_written_where_it_was_asked_for(
    object_store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((48, 64), np.uint8)
    labels[10:30, 10:30] = 1
    for index in range(4):
        write_mask(str(tmp_path / f"masks/v/{index:05d}.png"), labels)
    here = ScoreConfig(gt=str(tmp_path / "masks"), pred=str(tmp_path / "masks"), out=str(tmp_path / "out"))
    wanted = Path(score_two_folders(here)[1]).read_bytes()
    for asked in (
        replace(here, out="s3://team/scored"),
        replace(here, csv="s3://team/table.csv"),
        replace(here, out=f"file://{tmp_path}/other"),
    ):
        _, path = score_two_folders(asked)
        assert path in ("s3://team/scored/scores.csv", "s3://team/table.csv", f"file://{tmp_path}/other/scores.csv")
        assert storage.read_bytes(path) == wanted
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["masks", "other", "out"]
    with pytest.raises(InputError, match="s3://nobody/table.csv: cannot be written"):
        score_two_folders(replace(here, csv="s3://nobody/table.csv"))
