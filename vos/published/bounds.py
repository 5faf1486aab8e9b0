"""A figure with its bound: the result type of checks, benchmarks and the study's claims."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RELATIONS: dict[str, Callable[..., bool]] = {
    "=": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
REACHED, BELOW, NOT_RUN = "reached", "below target", "not run"


@dataclass(frozen=True)
class Figure:
    """A figure and its target.

    value      a number or a text; None if it was not measured, and `how` then gives the reason
    relation   a key of RELATIONS between value and bound; "" if there is no target
    how        how it was measured
    low, high  its spread or interval
    asked      the target in words, if relation and bound do not state it fully
    verdict    the outcome in words, if value, relation and bound do not decide it
    """

    name: str
    value: Any
    relation: str = ""
    bound: float | str = ""
    how: str = ""
    low: float | None = None
    high: float | None = None
    unit: str = ""
    asked: str = ""
    verdict: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value meets the bound (nan never does); None if it was not measured or has no target."""
        return None if self.value is None or not self.relation else RELATIONS[self.relation](self.value, self.bound)

    @property
    def target(self) -> str:
        bound = (
            self.bound if isinstance(self.bound, str) else f"{self.bound:{',' if isinstance(self.bound, int) else 'g'}}"
        )
        return self.asked or (f"{self.relation} {bound}{self.unit}" if self.relation else "")

    @property
    def outcome(self) -> str:
        if self.value is None:
            return self.verdict or NOT_RUN
        return self.verdict or {True: REACHED, False: BELOW, None: ""}[self.met]

    @property
    def slug(self) -> str:
        return slug(self.name)


def slug(name: str) -> str:
    """Convert a name to one that MLflow and file systems accept."""
    return "".join(char if char.isalnum() else "_" for char in name.lower()).strip("_")
