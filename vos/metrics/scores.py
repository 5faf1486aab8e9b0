"""Scores of an evaluation: J and F per frame and object, and the averages that DAVIS and YouTube-VOS report.

The values per frame are kept, so that a report can plot J over time; all averages are computed from them.
All values are in [0, 1]; decay is a difference of two such values and may be negative.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from vos.errors import InputError

CSV_COLUMNS = ("sequence", "object", "J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay")
DAVIS2017, DAVIS2016, YOUTUBEVOS = "davis2017", "davis2016", "youtubevos"
AUTO = "auto"
"""For each sequence the protocol that an evaluation of a model would use."""
PROTOCOLS = (DAVIS2017, DAVIS2016, YOUTUBEVOS, AUTO)


class Statistics(NamedTuple):
    """The three DAVIS figures of one curve."""

    mean: float
    recall: float
    decay: float


class Row(NamedTuple):
    """One object, with fields in the order of CSV_COLUMNS."""

    sequence: str
    object_id: int
    j_mean: float
    j_recall: float
    j_decay: float
    f_mean: float
    f_recall: float
    f_decay: float


def statistics(curve: np.ndarray) -> Statistics:
    """Return mean, recall and decay of per-frame values (T,), T >= 1.

    Recall is the share above 0.5, decay the mean of the first quarter minus that of the last. Quarters are those of
    davis2017-evaluation (db_statistics): their ends are rounded and belong to both neighbours. The official code stores
    these ends in 8 bits, which overflow beyond 256 frames; here they do not.
    """
    ends = np.round(np.linspace(1, len(curve), 5) + 1e-10).astype(np.int64) - 1
    first, last = curve[ends[0] : ends[1] + 1], curve[ends[3] : ends[4] + 1]
    return Statistics(float(curve.mean()), float((curve > 0.5).mean()), float(first.mean() - last.mean()))


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectScore:
    """One object of one sequence. `j` and `f` are (T,) float64, one value for each name in `frames`."""

    object_id: int
    frames: tuple[str, ...]
    j: np.ndarray
    f: np.ndarray

    @property
    def j_statistics(self) -> Statistics:
        return statistics(self.j)

    @property
    def f_statistics(self) -> Statistics:
        return statistics(self.f)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceScore:
    """The objects of one sequence, sorted by id.

    ignored_labels  predicted labels of no scored object
    never           davis2017: ids below the highest one that no true mask shows; the official evaluation counts them as objects, with 1 on
                    each frame where no prediction shows them either
    later_objects   davis2017: objects of later true masks only, which this protocol does not score
    remark          what is unusual about the names of the masks, or ""
    """

    sequence: str
    objects: tuple[ObjectScore, ...]
    ignored_labels: tuple[int, ...] = ()
    protocol: str = DAVIS2017
    never: tuple[ObjectScore, ...] = ()
    later_objects: tuple[int, ...] = ()
    remark: str = ""

    def official(self) -> SequenceScore:
        """Return the score with `never` among the objects."""
        objects = sorted(self.objects + self.never, key=lambda one: one.object_id)
        return replace(self, objects=tuple(objects), never=())

    def to_json(self) -> dict[str, Any]:
        """Return the values of a chosen set of objects as JSON, for `from_json` in another process; `never` is empty for such a set."""
        objects = [
            {"id": one.object_id, "frames": list(one.frames), "j": one.j.tolist(), "f": one.f.tolist()}
            for one in self.objects
        ]
        ignored = list(self.ignored_labels)
        return {"sequence": self.sequence, "objects": objects, "ignored_labels": ignored, "protocol": self.protocol}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SequenceScore:
        objects = tuple(
            ObjectScore(object_id=one["id"], frames=tuple(one["frames"]), j=np.array(one["j"]), f=np.array(one["f"]))
            for one in values["objects"]
        )
        ignored = tuple(values["ignored_labels"])
        return cls(sequence=values["sequence"], objects=objects, ignored_labels=ignored, protocol=values["protocol"])

    @property
    def j(self) -> float:
        """Mean J over objects."""
        return _mean(item.j_statistics.mean for item in self.objects)

    @property
    def f(self) -> float:
        """Mean F over objects."""
        return _mean(item.f_statistics.mean for item in self.objects)

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


class LeftOut(NamedTuple):
    """A sequence that could not be scored, and why."""

    sequence: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """The scores of an evaluation, with sequences sorted by name.

    Averages are over all objects; in the davis2016 protocol over sequences.
    protocol   that of the sequences, or "auto" where they have different ones
    seen       for the youtubevos protocol, whether the category of (sequence, object id) occurs in the training set
    left_out   sequences that could not be scored
    """

    sequences: tuple[SequenceScore, ...]
    protocol: str = DAVIS2017
    seen: Mapping[tuple[str, int], bool] | None = None
    left_out: tuple[LeftOut, ...] = ()

    def official(self) -> Scores:
        """Return the scores as the official davis2017-evaluation counts them: with ids that no true mask shows as objects."""
        return replace(self, sequences=tuple(one.official() for one in self.sequences))

    @property
    def j(self) -> float:
        return self._average(lambda item: item.j_statistics.mean)

    @property
    def f(self) -> float:
        return self._average(lambda item: item.f_statistics.mean)

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2

    def summary(self) -> dict[str, float]:
        """Return the averages by name: j_and_f, and mean, recall and decay of j and of f.

        With a seen/unseen split also j_seen, f_seen, j_unseen, f_unseen and their mean g, the measure of YouTube-VOS.
        A half without objects gives nan.
        """
        figures = {"j_and_f": self.j_and_f}
        for field in Statistics._fields:
            figures[f"j_{field}"] = self._average(lambda item, field=field: getattr(item.j_statistics, field))
            figures[f"f_{field}"] = self._average(lambda item, field=field: getattr(item.f_statistics, field))
        if self.seen is not None:
            halves = {}
            for half, wanted in (("seen", True), ("unseen", False)):
                objects = [item for key, item in self._by_key() if self._is_seen(key) == wanted]
                halves[f"j_{half}"] = _mean(item.j_statistics.mean for item in objects)
                halves[f"f_{half}"] = _mean(item.f_statistics.mean for item in objects)
            figures |= halves | {"g": _mean(halves.values())}
        return figures

    def rows(self) -> list[Row]:
        """Return one row per object, sorted by sequence and object."""
        return [Row(*key, *item.j_statistics, *item.f_statistics) for key, item in self._by_key()]

    def csv(self) -> str:
        """Return rows() as CSV text with the header CSV_COLUMNS and nine decimals."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for sequence, object_id, *figures in self.rows():
            writer.writerow((sequence, object_id, *(f"{figure:.9f}" for figure in figures)))
        return text.getvalue()

    def _by_key(self) -> list[tuple[tuple[str, int], ObjectScore]]:
        return [((one.sequence, item.object_id), item) for one in self.sequences for item in one.objects]

    def _average(self, figure: Callable[[ObjectScore], float]) -> float:
        if self.protocol == DAVIS2016:
            return _mean(_mean(figure(item) for item in one.objects) for one in self.sequences)
        return _mean(figure(item) for _, item in self._by_key())

    def _is_seen(self, key: tuple[str, int]) -> bool:
        if self.seen is None or key not in self.seen:
            raise InputError(
                f"{key[0]}: object {key[1]} is not in the seen/unseen split; give the meta.json of this ground truth"
            )
        return self.seen[key]


