"""Video object segmentation with a student whose memory is two frames: plain PyTorch and NumPy.

    from vos import Engine, load

Both are imported on first use, so that `import vos` and the configurations load fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vos.inference.engine import Engine
    from vos.models.builtin import load

__all__ = ["Engine", "load"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from vos.inference.engine import Engine

        return Engine
    if name == "load":
        from vos.models.builtin import load

        return load
    raise AttributeError(f"module 'vos' has no attribute {name!r}")
