"""J and F of predicted masks, equal to the official evaluations.

Three protocols:
  davis2017   objects 1 to the highest label of the first true mask, but for ids that no true mask shows; first and last
              frame are not scored; averages over objects. Label 255 of a true mask is void and counts as background.
  davis2016   every label except 0 is the one foreground object (0/255 masks work); first and last frame are not scored;
              averages over sequences.
  youtubevos  only frames that have a true mask; every object is scored on the frames after the first one that shows it.
"auto" chooses for each sequence as evaluations of a model do: youtubevos where an object begins later or where frames
without a true mask were predicted, davis2017 otherwise. The official davis2017 code also counts ids below the highest
that no true mask shows, mostly as 1: SequenceScore.never, Scores.official().
J is 1 if true mask and prediction of an object are both empty, and 0 if only one is.
A predicted label of no scored object counts as background and is listed in SequenceScore.ignored_labels. The official
DAVIS code stops at a label above the first mask's highest; here the scores are as if that label were cleared.

For speed, a file is decoded once for all objects (vos/media/palette.py), and F uses thin contours (vos/metrics/contours.py).
The tests compare with the definition, pixel by pixel (tests/oracle_davis.py).
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from vos.errors import InputError
from vos.media.frame_files import same_text
from vos.media.palette import read_indices
from vos.metrics.contours import contour_f, label_changes
from vos.metrics.mask_folders import Folders, Frame, NotScored, all_folders, folders_of, sequence_names
from vos.metrics.regions import region_j
from vos.metrics.scores import (
    AUTO,
    DAVIS2016,
    DAVIS2017,
    PROTOCOLS,
    YOUTUBEVOS,
    LeftOut,
    ObjectScore,
    Scores,
    SequenceScore,
    merge,
)

__all__ = [
    "Scores",
    "SequenceScore",
    "ObjectScore",
    "merge",
    "score_folders",
    "score_frame",
    "score_masks",
    "score_sequence",
]

_VOID = 255
_Pairs = Iterable[tuple[str, np.ndarray, np.ndarray]]


def score_folders(
    gt: str | os.PathLike[str],
    pred: str | os.PathLike[str],
    workers: int = 1,
    protocol: str = DAVIS2017,
    *,
    sequences: Sequence[str] | None = None,
    seen: Mapping[tuple[str, int], bool] | None = None,
    strict: bool = True,
) -> Scores:
    """Score a folder of predicted masks against a folder of true ones, each <folder>/<sequence>/<frame>.png.

    workers    processes that share the sequences; 1 uses only this process
    protocol   "davis2017", "davis2016", "youtubevos" or "auto", see above
    sequences  sequences to score; by default all of gt; folders that only pred has are ignored, without `strict` left out
    seen       youtubevos: which objects have a seen category, from vos.metrics.scores.seen_objects
    strict     False: sequences that are absent, too short, without an object or lack predicted masks are left out, with
               the reason in Scores.left_out
    returns    Scores, all in [0, 1]: rows() has J and F mean, recall and decay per object, summary() their means

    Source: the official davis2017-evaluation (db_statistics); docs/method.md, measures.

    Raises InputError for an absent or empty folder, frames missing in pred (before anything is scored), masks of
    different size, an unreadable mask, or an unknown protocol. The error names the files. Without `strict` it raises only
    for files that cannot be read and where no sequence is left.
    """
    gt, pred = os.fspath(gt), os.fspath(pred)
    _check_protocol(protocol)
    if workers < 1:
        raise InputError(f"workers {workers}: use 1 or more")
    if sequences is None:
        sequences = sequence_names(gt)
        if not strict:
            known = {same_text(name) for name in sequences}
            sequences += [name for name in sequence_names(pred) if same_text(name) not in known]
    folders = all_folders(gt, pred, sequences)
    if strict:
        for one in folders:
            one.scored(_shortest(one, protocol))
    score = partial(_score_or_reason, protocol=protocol, strict=strict)
    if workers == 1 or len(folders) == 1:
        results = [score(one) for one in folders]
    else:
        results = _in_processes(score, sorted(folders, key=lambda one: len(one.true), reverse=True), workers)
    left_out = sorted(LeftOut(one.sequence, one.reason) for one in results if isinstance(one, NotScored))
    scored = [one for one in results if isinstance(one, SequenceScore)]
    if not scored:
        raise InputError("no sequence can be scored: " + "; ".join(f"{name}: {why}" for name, why in left_out[:5]))
    protocols = {one.protocol for one in scored}
    return replace(merge(scored, protocols.pop() if len(protocols) == 1 else AUTO, seen), left_out=tuple(left_out))


def _in_processes(
    score: Callable[[Folders], SequenceScore | NotScored], folders: list[Folders], workers: int
) -> list[SequenceScore | NotScored]:
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has threads can hang
    with ProcessPoolExecutor(min(workers, len(folders)), spawn, initializer=_start_worker) as pool:
        try:
            return list(pool.map(score, folders))
        except KeyboardInterrupt:  # or the block would wait for the sequences in work
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent


def score_sequence(gt: str, pred: str, protocol: str = DAVIS2017) -> SequenceScore:
    """Score one sequence, two folders of <frame>.png, named after the folder of gt. Raises InputError as score_folders does."""
    _check_protocol(protocol)
    return _score_folders_of(folders_of(gt, pred), protocol)


def _score_or_reason(folders: Folders, protocol: str, strict: bool) -> SequenceScore | NotScored:
    try:
        return _score_folders_of(folders, protocol)
    except NotScored as reason:
        if strict:
            raise
        return reason


def _score_folders_of(folders: Folders, protocol: str) -> SequenceScore:
    if protocol == AUTO:
        protocol = _shortest(folders, protocol)
        if protocol == DAVIS2017 and _has_later_objects(folders):
            protocol = YOUTUBEVOS
    frames = folders.scored(protocol)
    found = _score(folders.name, read_indices(folders.true_paths[0]), _read_pairs(frames), protocol)
    return replace(found, remark=folders.remark)


def _shortest(folders: Folders, protocol: str) -> str:
    """Return the protocol, or as far as the names of the files tell which one "auto" means; davis2017 scores the fewest frames."""
    return protocol if protocol != AUTO else YOUTUBEVOS if folders.is_sparse else DAVIS2017


def _has_later_objects(folders: Folders) -> bool:
    shown = []
    for path in folders.true_paths:
        labels = read_indices(path)
        shown.append(_labels_in(labels, label_changes(labels)) - {_VOID})
    return bool(set().union(*shown[1:]) - shown[0]) if shown else False


def score_masks(
    gt: np.ndarray,
    pred: np.ndarray,
    object_ids: Sequence[int] | None = None,
    exclude_ends: bool = True,
    *,
    name: str = "",
    frames: Sequence[str] | None = None,
    protocol: str = DAVIS2017,
) -> SequenceScore:
    """Score one sequence in memory.

    gt, pred      (T, H, W) labels 0 to 255, of any integer type or bool; youtubevos: only the annotated frames
    object_ids    the objects to score; by default those of the protocol
    exclude_ends  leave out the first and last frame, as in DAVIS; youtubevos always leaves out only the first
    frames        (T,) names of the frames; by default 00000, 00001, ...

    Raises InputError for shapes that differ, labels outside 0 to 255, no object, or too few frames.
    """
    _check_protocol(protocol)
    gt, pred = _as_labels(gt, "gt"), _as_labels(pred, "pred")
    if gt.ndim != 3 or gt.shape != pred.shape:
        raise InputError(f"{name or 'masks'}: gt is {gt.shape}, pred {pred.shape}; both must be the same (T, H, W)")
    if object_ids is not None and not all(1 <= item <= 255 for item in object_ids):
        raise InputError(f"object_ids {list(object_ids)}: objects have the labels 1 to 255")
    names = [f"{index:05d}" for index in range(len(gt))] if frames is None else list(frames)
    ends = (1, len(gt)) if protocol == YOUTUBEVOS else (1, len(gt) - 1) if exclude_ends else (0, len(gt))
    if ends[0] >= ends[1]:
        raise InputError(f"{name or 'masks'}: {len(gt)} frames leave none to score; give more frames")
    pairs = ((names[index], gt[index], pred[index]) for index in range(*ends))
    return _score(name, gt[0], pairs, protocol, object_ids)


def score_frame(gt: np.ndarray, pred: np.ndarray, object_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of one frame: gt, pred (H, W) uint8 labels, contiguous -> two (O,) float64 in the order of object_ids."""
    return _score_changes(gt, pred, label_changes(gt), label_changes(pred), object_ids)


