"""Where the workers of a training listen, and what is said when they lose one another."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from pipelines.runtime.process_group import meeting_addresses
from pipelines.training.launch import lost_peer
from vos.distillation.rendezvous import LOOPBACK
from vos.errors import InputError


def test_workers_of_one_machine_meet_on_loopback_and_others_at_private_addresses() -> None:
    assert meeting_addresses([("a", "10.0.0.1"), ("a", "10.0.0.1")]) == [LOOPBACK, LOOPBACK]
    assert meeting_addresses([("a", "10.0.0.1"), ("b", "10.0.0.2")]) == ["10.0.0.1", "10.0.0.2"]
    assert meeting_addresses([("a", "8.8.8.8"), ("a", "8.8.8.8")]) == [LOOPBACK, LOOPBACK]
    with pytest.raises(InputError, match=r"8\.8\.8\.8.*public address"):
        meeting_addresses([("a", "10.0.0.1"), ("b", "8.8.8.8")])


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (dist.DistStoreError("wait timeout after 2000ms, keys: /s/0\nframe #0: c10d"), "wait timeout after 2000ms"),
        (RuntimeError("[/third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), "Connection closed"),
        (KeyError("a fault of ours"), None),
        (RuntimeError("a fault of ours"), None),
    ],
)
def test_only_what_peers_can_cause_is_said_in_one_line(failure: Exception, reason: str | None) -> None:
    class Failed(Exception):
        worker_failures = {0: failure}

    said = lost_peer(Failed())
    if reason is None:
        assert said is None
    else:
        assert said is not None and reason in said and "\n" not in said
