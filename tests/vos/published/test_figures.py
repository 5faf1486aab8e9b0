"""The published table is the paper's, row for row, and never passes for a measurement."""

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from vos.published.figures import PUBLISHED, Published, Quality, Speed, published


def tables(shared: Path) -> list[list[list[str]]]:
    """The two tables of section 2, as rows of cells without their heads."""
    section = (shared / "PAPER.md").read_text().split("## 2.")[1].split("## 3.")[0]
    blocks = re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()[2:]] for block in blocks
    ]


def quality_cell(quality: Quality | None) -> str:
    if quality is None:
        return "–"
    fps = "–" if quality.fps is None else f"<{quality.fps:g}" if quality.fps_is_bound else f"{quality.fps:.1f}"
    return " / ".join([f"{100 * value:.1f}" for value in (quality.j_and_f, quality.j, quality.f)] + [fps])


def speed_cell(speed: Speed | None) -> str:
    assert speed is not None
    return f"{speed.short_fps} / {'out of memory' if speed.long_out_of_memory else speed.long_fps}"


def test_quality_figures_are_those_of_the_paper(shared):
    rows = [
        [row.method, "yes" if row.constant_cost else "no", quality_cell(row.davis16), quality_cell(row.davis17)]
        for row in PUBLISHED
        if row.davis16
    ]
    assert rows == tables(shared)[0]


def test_size_and_speed_figures_are_those_of_the_paper(shared):
    rows = {
        row.method: [str(row.params_m), speed_cell(row.a40), speed_cell(row.gtx1080ti)] for row in PUBLISHED if row.a40
    }
    assert rows == {method: cells for method, *cells in tables(shared)[1]}


def test_every_row_is_marked_as_reported_and_cannot_be_changed():
    assert {row.source for row in PUBLISHED} == {"reported"}
    with pytest.raises(FrozenInstanceError):
        PUBLISHED[0].source = "measured"  # type: ignore[misc]


def test_a_method_is_found_by_its_name():
    row = published("STCN")
    assert isinstance(row, Published) and row.params_m == 54.4
    with pytest.raises(KeyError):
        published("unheard of")
