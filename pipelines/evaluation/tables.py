"""Format results as text tables."""

from __future__ import annotations

from pipelines.evaluation.evaluate import Evaluation
from pipelines.evaluation.sources import sources_scored
from pipelines.runtime.tables import percent, table
from vos.metrics.scores import AUTO, Scores, SequenceScore
from vos.published.figures import METHOD_OF_MODEL, published

NAMED = 20
"""Sequences that were left out are named one by one up to this number."""


def sequence_table(result: Evaluation) -> str:
    """Return a table with one row per sequence and the mean over objects, then the speed and the published figures."""
    rows = [
        [row["sequence"], percent(row["j_and_f"]), percent(row["j"]), percent(row["f"])] for row in result.sequences
    ]
    metrics = result.metrics
    for source in sources_scored(metrics):
        rows.append(
            [f"source {source}", *(percent(metrics[f"val/{source}/{figure}"]) for figure in ("j_and_f", "j", "f"))]
        )
    rows.append(
        [
            f"all objects, {result.cut} only" if result.cut else "all objects",
            percent(metrics.get("val/j_and_f")),
            percent(metrics.get("val/j")),
            percent(metrics.get("val/f")),
        ]
    )
    text = table(["sequence", "J&F", "J", "F"], rows)
    if "fps/short" in metrics:
        text += f"\nfps    short {metrics['fps/short']:.1f}, long {metrics['fps/long']:.1f}"
    return "\n".join([text, *reported_lines(result.model)])


def reported_lines(model: str) -> list[str]:
    """Return the paper's figures for this model, marked as the authors': on all of DAVIS, with their training and machine."""
    if model not in METHOD_OF_MODEL:
        return []
    row = published(METHOD_OF_MODEL[model])
    lines = []
    for name, quality in (("DAVIS-2016", row.davis16), ("DAVIS-2017", row.davis17)):
        if quality is not None:
            figures = (
                f"J&F {percent(quality.j_and_f)}, J {percent(quality.j)}, F {percent(quality.f)}, FPS {quality.fps}"
            )
            lines.append(f"{row.source}: {row.method} on {name}: {figures} (the authors' training and machine)")
    return lines


def score_table(scores: Scores, with_official: bool = False) -> str:
    """Return a table with one row per sequence and the protocol's averages, and notes on what these do not contain.

    with_official  also a line as the official davis2017-evaluation counts objects
    """
    mixed = scores.protocol == AUTO
    rows = [
        [f"{one.sequence} ({one.protocol})" if mixed else one.sequence, *_percents(one)] for one in scores.sequences
    ]
    rows.append([f"mean ({'each by its protocol' if mixed else scores.protocol})", *_percents(scores)])
    if with_official:
        official = scores.official()
        more = sum(len(one.never) for one in scores.sequences)
        rows.append([f"official (with {more} ids that never occur)", *_percents(official)])
    lines = [table(["sequence", "J&F", "J", "F"], rows)]
    if scores.seen is not None:
        summary = scores.summary()
        halves = ", ".join(
            f"{key} {percent(summary[key])}" for key in ("j_seen", "f_seen", "j_unseen", "f_unseen", "g")
        )
        lines.append(f"split: {halves}")
    for one in scores.sequences:
        if one.ignored_labels:
            labels = ", ".join(map(str, one.ignored_labels))
            lines.append(
                f"note: {one.sequence}: predicted label {labels} is not a scored object; it counts as background"
            )
        if one.later_objects:
            labels = ", ".join(map(str, one.later_objects))
            lines.append(f"note: {one.sequence}: {one.protocol} does not score objects that begin later ({labels})")
        if one.remark:
            lines.append(f"note: {one.sequence}: {one.remark}")
    lines += [f"left out: {name}: {reason}" for name, reason in scores.left_out[:NAMED]]
    if len(scores.left_out) > NAMED:
        lines.append(f"left out: {len(scores.left_out) - NAMED} more; --strict refuses such folders")
    return "\n".join(lines)


def _percents(scores: Scores | SequenceScore) -> list[str]:
    return [percent(scores.j_and_f), percent(scores.j), percent(scores.f)]


def method_table(results: dict[str, Evaluation]) -> str:
    """Return a table with one row per method: size, accuracy in percent, speed."""
    rows = []
    for name, result in results.items():
        metrics = result.metrics
        accuracy = [percent(metrics.get(f"val/{key}")) for key in ("j_and_f", "j", "f")]
        speed = [f"{metrics[key]:.1f}" if key in metrics else "-" for key in ("fps/short", "fps/long")]
        label = f"{name} ({result.cut})" if result.cut else name
        rows.append([label, f"{result.parameters / 1e6:.2f} M" if result.parameters else "-", *accuracy, *speed])
    return table(["method", "params", "J&F", "J", "F", "FPS short", "FPS long"], rows)
