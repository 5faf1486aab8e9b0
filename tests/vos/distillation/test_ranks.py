"""Processes of a training talking to each other: real ones, over gloo."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vos.distillation.ranks import Ranks
from vos.errors import InputError, NotFiniteError


def _process(rank: int, folder: str) -> None:
    """What one of two ranks sees, as JSON in the folder."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks = Ranks()
    seen: dict[str, object] = {"rank": ranks.rank, "size": ranks.size}
    seen["mean"] = ranks.mean(torch.tensor([float(rank), 3.0])).tolist()
    seen["nan"] = bool(ranks.mean(torch.tensor([float("nan") if rank else 1.0])).isnan())
    seen["gathered"] = ranks.gather({"of": rank})
    with ranks.together():
        pass
    try:
        with ranks.together():
            if rank == 1:
                raise InputError("shard 7 is damaged")
    except InputError as error:
        seen["error"] = str(error)
    try:
        with ranks.together():
            if rank == 0:
                raise NotFiniteError("nan")
    except NotFiniteError as error:
        seen["kind"] = str(error)
    statistics = torch.tensor([rank + 5.0])
    ranks.take_first([statistics])
    seen["first"] = statistics.item()
    dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))


def test_bad_input_of_one_rank_is_the_same_error_on_all(tmp_path: Path):
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="spawn")  # pyright: ignore[reportPrivateImportUsage]
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen == {
            "rank": rank,
            "size": 2,
            "mean": [0.5, 3.0],
            "nan": True,
            "gathered": [{"of": 0}, {"of": 1}],
            "error": "shard 7 is damaged",
            "kind": "nan",
            "first": 5.0,
        }


def test_a_process_alone_is_a_world_of_one():
    ranks = Ranks()
    assert (ranks.rank, ranks.size, ranks.gather(3)) == (0, 1, [3])
    assert ranks.mean(torch.tensor([2.0])).item() == 2
    with pytest.raises(InputError, match="mine"), ranks.together():
        raise InputError("mine")
