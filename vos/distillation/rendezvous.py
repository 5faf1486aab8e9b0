"""Rendezvous of the processes of one training: a key store at one address, and connections on one interface.

PyTorch's own rendezvous opens its store (`TCPStore`) on every interface of the machine, without a token. Here the first process binds
the socket to a given address, and gloo and NCCL are bound to the interface of that address. Ranks exchange tensors and JSON, never
pickles (`vos.distillation.ranks`): an attacker who reaches these sockets can disturb a training but not execute code in it.

Limits: neither the store nor gloo asks for a password, and nothing is encrypted. During a training, other accounts of the machine, or
hosts in the private network of several machines, can reach these ports. An attacker who can also read that network could replace a rank
and send wrong numbers. A wait caused in this way ends after the timeout.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from vos.errors import InputError

LOOPBACK = "127.0.0.1"
SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
_served: list[TCPStore] = []
"""The store of this process, kept open until its next training, because clients in other processes need it."""


def open_store(address: str, size: int, timeout_s: float) -> int:
    """Serve the store of `size` processes at one address of this machine only; return its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen(size + 16)
        port = listener.getsockname()[1]
        descriptor = listener.detach()  # the store closes it
    _served[:] = [_connect(address, port, timeout_s, is_master=True, master_listen_fd=descriptor)]
    return port


def join(address: str, port: int, own_address: str, secret: str, rank: int, size: int, timeout_s: float) -> None:
    """Make this process rank `rank` of the default process group.

    address, port  address of the store; rank 0 is the process that serves it
    own_address    address of this machine on the interface that all ranks share
    secret         random prefix of all keys, the same on all ranks: keys of other runs or programs are ignored
    timeout_s      longest wait for a peer, now and later
    """
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface_of(own_address)
    store = _served[0] if rank == 0 else _connect(address, port, timeout_s)
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(secret, store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )


def interface_of(address: str) -> str:
    """Return the name of this machine's interface with an IPv4 address. Raises InputError if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise InputError(f"no network interface has the address {address}; start Ray here with --node-ip-address")


def _connect(address: str, port: int, timeout_s: float, **server: Any) -> TCPStore:
    return TCPStore(address, port, timeout=timedelta(seconds=timeout_s), wait_for_workers=False, **server)
