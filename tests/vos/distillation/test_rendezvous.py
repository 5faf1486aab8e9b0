"""How the ranks of one training meet: where they listen, and what a stranger on their ports can do."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.local_head import is_loopback, listeners
from tests.chaos.network import Payload
from vos.distillation.rendezvous import LOOPBACK, interface_of
from vos.errors import InputError

CONTEXT = multiprocessing.get_context("spawn")
JOIN_S = 60


def one_rank(rank: int, folder: str, port: Any, go: Any, talk: Callable[[str], Any]) -> None:
    """Rank 0 or 1 of a group of two; writes what `talk` returns, or the error line, to a file."""
    from vos.distillation.rendezvous import join, open_store

    if rank == 0:
        port.put(open_store(LOOPBACK, 2, JOIN_S))
    number = port.get(timeout=JOIN_S)
    port.put(number)
    join(LOOPBACK, number, LOOPBACK, "secret", rank, 2, JOIN_S)
    Path(folder, f"{rank}.joined").touch()
    go.wait(JOIN_S)
    try:
        said = talk(folder)
    except InputError as error:
        said = {"error": str(error)}
    Path(folder, f"{rank}.json").write_text(json.dumps(said))


def gathers(folder: str) -> Any:
    from vos.distillation.ranks import Ranks

    ranks = Ranks()
    return [ranks.gather({"rank": ranks.rank, "step": step}) for step in range(50)]


def one_pickles(folder: str) -> Any:
    """Rank 1 speaks as torch's object collectives do."""
    import torch
    import torch.distributed as dist

    from vos.distillation.ranks import Ranks

    ranks = Ranks()
    if ranks.rank == 0:
        return ranks.gather("hello")
    data = pickle.dumps(Payload(f"{folder}/payload-ran"))
    parts = [torch.zeros(1, dtype=torch.int64) for _ in range(2)]
    dist.all_gather(parts, torch.tensor([len(data)]))
    message = torch.zeros(max(int(part) for part in parts), dtype=torch.uint8)
    message[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    dist.all_gather([torch.zeros_like(message) for _ in range(2)], message)
    return "sent"


def one_announces_too_much(folder: str) -> Any:
    import torch
    import torch.distributed as dist

    from vos.distillation.ranks import Ranks

    ranks = Ranks()
    if ranks.rank == 0:
        return ranks.gather("hello")
    dist.all_gather([torch.zeros(1, dtype=torch.int64) for _ in range(2)], torch.tensor([2**40]))
    return "sent"


class Pair:
    """Two ranks in processes of their own, joined and waiting for `finish`."""

    def __init__(self, folder: Path, talk: Callable[[str], Any]) -> None:
        self.folder, self.go = folder, CONTEXT.Event()
        port = CONTEXT.Queue()
        arguments = [(rank, str(folder), port, self.go, talk) for rank in (0, 1)]
        self.processes = [CONTEXT.Process(target=one_rank, args=one) for one in arguments]
        for process in self.processes:
            process.start()
        self.port = port.get(timeout=JOIN_S)
        port.put(self.port)
        while not all((folder / f"{rank}.joined").exists() for rank in (0, 1)):
            assert all(process.is_alive() for process in self.processes)
            self.processes[0].join(0.05)

    def listening(self) -> set[tuple[str, int]]:
        return listeners([process.pid for process in self.processes if process.pid])

    def finish(self) -> list[Any]:
        self.go.set()
        for process in self.processes:
            process.join(JOIN_S)
            assert process.exitcode is not None, "a rank waits for ever"
        return [json.loads((self.folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(talk: Callable[[str], Any]) -> Pair:
        made.append(Pair(tmp_path, talk))
        return made[-1]

    yield make
    for one in made:
        for process in one.processes:
            process.kill()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, str]]:
    """(name, this machine's address as seen there) of another network namespace that is wired to this one."""
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("a network namespace needs root and iproute2")
    name = f"mv{os.getpid()}"
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add 198.18.77.1/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add 198.18.77.2/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
    ]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {command}: {done.stderr.strip()}")
        yield name, "198.18.77.1"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True, check=False)


