"""Format the main table of the results: this project's rows as measured, the paper's as reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.studies.davis.plan import LONG
from pipelines.studies.davis.results import Results
from pipelines.studies.protocols.families import mean
from pipelines.studies.protocols.parts import markdown, spread
from pipelines.studies.protocols.planned import TEACHER, Planned
from vos.published.figures import METHOD_OF_MODEL, PUBLISHED, Speed

FPS = "fps.json"
"""rows.json of jobs.benchmark fps, stored beside the records."""
NAMES = {"plain": "plain", "logits": "logits only", "repr": "L_repr only", "both": "logits + L_repr"}


def main_table(results: Results, plan: list[Planned], fps: list[dict[str, Any]]) -> str:
    quality, speeds = ["J&F", "J", "F"], ["FPS short", "FPS long", "x STCN"]
    header = ["method", "teacher", "params", "memory", *quality, "seeds", "CPU min", *speeds]
    models = {one.family: getattr(one.job, "model", "") for one in plan}
    full = f"full-{results.study.main}"
    lengths = {"long": f", {LONG:g} times the steps", "fresh": f", {LONG:g} times the steps, every clip new"}
    titles = {TEACHER: f"teacher, {models[TEACHER]}"}
    titles |= {f"{full}-{loss}": name for loss, name in NAMES.items()}
    titles |= {
        f"{full}-{loss}-{one}": NAMES[loss] + length for one, length in lengths.items() for loss in ("plain", "both")
    }
    titles |= {f"full-{one}-{loss}": name for one in results.study.others for loss, name in NAMES.items()}
    rows = []
    for family, title in titles.items():
        of, name = results.of_family(family), title if family == TEACHER else f"{models[family]}, {title}"
        teacher = "-" if family == TEACHER or "-plain" in family else "own, from the cache"
        memory = "infinite" if family == TEACHER else "first + recent"
        if not of:
            rows.append([name, teacher, "-", memory, "not run", *["-"] * 7])
            continue
        cost = mean([record["cpu_s"] / 60 for record in of if record["cpu_s"] is not None])
        quality = [spread(results.figures(family, key)) for key in ("j_and_f", "j", "f")]
        size, spent = f"{of[0]['parameters'] / 1e6:.2f} M", "-" if cost is None else f"{cost:.0f}"
        rows.append([name, teacher, size, memory, *quality, len(of), spent, *_measured_speed(models[family], fps)])
    notes = [
        "*reported*: the authors' figures on the 20 sequences of DAVIS-2016, with YouTube-VOS, their teacher, 150,000 steps and an A40; "
        "not measured here and not comparable in level.",
        "FPS: one object, the network seeing 854x480, median frame, `python -m jobs.benchmark fps`, best runtime of each network "
        f"({FPS}).{_shipped_speed(results.study.evaluate.size_px, models[f'{full}-plain'], fps)}"
        if fps
        else f"FPS: `-` until `python -m jobs.benchmark fps --json docs/results/{FPS}` has been run alone on the machine.",
    ]
    return "\n".join(["## Main table", markdown(header, [*rows, *_reported()]), "", *(f"- {note}" for note in notes)])


def _shipped_speed(size_px: int, model: str, fps: list[dict[str, Any]]) -> str:
    """Return a sentence on the student's speed at the size at which J&F is measured, "" where it was not timed."""
    short, long, ratios = _measured_speed(f"{model}@{size_px}", fps)
    if short == "-":
        return ""
    return f" At {size_px} px on the shorter side, where J&F is measured, {model} makes {short} and {long} ({ratios} times STCN)."


def _measured_speed(model: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return FPS short and long of a network's fastest runtime with one object, and the ratios to STCN in the same benchmark.

    They use median frames, as the benchmark's own ratios, because other load on the machine changes the mean more.
    """

    def best(name: str, protocol: str) -> float | None:
        of = [row for row in rows if (row["system"], row["protocol"], row["objects"]) == (name, protocol, 1)]
        return max((1000 / row["ms_per_frame_median"] for row in of), default=None)

    return _speeds([(best(model, protocol), best("stcn", protocol)) for protocol in ("short", "long")])


def _speeds(pairs: Sequence[tuple[float | None, float | None]]) -> list[str]:
    ratios = [f"{own / other:.1f}" if own and other else "-" for own, other in pairs]
    return [*("-" if own is None else f"{own:.1f}" for own, _ in pairs), " / ".join(ratios)]


def _reported() -> Iterable[list[Any]]:
    stcn = next(row.a40 for row in PUBLISHED if row.method == "STCN")
    ours = set(METHOD_OF_MODEL.values())
    for row in PUBLISHED:
        if row.method not in ours or row.davis16 is None:
            continue
        speed, base = row.a40 or Speed(0, None), stcn or Speed(0, None)
        quality = [f"{100 * value:.1f}" for value in (row.davis16.j_and_f, row.davis16.j, row.davis16.f)]
        cells = _speeds([(speed.short_fps, base.short_fps), (speed.long_fps, base.long_fps)])
        memory, teacher = ("first + recent", "STCN") if row.constant_cost else ("infinite", "-")
        yield [f"{row.method}, *{row.source}*", teacher, f"{row.params_m} M", memory, *quality, "-", "-", *cells]
