"""Write docs/unseen.md from the records alone: choice folds, the looks at the validation sequences, the curve, and the missing runs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping

from pipelines.studies.protocols.families import Families
from pipelines.studies.protocols.parts import SHEET, markdown, missing, sequence_names, sheet, spread
from pipelines.studies.protocols.planned import TEACHER, Planned
from pipelines.studies.protocols.records import Record, docs_folder
from pipelines.studies.unseen.claims import claims, comparisons, fold_mean, looks, on_folds
from pipelines.studies.unseen.plan import JUDGE, WIDE
from pipelines.studies.unseen.plots import CURVE, FOLDS, PLOTS, write_plots
from pipelines.studies.unseen.recipes import Recipe, recipe_of
from vos.config import ReportConfig

NOT_RUN = "not run"
FINAL = {
    TEACHER: "teacher",
    "both": "student, distilled",
    "plain": "student, plain, equal steps",
    "plain-longer": "student, plain, equal CPU time",
    WIDE: "larger student, distilled",
}
"""Families that are scored on the validation sequences."""


def write(config: ReportConfig, plan: list[Planned], records: Mapping[str, Record], unused: list[str]) -> list[str]:
    """Write the page, the sheet of sequences and the plots; returns their paths, the page first.

    records  valid records
    unused   names of records that do not count: of another configuration, or of no run of the plan
    """
    docs, folder, recipe = (
        docs_folder(config.docs, config.overwrite),
        os.path.basename(config.docs),
        recipe_of(config.preset),
    )
    docs.check([f"{folder}.md", f"{folder}/{SHEET}", *(f"{folder}/{name}" for name in PLOTS)])
    results = Families(records)
    written = docs.write(f"{folder}/{SHEET}", sheet(records).encode())
    plots = write_plots(results, recipe, docs, folder)
    drawn = {os.path.basename(path) for path in plots}

    def picture(name: str, title: str) -> str:
        return f"![{title}]({folder}/{name})" if name in drawn else ""

    sections = [
        _head(folder, plan, records),
        _protocol(config.preset, recipe),
        _targets(results, recipe),
        _folds(results, recipe),
        picture(FOLDS, "J&F on the held-out videos of each fold"),
        _looks(results),
        _curve(results, recipe),
        picture(CURVE, "J&F against the number of labelled videos"),
        _comparisons(results, recipe),
        _labels(results, recipe),
        _sequences(results, folder),
        _cost(plan, records),
        missing(plan, records, unused),
    ]
    page = docs.write(f"{folder}.md", ("\n\n".join(one for one in sections if one) + "\n").encode())
    return [page, written, *plots]


def _head(folder: str, plan: list[Planned], records: Mapping[str, Record]) -> str:
    return (
        "# Videos that nobody has seen\n\n"
        f"Written by `python -m jobs.report --page` from the records in `{folder}/runs/`; nothing is typed by hand. "
        f"{len(records)} of {len(plan)} runs are finished. J, F and J&F in percent; ± is the standard deviation over seeds."
    )


def _protocol(name: str, recipe: Recipe) -> str:
    teacher, student, rate = recipe.teacher, recipe.student, recipe.student.optimiser
    pool = max(recipe.labelled)
    lines = [
        f"## Protocol (`--protocol folds --preset {name}`)",
        f"- **Choices** are made on {recipe.folds} folds of the training videos: each holds out {recipe.fold_videos} videos, and its "
        "models learn from the others. Folds are parts of a fixed random order, so no score has a part in them.",
        "- **Final models** learn from all training videos with the chosen settings. Each is scored on the validation sequences once.",
        "- **12 further sequences**, which nothing here reads, are judged elsewhere. Before this protocol: student 70.2, teacher 72.4.",
        f"- **Stills first**: every new training begins with weights that learned from still images alone ({recipe.first_teacher_steps} "
        f"steps of a teacher, {recipe.first_student_steps} of a student).",
        f"- **Clips after that**: DAVIS {recipe.davis:.0%}, stills {recipe.stills:.0%}. Where there are unlabelled videos, their "
        f"labels have {recipe.unlabelled:.0%} of the share of DAVIS.",
        f"- **Teacher**: {teacher.model}, {teacher.steps} steps ({recipe.curve_teacher_steps} on the curve), crops of "
        f"{teacher.clip.crop_px}² px. **Student**: {student.model}, {student.steps} steps ({recipe.curve_student_steps} on the "
        f"curve), {student.clip.num_frames} frames of {student.clip.crop_px}² px. AdamW, lr {rate.lr:g}, EMA {rate.ema:g}.",
        "- **Today's recipe** (`-before-`): the teacher and the plain student of [the earlier results](results.md), DAVIS alone.",
        f"- **Curve**: the masks of {', '.join(map(str, recipe.labelled))} videos are known, of the others the first mask only. Each set "
        f"is a part of the larger ones. Fold {JUDGE} judges, so {pool} videos remain to learn from. A teacher learns from stills and the "
        "labelled videos, labels the others (`jobs.label`), and its students learn from all of them; plain students cannot use the others.",
        "- **Pairs** begin with the same weights (a function of the seed), for equally many steps on equally many clips. The last weights "
        "(EMA) are scored; no checkpoint is chosen.",
        "- **Intervals**: paired bootstrap (95 %, percentile) over seeds and sequences; on folds over sequences (one seed each).",
    ]
    return "\n".join(lines)


def _targets(results: Families, recipe: Recipe) -> str:
    found = claims(results, recipe)
    rows = [[one.name, one.target, one.how, f"**{one.outcome}**" if one.outcome else ""] for one in found]
    return "\n".join(["## Targets", markdown(["what", "target", "found", ""], rows)])


def _folds(results: Families, recipe: Recipe) -> str:
    folds = range(1, recipe.folds + 1)
    titles = {
        "teacher-before": "teacher, today's recipe",
        "teacher": "teacher",
        "plain-before": "plain student, today's recipe",
        "plain": "plain student",
        "both": "distilled student",
    }
    rows = []
    for kind, title in titles.items():
        found = [results.records.get(f"{kind}-{fold}") for fold in folds]
        cells = [NOT_RUN if one is None else f"{100 * one['figures']['j_and_f']:.1f}" for one in found]
        average = fold_mean(results, folds, kind)
        rows.append([f"{title} (`{kind}-F`)", *cells, "-" if average is None else f"{average:.1f}"])
    pairs = [("teacher", "teacher-before"), ("plain", "plain-before"), ("both", "plain")]
    for a, b in pairs:
        one = on_folds(results, folds, a, b)
        rows.append(
            [f"`{a}` − `{b}`", *["-"] * len(folds), f"{one.points} ({one.interval})" if one.difference else NOT_RUN]
        )
    text = f"J&F on the {recipe.fold_videos} held-out training videos of each fold. Settings are chosen here and nowhere else."
    return "\n\n".join(["## Choice folds", text, markdown(["run", *(f"fold {fold}" for fold in folds), "mean"], rows)])


def _looks(results: Families) -> str:
    counted = looks(results)
    total = sum(counted.values())
    rows = []
    for family, title in FINAL.items():
        of = results.of_family(family)
        quality = [spread(results.figures(family, key)) for key in ("j_and_f", "j", "f")] if of else [NOT_RUN, "-", "-"]
        size, cost = (
            (f"{of[0]['parameters'] / 1e6:.2f} M" if of else "-"),
            [one["cpu_s"] / 60 for one in of if one.get("cpu_s")],
        )
        rows.append(
            [f"{title} (`{family}`)", size, *quality, len(of) or "-", f"{statistics.mean(cost):.0f}" if cost else "-"]
        )
    text = f"**Looks at the validation sequences: {total}** (one for each model; no setting was chosen by them)."
    if total:
        text += " By family: " + ", ".join(f"`{family}` {count}" for family, count in counted.items()) + "."
    header = ["model", "parameters", "J&F", "J", "F", "seeds", "CPU min"]
    return "\n\n".join(["## Validation sequences", text, markdown(header, rows)])


def _curve(results: Families, recipe: Recipe) -> str:
    rows = []
    for count in recipe.labelled:
        cells = [
            spread(found) if (found := results.figures(f"{kind}-n{count}")) else NOT_RUN
            for kind in ("teacher", "plain", "both")
        ]
        one = results.compare(f"both-n{count}", f"plain-n{count}")
        rows.append(
            [
                count,
                max(recipe.labelled) - count,
                *cells,
                f"{one.points} ({one.interval})" if one.difference else NOT_RUN,
            ]
        )
    text = f"J&F on the {recipe.fold_videos} held-out videos of fold {JUDGE}; students of {recipe.curve_student_steps} steps."
    header = ["labelled videos", "with one mask", "teacher", "plain", "distilled, with the others", "distilled − plain"]
    return "\n\n".join(["## Labelled videos", text, markdown(header, rows)])


def _comparisons(results: Families, recipe: Recipe) -> str:
    rows = [
        [one.title, f"`{one.a}` − `{one.b}`", one.points, one.interval, len(one.seeds) or "-"]
        for one in comparisons(results, recipe)
    ]
    header = ["what", "runs", "J&F", "95 % interval", "seeds"]
    return "\n\n".join(["## Paired comparisons", markdown(header, rows)])


def _labels(results: Families, recipe: Recipe) -> str:
    """Return what the teachers' labels kept, "" before any was made."""
    rows = []
    for count in recipe.labelled:
        if record := results.records.get(f"labels-n{count}"):
            share = record["kept_frames"] / max(1, record["labelled_frames"])
            lost = ", ".join(record["lost"]) or "-"
            rows.append([count, record["labelled_videos"], record["labelled_frames"], f"{share:.0%}", lost])
    header = ["labelled videos", "videos labelled by the teacher", "frames", "kept", "videos lost"]
    return "\n\n".join(["## Labels of the teachers", markdown(header, rows)]) if rows else ""