def can_connect(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def test_ranks_of_one_machine_listen_on_loopback_and_no_other_address_reaches_them(
    pair: Callable[..., Pair], elsewhere: tuple[str, str]
) -> None:
    ranks = pair(gathers)
    found = ranks.listening()
    assert ranks.port in {port for _, port in found} and len(found) >= 3, "the store and a port of gloo for each rank"
    assert all(is_loopback(host) for host, _ in found)
    namespace, outward = elsewhere
    probe = (
        "import socket, sys\n"
        "for port in sys.argv[2:]:\n"
        "    with socket.socket() as s:\n"
        "        s.settimeout(2)\n"
        "        print(s.connect_ex((sys.argv[1], int(port))) == 0)\n"
    )
    ports = [str(port) for _, port in found]
    # The probe itself works: it reaches a socket that does listen on the outward address.
    with socket.socket() as open_one:
        open_one.bind((outward, 0))
        open_one.listen()
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", probe, outward]
        done = subprocess.run(
            [*command, *ports, str(open_one.getsockname()[1])], capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["False"] * len(ports) + ["True"]
    for port in map(int, ports):
        assert not can_connect(outward, port) and not can_connect("127.0.0.2", port)
    expected = [[{"rank": 0, "step": step}, {"rank": 1, "step": step}] for step in range(50)]
    assert ranks.finish() == [expected, expected]


def test_garbage_and_a_strangers_keys_on_every_port_leave_two_ranks_undisturbed(pair: Callable[..., Pair]) -> None:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    ranks = pair(gathers)
    payload = pickle.dumps(Payload(str(ranks.folder / "payload-ran")))
    open_ones = []
    for host, port in ranks.listening():
        for data in (b"", b"\0" * 64, b"GET / HTTP/1.0\r\n\r\n", os.urandom(4096), payload):
            one = socket.create_connection((host, port), timeout=5)
            one.sendall(data)
            open_ones.append(one)  # and left open, as one who waits for an answer would
    store = TCPStore(LOOPBACK, ranks.port, is_master=False, wait_for_workers=False)
    for key in [*store.list_keys(), "default_pg/0//0", "secret/0"]:
        store.set(key, payload)  # type: ignore[arg-type]
    answers = ranks.finish()
    for one in open_ones:
        one.close()
    expected = [[{"rank": 0, "step": step}, {"rank": 1, "step": step}] for step in range(50)]
    assert answers == [expected, expected] and not (ranks.folder / "payload-ran").exists()


@pytest.mark.parametrize(
    ("talk", "reason"), [(one_pickles, "no JSON"), (one_announces_too_much, "1099511627776 bytes")]
)
def test_a_peer_that_speaks_otherwise_is_one_error_line_and_nothing_of_it_runs(
    pair: Callable[..., Pair], talk: Callable[[str], Any], reason: str
) -> None:
    ranks = pair(talk)
    heard, sent = ranks.finish()
    assert sent == "sent" and reason in heard["error"] and "\n" not in heard["error"]
    assert not (ranks.folder / "payload-ran").exists()


def test_a_peer_that_never_comes_ends_the_wait(tmp_path: Path) -> None:
    script = (
        "from vos.distillation.rendezvous import *; join(LOOPBACK, open_store(LOOPBACK, 2, 1), LOOPBACK, 's', 0, 2, 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=JOIN_S, check=False)
    assert done.returncode and "DistStoreError" in done.stderr


def test_an_interface_is_found_by_its_address(elsewhere: tuple[str, str]) -> None:
    assert interface_of(LOOPBACK) == "lo"
    assert interface_of(elsewhere[1]) == f"{elsewhere[0]}a"
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        interface_of("192.0.2.1")
