"""No reader crashes, hangs, swells or is deceived: a tenth of `make fuzz`, all kept seeds, and the harness itself."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import campaign
from tests.fuzz.__main__ import faults, table, try_all
from tests.fuzz.cases import Case, Files, NotTellableError, Reader, keep, kept, made, same
from tests.fuzz.worker import measured
from vos.errors import InputError


def test_a_thousand_damaged_and_hostile_inputs_are_refused_in_one_line_or_read_right(tmp_path: Path):
    tally = try_all(None, 1000, seed=0, processes=1, keep=tmp_path)
    print(table(tally))
    assert not tally.found, "\n".join(faults(tally))
    assert sum(counts["own"] for counts in tally.counts.values()) > 500


def test_outcomes_do_not_depend_on_the_number_of_processes():
    one, two = (try_all(["pipe", "words"], 60, seed=3, processes=count, keep=None) for count in (1, 2))
    assert one.counts == two.counts


def _reads(read: Callable[[Path], Any]) -> Reader:
    def oracle(folder: Path) -> str:
        text = (folder / "a.txt").read_text()
        if text == "nobody knows":
            raise NotTellableError
        return text.strip()

    return Reader("made up", lambda folder: {}, read, oracle, {})


def _spin(folder: Path) -> str:
    began = os.times().user
    while os.times().user - began < 2.1:
        pass
    return "right"


def _refuse(message: str) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        raise InputError(message.replace("@", str(folder)))

    return read


@pytest.mark.parametrize(
    ("read", "text", "outcome"),
    [
        (lambda folder: "right", "right", "right"),
        (lambda folder: "other", " other\n", "right"),
        (lambda folder: "other", "third", "wrong"),
        (lambda folder: "other", "nobody knows", "untold"),
        (lambda folder: {}["x"], "", "other"),
        (_refuse("@/a.txt: not right; write it again"), "", "own"),
        (_refuse("not right; write it again"), "", "other"),
    ],
)
def test_the_harness_tells_outcomes_apart(read: Callable[[Path], Any], text: str, outcome: str, tmp_path: Path):
    case = Case("made up", 0, "a", "none", {"a.txt": text.encode()})
    assert measured(_reads(read), case, "right", tmp_path / "input")["outcome"] == outcome


def test_the_harness_notices_time_and_memory(tmp_path: Path):
    def large(folder: Path) -> str:
        with mmap.mmap(-1, 600 * 2**20) as area:  # not of the heap, which may have kept as much from an earlier test
            for page in range(0, len(area), mmap.PAGESIZE):
                area[page] = 1
        return "right"

    case, tally = Case("made up", 0, "a", "none", {"a.txt": b"right"}), campaign.Tally()
    for read in (_spin, large, lambda folder: "right"):
        tally.add({"reader": "made up"}, measured(_reads(read), case, "right", tmp_path / "input"))
    assert tally.counts["made up"] == {"right": 3, "slow": 1, "large": 1, "inputs": 3} and len(tally.found) == 2


def test_an_input_is_a_function_of_reader_seed_and_number_and_is_kept_by_what_it_changes(tmp_path: Path):
    from tests.fuzz.readers import READERS

    samples: dict[str, Files] = {"a": {"raw": bytes(range(200)), "size.json": b"[1, 2]"}}
    one, two, three = (made(READERS["pipe"], samples, 5, number) for number in (1, 1, 2))
    assert same(one.files, two.files) and not same(one.files, three.files)
    path = keep(three, samples["a"], tmp_path, "an example")
    assert same(kept(path, samples).files, {**samples["a"], **three.files})
