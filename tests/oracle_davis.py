"""The official DAVIS-2017 evaluation, written down as plainly as it is defined: the oracle of vos/metrics/davis.py.

Every object of every frame becomes a full-size boolean mask; contours come from shifted copies, the tolerance from a
dilation by a disk. After davis2017-evaluation (its davis.py, results.py, metrics.py and utils.py).

    python -m tests.oracle_davis GT PRED     times both, interleaved in one process and thread, and prints the ratio
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from vos.metrics.davis import score_sequence

Figures = tuple[float, float, float]


def disk(radius: int) -> np.ndarray:
    """(2r+1, 2r+1) uint8: 1 where x² + y² <= r², as skimage.morphology.disk."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def contour(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) bool: pixels unlike their right, lower or lower-right neighbour (seg2bmap)."""
    right, lower, lower_right = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    lower[:-1, :] = mask[1:, :]
    lower_right[:-1, :-1] = mask[1:, 1:]
    line = (mask ^ right) | (mask ^ lower) | (mask ^ lower_right)
    line[-1, :] = mask[-1, :] ^ right[-1, :]
    line[:, -1] = mask[:, -1] ^ lower[:, -1]
    line[-1, -1] = False
    return line


def j_measure(gt: np.ndarray, pred: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks, 1 when both are empty."""
    union = np.sum(gt | pred)
    return 1.0 if union == 0 else float(np.sum(gt & pred) / union)


def f_measure(gt: np.ndarray, pred: np.ndarray) -> float:
    """Contour F of two (H, W) bool masks."""
    radius = int(np.ceil(0.008 * np.linalg.norm(gt.shape)))
    gt_line, pred_line = contour(gt), contour(pred)
    gt_near = cv2.dilate(gt_line.astype(np.uint8), disk(radius))
    pred_near = cv2.dilate(pred_line.astype(np.uint8), disk(radius))
    num_gt, num_pred = np.sum(gt_line), np.sum(pred_line)
    if num_pred == 0 and num_gt > 0:
        precision, recall = 1.0, 0.0
    elif num_pred > 0 and num_gt == 0:
        precision, recall = 0.0, 1.0
    elif num_pred == 0 and num_gt == 0:
        precision, recall = 1.0, 1.0
    else:
        precision = float(np.sum(pred_line * gt_near)) / float(num_pred)
        recall = float(np.sum(gt_line * pred_near)) / float(num_gt)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def summarise(curve: np.ndarray) -> Figures:
    """Mean, recall and decay of per-frame values (db_statistics); for at most 256 of them, as the official code."""
    ends = np.round(np.linspace(1, len(curve), 5) + 1e-10).astype(int) - 1
    quarters = [curve[ends[i] : ends[i + 1] + 1] for i in range(4)]
    return float(np.mean(curve)), float(np.mean(curve > 0.5)), float(np.mean(quarters[0]) - np.mean(quarters[3]))


def score_arrays(gt: np.ndarray, pred: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """(T, H, W) labels -> {object: (J curve, F curve)}, first and last frame left out."""
    gt = np.where(gt == 255, 0, gt)
    num_objects = int(gt[0].max())
    gt, pred = gt[1:-1], pred[1:-1]
    curves = {}
    for object_id in range(1, num_objects + 1):
        gt_masks, pred_masks = gt == object_id, pred == object_id
        pairs = list(zip(gt_masks, pred_masks, strict=True))
        curves[object_id] = (
            np.array([j_measure(*pair) for pair in pairs]),
            np.array([f_measure(*pair) for pair in pairs]),
        )
    return curves


def read_folder(folder: str, names: Sequence[str]) -> np.ndarray:
    return np.stack([np.array(Image.open(os.path.join(folder, name))) for name in names])


def score_folder(gt: str, pred: str) -> dict[int, tuple[Figures, Figures]]:
    """Two folders of one sequence -> {object: (J figures, F figures)}."""
    names = sorted(os.listdir(gt))
    curves = score_arrays(read_folder(gt, names), read_folder(pred, names))
    return {object_id: (summarise(j), summarise(f)) for object_id, (j, f) in curves.items()}


def compare_speed(gt: str, pred: str, repeats: int) -> tuple[float, float]:
    """Median milliseconds of processor time per frame and object of (oracle, vos.metrics.davis), PNG decoding included.

    Sequence by sequence the two take turns, and time spent waiting for the processor is not counted, so that a busy
    machine slows both alike.
    """
    names = sorted(entry.name for entry in os.scandir(gt) if entry.is_dir())
    times: tuple[list[float], list[float]] = ([], [])
    scored = 0
    for _ in range(repeats):
        totals = [0.0, 0.0]
        scored = 0
        for name in names:
            folders = os.path.join(gt, name), os.path.join(pred, name)
            for turn, score in enumerate((score_folder, score_sequence)):
                start = time.process_time()
                result = score(*folders)
                totals[turn] += time.process_time() - start
            scored += sum(len(item.j) for item in result.objects)  # type: ignore[union-attr]
        for turn in range(2):
            times[turn].append(totals[turn])
    return 1e3 * statistics.median(times[0]) / scored, 1e3 * statistics.median(times[1]) / scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gt")
    parser.add_argument("pred")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the two times as one JSON object")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    naive_ms, fast_ms = compare_speed(options.gt, options.pred, options.repeats)
    if options.json:
        print(json.dumps({"oracle": naive_ms, "vos.metrics.davis": fast_ms}))
        return
    ratio = naive_ms / fast_ms if fast_ms else math.inf
    print(f"oracle       {naive_ms:7.2f} ms per frame and object")
    print(f"vos.metrics.davis  {fast_ms:7.2f} ms\nratio        {ratio:7.1f}")


if __name__ == "__main__":
    main()