def merge(
    sequences: Sequence[SequenceScore],
    protocol: str = DAVIS2017,
    seen: Mapping[tuple[str, int], bool] | None = None,
) -> Scores:
    """Merge separately scored sequences, in any order, into one Scores.

    Raises InputError if there is none, or if two have one name.
    """
    if not sequences:
        raise InputError("no sequence was scored; give ground truth with at least one sequence")
    ordered = sorted(sequences, key=lambda one: one.sequence)
    for before, after in zip(ordered, ordered[1:], strict=False):
        if before.sequence == after.sequence:
            raise InputError(f"{after.sequence}: this sequence was scored twice; score each once")
    return Scores(sequences=tuple(ordered), protocol=protocol, seen=seen)


def seen_objects(meta: Mapping, training_meta: Mapping) -> dict[tuple[str, int], bool]:
    """Return the seen/unseen split of YouTube-VOS: an object is seen if its category occurs in the training set.

    meta, training_meta  parsed meta.json files: {"videos": {video: {"objects": {id: {"category": ...}}}}}
    returns              {(video, object id): seen}
    """
    try:
        trained = {item["category"] for video in training_meta["videos"].values() for item in video["objects"].values()}
        return {
            (name, int(object_id)): item["category"] in trained
            for name, video in meta["videos"].items()
            for object_id, item in video["objects"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"meta.json: not in the format of YouTube-VOS ({error!r}); it needs videos/<name>/objects/<id>/category"
        ) from None


def _mean(values: Iterable[float]) -> float:
    """Return the mean of an iterable of floats, nan if it is empty."""
    collected = list(values)
    return float(np.mean(collected)) if collected else float("nan")