def _sequences(results: Families, folder: str) -> str:
    final = {name: record for family in FINAL for name, record in _records(results, family).items()}
    names = sequence_names(final)
    if not names:
        return ""
    rows = [
        [name, *(f"{100 * by_name[one]:.1f}" if one in by_name else "-" for one in names)]
        for name, record in final.items()
        for by_name in [{row["sequence"]: row["j_and_f"] for row in record["sequences"]}]
    ]
    link = f"Every run's J&F, J and F of every sequence: [{folder}/{SHEET}]({folder}/{SHEET})."
    return "\n\n".join(["## Validation sequences, one by one (J&F)", markdown(["run", *names], rows), link])


def _records(results: Families, family: str) -> dict[str, Record]:
    return {record["name"]: record for record in results.of_family(family)}


def _cost(plan: list[Planned], records: Mapping[str, Record]) -> str:
    left = [one for one in plan if one.name not in records]
    measured = sum(record.get("cpu_s") or record.get("teacher_cpu_s") or 0.0 for record in records.values()) / 3600
    text = f"Measured so far: {measured:.1f} CPU-hours of trainings, caches and labels, without scoring."
    if left:
        text += f" Expected for the {len(left)} missing runs: {sum(one.minutes for one in left) / 60:.1f} CPU-hours."
    return f"## Cost\n\n{text} `python -m jobs.report --list` shows every run."
