"""Figures of a results page, without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vos.files.written import Written

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(drawing: Figure) -> bytes:
    """Return a figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(drawing)
    # Without the program's version, so that the same records give the same file.
    drawing.savefig(data := io.BytesIO(), dpi=110, format="png", metadata={"Software": None})
    return data.getvalue()


def write_pngs(docs: Written, folder: str, pngs: Mapping[str, bytes | None]) -> list[str]:
    """Write the PNGs into `folder` of `docs` and remove those that are None; returns the paths of the others."""
    paths = []
    for name, data in pngs.items():
        if data is None:
            docs.remove(f"{folder}/{name}")
        else:
            paths.append(docs.write(f"{folder}/{name}", data))
    return paths
