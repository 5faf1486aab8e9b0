"""Format an adaptation as text."""

from __future__ import annotations

import statistics

from pipelines.adaptation.adapt import Adaptation, gains
from pipelines.adaptation.scores import AGREEMENT, Score
from pipelines.runtime.tables import percent, table
from vos.config import AdaptConfig
from vos.inference.sample_video import SAMPLE_CREDIT
from vos.printed import JOB, command


def summary(config: AdaptConfig, result: Adaptation) -> str:
    """Return the job's printed result: J&F before and after, the cost of each stage, and the next commands."""
    lines = [_scores(result), "", _costs(result), "", *_verdicts(result)]
    first = next(iter(result.students.values()))
    lines += [
        f"labels      {result.kept} of {result.frames} frames are kept; look: "
        + command(*JOB, "jobs.label", "--out", f"{config.out}/labels", "--show", "4"),
        f"checkpoint  {first}",
        "next        " + _next(config, first),
        "            " + command(*JOB, "jobs.export", "--model", first, "--out", f"{config.out}/exported"),
    ]
    return "\n".join(lines + ([SAMPLE_CREDIT] if config.sample else []))


def _next(config: AdaptConfig, student: str) -> str:
    if config.sample:
        return command(*JOB, "jobs.segment", "--sample", "--model", student)
    return command(*JOB, "jobs.segment", "VIDEO.mp4", "--first-mask", "MASK.png", "--model", student)


def _scores(result: Adaptation) -> str:
    rows = []
    for row in result.before:
        for seed, scores in result.after.items():
            after = next(one for one in scores if one["by"] == row["by"])
            gain = 100 * (after["j_and_f"] - row["j_and_f"])
            pair = [percent(one["j_and_f"]) for one in (row, after)]
            rows.append([row["by"], row["videos"], row["frames"], seed, *pair, f"{gain:+.1f}"])
    return table(["J&F by", "videos", "frames", "seed", "before", "after", "gain"], rows)


def _costs(result: Adaptation) -> str:
    rows = [[name, *_minutes(stage["cpu_s"], stage["wall_s"])] for name, stage in result.stages.items()]
    every = result.stages.values()
    rows.append(["all", *_minutes(sum(one["cpu_s"] for one in every), sum(one["wall_s"] for one in every))])
    return table(["stage", "CPU min", "min"], rows)


def _minutes(*seconds: float) -> list[str]:
    return [f"{one / 60:.2f}" for one in seconds]


def _verdicts(result: Adaptation) -> list[str]:
    if not result.before:
        return ["these videos have neither further true masks nor held-out labels: nothing is scored"]
    return [verdict(row, gains(result)[row["by"]]) for row in result.before]


def verdict(before: Score, gained: list[float]) -> str:
    """Return a line on what was gained; a gain is claimed where it exceeds the spread of the seeds."""
    mean, spread = statistics.mean(gained), max(gained) - min(gained)
    seeds = f"{len(gained)} seeds, {100 * spread:.1f} apart" if len(gained) > 1 else "one seed"
    what = "agreement with the teacher" if before["by"] == AGREEMENT else "J&F"
    figures = f"{what} {percent(before['j_and_f'])} before, {percent(before['j_and_f'] + mean)} after ({seeds})"
    if len(gained) == 1:
        return f"{figures}: {100 * mean:+.1f}; --seeds 3 shows how reliable that is"
    if mean > spread:
        return f"{figures}: adapting gained {100 * mean:.1f}"
    return f"{figures}: no gain is claimed, since the difference is not larger than the spread of the seeds"
