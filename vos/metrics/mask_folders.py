"""Find the masks of two folders that are compared: which true mask goes with which predicted one, and what cannot be scored.

Masks are PNG files, ordered and matched by the numbers in their names: 10.png follows 9.png, and 00010.png is the same frame.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from vos.errors import InputError
from vos.media.frame_files import by_numbers, entries, in_folder
from vos.metrics.scores import YOUTUBEVOS

_NAMED = 5


class NotScored(InputError):
    """A sequence that cannot be scored although no file of it is damaged; `reason` does not repeat its name."""

    def __init__(self, sequence: str, reason: str, advice: str) -> None:
        super().__init__(f"{sequence}: {reason}; {advice}")
        self.sequence, self.reason, self.advice = sequence, reason, advice

    def __reduce__(self) -> tuple[type[NotScored], tuple[str, str, str]]:
        return type(self), (self.sequence, self.reason, self.advice)  # it comes back from other processes


class Frame(NamedTuple):
    """One scored frame: its name, and the paths of its true and its predicted mask."""

    name: str
    gt: str
    pred: str


class Folders(NamedTuple):
    """The folders of one sequence, and the names of their masks in the order of the frames."""

    name: str
    gt: str
    pred: str
    true: tuple[str, ...]
    predicted: tuple[str, ...]

    def scored(self, protocol: str) -> list[Frame]:
        """Pair the masks that a protocol scores. Raises NotScored where there are none or where predicted ones are missing."""
        if not self.true:
            raise NotScored(self.name, f"no true masks in {self.gt}", "check the name of the sequence")
        names = self.true[1:] if protocol == YOUTUBEVOS else self.true[1:-1]
        if not names:
            masks = f"{len(self.true)} true {'mask leaves' if len(self.true) == 1 else 'masks leave'}"
            raise NotScored(
                self.name, f"too short: {masks} no frame to score in the {protocol} protocol", "give more frames"
            )
        if not self.predicted:
            raise NotScored(self.name, f"no predicted masks in {self.pred}", "predict them")
        present = set(self.predicted)
        numbered: dict[tuple[int | str, ...], list[str]] = {}
        for name in self.predicted:
            numbered.setdefault(_number(name), []).append(name)
        frames, missing = [], []
        for name in names:
            others = [name] if name in present else numbered.get(_number(name), [])
            if len(others) > 1:
                raise InputError(f"{self.pred}: {others[0]} and {others[1]} are both frame {name}; keep one of them")
            if others:
                frames.append(Frame(os.path.splitext(name)[0], self._true(name), os.path.join(self.pred, others[0])))
            else:
                missing.append(os.path.join(self.pred, name))
        if missing:
            listed = ", ".join(missing[:_NAMED]) + (
                f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            )
            raise NotScored(self.name, f"predicted masks are missing ({listed})", "predict these frames")
        return frames

    @property
    def true_paths(self) -> list[str]:
        """Paths of all true masks."""
        return [self._true(name) for name in self.true]

    @property
    def is_sparse(self) -> bool:
        """Whether frames between or after the true masks were predicted too, as for YouTube-VOS, which annotates every fifth."""
        true, predicted = ({_number(name) for name in names} for names in (self.true, self.predicted))
        if not true:
            return False
        first, last = min(true), max(true)
        others = [number for number in predicted - true if number > first]
        # Where the first frame was not predicted, frames after the last true mask are rather counted from another number.
        return any(number < last for number in others) or (bool(others) and first in predicted)

    @property
    def remark(self) -> str:
        """A line where as many masks are numbered differently, which looks as if they were counted from another number; else ""."""
        true, predicted = ({_number(name) for name in names} for names in (self.true, self.predicted))
        if len(true) != len(predicted) or true == predicted:
            return ""
        ends = (f"{names[0]} to {names[-1]}" for names in (self.true, self.predicted))
        return "true masks are {}, predicted ones {}; they are matched by number: check that both begin with one frame".format(
            *ends
        )

    def _true(self, name: str) -> str:
        return os.path.join(self.gt, name)


def all_folders(gt: str, pred: str, sequences: Sequence[str]) -> list[Folders]:
    return [folders_of(in_folder(gt, name), in_folder(pred, name), name) for name in sequences]


def folders_of(gt: str, pred: str, name: str = "") -> Folders:
    return Folders(name or os.path.basename(os.path.normpath(gt)), gt, pred, _masks_in(gt), _masks_in(pred))


def sequence_names(folder: str) -> list[str]:
    """List the folders of masks in a folder. Raises InputError if there are none."""
    names = [name for name in entries(folder) if _masks_in(os.path.join(folder, name))]
    if not names:
        advice = "give the folder that holds one folder for each sequence"
        raise InputError(f"{folder}: no folder of PNG masks in it; {advice}")
    return names


def _masks_in(folder: str) -> tuple[str, ...]:
    return tuple(sorted((name for name in entries(folder) if name.lower().endswith(".png")), key=by_numbers))


def _number(name: str) -> tuple[int | str, ...]:
    """What two names of one frame share: 7.png, 00007.png and 00007.PNG are one frame."""
    return tuple(by_numbers(os.path.splitext(name)[0]))
