"""The paired comparisons and the ablations of the protocol, as data for the page."""

from __future__ import annotations

from pipelines.studies.davis.plan import BEST_TEMPERATURE, LONG, REPEATS, SHARES, TEMPERATURES, Study, W
from pipelines.studies.davis.results import Results
from pipelines.studies.protocols.families import Comparison

STUDENTS = {"plain": "plain", "both": "distilled"}


def comparisons(results: Results) -> list[Comparison]:
    """Return every comparison of the protocol, also those without any run."""
    found, group = [], ""
    for head, title, a, b in _listed(results.study):
        group = head or group
        found.append(results.compare(a, b, title, group))
    return found


def _listed(study: Study) -> list[tuple[str, str, str, str]]:
    """Return (group where one starts, title, family, family that it is compared with)."""
    rank, context = study.cache.factor.rank, study.cache.teacher.context_frames
    some, kd, full, tau = study.quarter, f"{study.light_kd:g}", f"full-{study.main}", f"{BEST_TEMPERATURE:g}"
    alone = [("equal steps", "both"), ("logits alone", "logits"), ("L_repr alone", "repr")]
    memories = [("first", "first alone"), ("recent", "recent alone"), ("infinite", "infinite")]
    listed = [
        ("Distilled against plain", "equal steps, short", "short-both", "short-plain"),
        ("", f"equal steps, short, KL weight {kd}", f"short-kd{kd}", "short-plain"),
        ("", "equal steps, full", f"{full}-both", f"{full}-plain"),
        ("", f"equal steps, full, KL weight {kd}", f"{full}-kd{kd}", f"{full}-plain"),
        ("", f"equal steps, {LONG:g} times full", f"{full}-both-long", f"{full}-plain-long"),
        ("", f"equal steps, {LONG:g} times full, every clip new", f"{full}-both-fresh", f"{full}-plain-fresh"),
        ("", "equal CPU time, short", "short-both", "longer-plain"),
        ("", "equal CPU time, full", f"{full}-both", f"{full}-plain-longer"),
        ("", "half the steps against all, short", "half-both", "short-plain"),
        ("", "half the steps against all, full", f"{full}-both-half", f"{full}-plain"),
        ("", f"full against {LONG:g} times the steps", f"{full}-both", f"{full}-plain-long"),
        *(("", f"{what}, full", f"{full}-{loss}", f"{full}-plain") for what, loss in alone[1:]),
        *(("", f"{what}, full, {label}", f"full-{label}-{loss}", f"full-{label}-plain")
          for label in study.others for what, loss in alone),
        ("Clips", f"all different against a quarter of them {REPEATS} times, full, plain", f"{full}-plain", "repeat-plain"),
        ("", "the same, distilled", f"{full}-both", "repeat-both"),
        ("", f"distilled against plain, {REPEATS} times a quarter of the clips", "repeat-both", "repeat-plain"),
        *(("", f"new against mirrored clips, {LONG:g} times full, {student}", f"{full}-{loss}-fresh", f"{full}-{loss}-long")
          for loss, student in STUDENTS.items()),
        ("Sampling", f"boundary against uniform, {some}", f"short-{some}", "short-uniform"),
        ("", f"boundary against uniform, {some}, half the steps", f"half-{some}", "half-uniform"),
        ("Targets", f"int8 rank {rank} from the cache against fp32, all columns", "short-both", "short-fp32"),
        ("", "cached against online teacher (fp32, all columns)", "short-both", "short-online"),
        ("", "int8 against fp16", "short-both", "short-fp16"),
        ("", f"rank {rank} against 16", "short-both", "short-rank16"),
        ("Temperature", f"{tau} against the usual", f"short-tau{tau}", "short-both"),
        ("Teacher", f"{context} context frames against none", "short-both", "short-context0"),
        ("", f"{context} context frames against 2", "short-both", "short-context2"),
        ("", "true against predicted context masks", "short-truemasks", "short-both"),
        *(("Memory", f"{label} against first + recent, {student} student", f"memory-{kind}-{loss}", f"{full}-{loss}")
          for loss, student in STUDENTS.items() for kind, label in memories),
    ]  # fmt: skip
    if size := study.as_large:
        listed += [
            ("Size", "frames as large as the teacher's, plain student", f"{size}-plain-fresh", f"{full}-plain-fresh"),
            ("", "the same, distilled", f"{size}-both-fresh", f"{full}-both-fresh"),
            ("", "distilled against plain, both with larger frames", f"{size}-both-fresh", f"{size}-plain-fresh"),
        ]
    return listed


def ablations(study: Study) -> dict[str, list[tuple[str, str]]]:
    """Return {title: [(value, family), …]} of each ablation, ordered by value; the usual value is the common base run."""
    usual, cache, main, base = study.train.loss, study.cache, f"full-{study.main}", "short-both"
    rank, context, some = cache.factor.rank, cache.teacher.context_frames, study.quarter
    kd, light_kd, heavy_kd = (f"{value:g}" for value in (usual.kd, study.light_kd, study.heavy_kd))
    heavy_repr, dense = f"{study.heavy_repr:g}", study.dense_samples

    def varied(values: tuple[float, ...], sign: str, own: float) -> list[tuple[str, str]]:
        pairs = sorted([(value, f"short-{sign}{value:g}") for value in values] + [(own, base)])
        return [(f"{value:g}", family) for value, family in pairs]

    found = {
        "w, the teacher's share of the correlations": varied(W, "w", usual.w),
        "temperature": varied(TEMPERATURES, "tau", usual.temperature),
        "weight of the logits' KL": [
            (light_kd, f"short-kd{light_kd}"), (kd, base), (heavy_kd, f"short-kd{heavy_kd}")],
        "weight of |S| x L_repr": [(f"{usual.representation:g}", base), (heavy_repr, f"short-repr{heavy_repr}")],
        "N, sampled pixels": [
            *((study.sampled(share)[1:], f"short-{study.sampled(share)}") for share in SHARES),
            (str(cache.samples), base), (str(dense), f"short-n{dense}")],
        "sampling": [(f"boundary {some}", f"short-{some}"), (f"uniform {some}", "short-uniform")],
        "factor": [
            ("int8 r16", "short-rank16"), (f"int8 r{rank}", base), (f"fp16 r{rank}", "short-fp16"),
            ("fp32 all", "short-fp32"), ("online", "short-online")],
        "context frames": [
            ("0", "short-context0"), ("2", "short-context2"), (str(context), base), ("5, true masks", "short-truemasks")],
        "weight of the logits' KL, full": [(light_kd, f"{main}-kd{light_kd}"), (kd, f"{main}-both")],
    }  # fmt: skip
    for loss, student in STUDENTS.items():
        memories = {kind: f"memory-{kind}" for kind in ("first", "recent")} | {"first + recent": main}
        memories["infinite"] = "memory-infinite"
        title = f"memory, {student} student, full"
        found[title] = [(label, f"{family}-{loss}") for label, family in memories.items()]
    for loss, student in STUDENTS.items() if study.as_large else ():
        sizes = {study.evaluate.size_px: main, study.scale.teacher_px: study.as_large}
        title = f"frames' shorter side (px), {student}, {LONG:g} x full"
        found[title] = [(str(size_px), f"{family}-{loss}-fresh") for size_px, family in sizes.items()]
    return found