def _score_changes(
    gt: np.ndarray, pred: np.ndarray, gt_changes: np.ndarray, pred_changes: np.ndarray, object_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    j = region_j(gt, pred, gt_changes, pred_changes, object_ids)
    return j, contour_f(gt, pred, gt_changes, pred_changes, object_ids)


def _score(
    name: str, first_gt: np.ndarray, pairs: _Pairs, protocol: str, object_ids: Sequence[int] | None = None
) -> SequenceScore:
    ids = _first_objects(name, first_gt, protocol, object_ids)
    # Ids that the official code counts because a higher one exists may never occur.
    counts_all = protocol == DAVIS2017 and object_ids is None
    shown = set(_objects_in(first_gt, label_changes(first_gt), None)) if counts_all else set(ids)
    curves: dict[int, list[tuple[str, float, float]]] = {}
    ignored: set[int] = set()
    for frame, gt, pred in pairs:
        if protocol == DAVIS2016:
            gt, pred = (gt != 0).view(np.uint8), (pred != 0).view(np.uint8)
        gt_changes, pred_changes = label_changes(gt), label_changes(pred)
        ignored |= _labels_in(pred, pred_changes) - set(ids)
        for object_id, j, f in zip(ids, *_score_changes(gt, pred, gt_changes, pred_changes, ids), strict=True):
            curves.setdefault(object_id, []).append((frame, float(j), float(f)))
        if counts_all:
            shown.update(_objects_in(gt, gt_changes, None))
        elif protocol == YOUTUBEVOS:
            ids += [item for item in _objects_in(gt, gt_changes, object_ids) if item not in ids]
    if not curves:
        raise NotScored(name or "masks", "no object to score", "give true masks with an object before the last frame")
    objects = [_object_score(object_id, curve) for object_id, curve in sorted(curves.items())]
    return SequenceScore(
        sequence=name,
        objects=tuple(one for one in objects if not counts_all or one.object_id in shown),
        ignored_labels=tuple(sorted(ignored - set(ids))),
        protocol=protocol,
        never=tuple(one for one in objects if counts_all and one.object_id not in shown),
        later_objects=tuple(sorted(shown - set(ids))) if counts_all else (),
    )


def _object_score(object_id: int, curve: list[tuple[str, float, float]]) -> ObjectScore:
    frames, j, f = zip(*curve, strict=True)
    return ObjectScore(object_id=object_id, frames=frames, j=np.array(j), f=np.array(f))


def _first_objects(name: str, first_gt: np.ndarray, protocol: str, object_ids: Sequence[int] | None) -> list[int]:
    """Return the objects to score from the start; youtubevos adds later ones when they appear."""
    if protocol == DAVIS2016:
        return [1]
    if protocol == YOUTUBEVOS:
        return _objects_in(first_gt, label_changes(first_gt), object_ids)
    if object_ids is not None:
        return [int(item) for item in object_ids]
    highest = max(_objects_in(first_gt, label_changes(first_gt), None), default=0)
    if not highest:
        advice = "masks of 0 and 255 need the davis2016 protocol"
        raise NotScored(name or "masks", "the first true mask has no object", advice)
    return list(range(1, highest + 1))


def _objects_in(labels: np.ndarray, changes: np.ndarray, object_ids: Sequence[int] | None) -> list[int]:
    """Return the given objects (None: all) that a true mask shows."""
    present = _labels_in(labels, changes) - {_VOID}
    return sorted(present if object_ids is None else present & set(object_ids))


def _labels_in(labels: np.ndarray, changes: np.ndarray) -> set[int]:
    """Return the labels of a mask except background.

    Only the ends of runs of equal labels are read: 0.02 ms at 480p, where a histogram of all pixels takes 0.8 ms.
    """
    flat = labels.reshape(-1)
    return {*np.flatnonzero(np.bincount(flat[changes])).tolist(), int(flat[-1])} - {0}


def _as_labels(masks: np.ndarray, what: str) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.dtype.kind not in "bui" or (masks.size and not 0 <= masks.min() <= masks.max() <= 255):
        raise InputError(f"{what}: masks of type {masks.dtype} must hold integer labels from 0 to 255")
    return np.ascontiguousarray(masks, dtype=np.uint8)


def _read_pairs(frames: Sequence[Frame]) -> _Pairs:
    """Yield pairs of masks. A pair is valid only until the next one, since all pairs share one buffer."""
    gt_labels, pred_labels = None, None
    for frame in frames:
        gt_labels, pred_labels = read_indices(frame.gt, gt_labels), read_indices(frame.pred, pred_labels)
        if gt_labels.shape != pred_labels.shape:
            is_size, want_size = ("{1}x{0}".format(*labels.shape) for labels in (pred_labels, gt_labels))
            raise InputError(
                f"{frame.pred} has {is_size} pixels, {frame.gt} has {want_size}; save predictions at the size of the true masks"
            )
        yield frame.name, gt_labels, pred_labels


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol '{protocol}' is unknown; use one of {', '.join(PROTOCOLS)}")
