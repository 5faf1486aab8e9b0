"""Join Ray Train's workers in a process group that listens only on loopback or a private address (`vos.distillation.rendezvous`)."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from typing import Any

from ray.train.torch.config import TorchConfig, _set_torch_distributed_env_vars, _TorchBackend

from vos.distillation.rendezvous import LOOPBACK, join, open_store
from vos.errors import InputError


@dataclass
class PrivateTorchConfig(TorchConfig):
    """Ray Train's configuration of PyTorch, with this project's rendezvous."""

    @property
    def backend_cls(self) -> type[_PrivateBackend]:
        return _PrivateBackend


class _PrivateBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Connect the workers. Ray Train calls this in its controller, before the training function starts."""
        import ray

        worker_group.execute(_set_torch_distributed_env_vars)
        size, timeout_s = len(worker_group), backend_config.timeout_s
        if size == 1:
            return  # a single rank needs no connection
        addresses = meeting_addresses(worker_group.execute(_place))
        secret = secrets.token_hex(16)
        port = worker_group.execute_single(0, open_store, addresses[0], size, timeout_s)
        joined = [
            worker_group.execute_single_async(rank, join, addresses[0], port, own, secret, rank, size, timeout_s)
            for rank, own in enumerate(addresses)
        ]
        ray.get(joined)


def _place() -> tuple[str, str]:
    """Return a worker's (node id, address as Ray reports it)."""
    import ray

    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


def meeting_addresses(places: list[tuple[str, str]]) -> list[str]:
    """Return the address on which each rank listens: loopback when all are on one machine, else its own private address.

    places  (machine, address) of each rank
    Raises InputError for a public address.
    """
    if len({machine for machine, _ in places}) == 1:
        return [LOOPBACK] * len(places)
    for _, address in places:
        if ipaddress.ip_address(address).is_global:
            raise InputError(
                f"--workers {len(places)}: the machine {address} is in the cluster under a public address, and workers exchange data "
                "without encryption; start its Ray with --node-ip-address=PRIVATE_ADDRESS, or use the workers of one machine"
            )
    return [address for _, address in places]
