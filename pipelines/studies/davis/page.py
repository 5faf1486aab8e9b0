"""Write docs/results.md from the records alone: the protocol, the claims, the tables, the plots, and the missing runs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from typing import Any

from pipelines import storage
from pipelines.runtime.output_folder import read_plain
from pipelines.search.trials import ranked
from pipelines.studies.davis.claims import claims, cpu_lines
from pipelines.studies.davis.comparisons import ablations, comparisons
from pipelines.studies.davis.plan import LONG, LONGER
from pipelines.studies.davis.plots import PLOTS, write_plots
from pipelines.studies.davis.results import Results
from pipelines.studies.davis.table import FPS, main_table
from pipelines.studies.protocols.families import counted, scores
from pipelines.studies.protocols.judging import FAIR
from pipelines.studies.protocols.parts import SHEET, markdown, missing, sequence_names, sheet, spread
from pipelines.studies.protocols.planned import TEACHER, Planned
from pipelines.studies.protocols.records import Record, docs_folder
from pipelines.studies.protocols.records import trials as trials_of
from vos.config import EvaluateConfig, ReportConfig, TrainConfig, TuneConfig
from vos.config.presets import preset


def write(config: ReportConfig, plan: list[Planned], records: Mapping[str, Record], unused: list[str]) -> list[str]:
    """Write the page, the sheet of sequences and the plots; returns their paths, the page first.

    records  valid records
    unused   names of records that do not count: of another configuration, or of no run of the plan
    """
    docs, folder = docs_folder(config.docs, config.overwrite), os.path.basename(config.docs)
    docs.check([f"{folder}.md", f"{folder}/{SHEET}", *(f"{folder}/{name}" for name in PLOTS)])
    results = Results(config.preset, records)
    written_sheet = docs.write(f"{folder}/{SHEET}", sheet(records).encode())
    plots = write_plots(results, docs, folder)
    repair = "restore it, or measure again with jobs.benchmark fps --json"
    fps = read_plain(storage.join(config.docs, FPS), list[dict[str, Any]], repair) or []

    def pictures(*names: str) -> str:
        drawn = {os.path.basename(path) for path in plots}
        return "\n\n".join(f"![{name.removesuffix('.png')}]({folder}/{name})" for name in names if name in drawn)

    sections = [
        _head(folder, records),
        _protocol(results, plan),
        _claims(results),
        main_table(results, plan, fps),
        pictures("steps.png", "differences.png"),
        _comparisons(results),
        _ablations(results),
        pictures("ablations.png"),
        _search(results),
        pictures("search-trials.png", "search-density.png"),
        _sequences(results, folder),
        pictures("sequences.png"),
        missing(plan, records, unused),
    ]
    page = docs.write(f"{folder}.md", ("\n\n".join(one for one in sections if one) + "\n").encode())
    return [page, written_sheet, *plots]


def _head(folder: str, records: Mapping[str, Record]) -> str:
    commits = len({record["commit"] for record in records.values()})
    return (
        "# Results\n\n"
        "**The settings of these runs were chosen on the validation sequences**, so their scores on these sequences are too high "
        "for videos that nobody has looked at. Choices on folds of the training videos are in [unseen.md](unseen.md).\n\n"
        f"Written by `python -m jobs.report --protocol validation --page` from the records in `{folder}/runs/`; nothing is typed "
        f"by hand. {len(records)} runs, made by {commits} commits (each record names its own). J, F and J&F in percent; "
        "± is the standard deviation over seeds."
    )


def _protocol(results: Results, plan: list[Planned]) -> str:
    name, scale = results.study.name, results.study.scale
    train, cache, evaluate = results.study.train, results.study.cache, results.study.evaluate
    clip, rate = train.clip, train.optimiser
    size = f"{evaluate.size_px} px on the shorter side" if evaluate.size_px else "its own size"
    scored = len(sequence_names(results.records))
    places = f"the {scored} development sequences below" if scored else "development sequences"
    data = f"DAVIS, trained on its training sequences, scored on {places}" if scale.pretrained else "synthetic video"
    # See DECISIONS 41 and 45 to 49.
    looked = (
        ", but the size at which frames are seen, the share of pasted objects, the number of clips, the weight of the logits' KL and "
        "the first weights of the mask channels were settled after looks at them, and the teacher is the best there of five that were "
        "trained"
        if name == "davis-cpu"
        else ""
    )
    trunk = (
        "MobileNetV2 trunks begin with ImageNet weights; ResNet18, for which none were at hand, with random ones, with nothing frozen "
        "and the full learning rate throughout. "
    )
    return "\n".join(
        [
            f"## Protocol (`--preset {name}`)",
            f"- **Data**: {data}. The network sees a development frame at {size}; masks are scored "
            "at the original size.",
            f"- **Students**: {scale.short} steps (*short*, ablations) or {scale.full} (*full*, the main table) of {train.batch} clips of "
            f"{clip.num_frames} frames, {clip.crop_px}² px, gaps up to {clip.max_skip_frames} frames, {clip.max_objects} object(s). "
            f"{trunk if scale.pretrained else ''}AdamW, lr {rate.lr:g} (query trunk x {rate.query_trunk_scale:g}, value trunk x "
            f"{rate.value_trunk_scale:g}), {rate.warmup_steps} steps of warm-up, {rate.schedule} decay to 0, EMA {rate.ema:g}.",
            f"- **The longest students** have {LONG:g} times the full steps on the same clips, mirrored (`--mirror`) on every second pass; "
            "where it says *every clip new*, on as many more clips.",
            _teacher(plan, evaluate),
            f"- **Distillation**: KL at temperature {train.loss.temperature:g} with weight {train.loss.kd:g}, |S| x L_repr with weight "
            f"{train.loss.representation:g}, w = {train.loss.w:g}, {cache.samples} samples, factor of rank {cache.factor.rank} in "
            f"{cache.factor.dtype}, logits in {cache.logits}; the teacher sees {cache.teacher.context_frames} context frames "
            f"({cache.teacher.context_masks} masks).",
            "- **Pairs**: what is compared begins with the same weights (a function of the seed) and takes the same clips in the same "
            "order for as many steps, unless its row is about other clips or another number of steps. The plain student makes the "
            "cache's draws itself. The last weights (EMA) are scored: no checkpoint is chosen on the development "
            f"sequences{looked}.",
            f"- **Equal CPU time**: the plain student has {LONGER:g} times the steps, the most that a cached step may cost; CPU time is "
            "that of the training's process, all threads, reading included, without start-up; the same work takes more of it beside busy "
            f"neighbours, so that minutes of different rows compare roughly only. Up to {100 - 100 * FAIR:.0f} % less of it for the plain "
            "student still counts as equal.",
            "- **Intervals**: paired bootstrap (95 %, percentile) over seeds and sequences, "
            "`vos/metrics/intervals.py`. One thread per process.",
            "",
            f"`python -m jobs.report --protocol validation{_flag(name)}` runs what is missing, and with `--list` it shows the plan.",
        ]
    )


def _teacher(plan: list[Planned], students: EvaluateConfig) -> str:
    """Return the protocol's line about the teacher."""
    planned = next(one for one in plan if one.name == TEACHER)
    job, scored = planned.job, planned.evaluation
    assert isinstance(job, TrainConfig) and scored is not None
    size = f", frames at {scored.size_px} px" if scored.size_px != students.size_px else ""
    return (
        f"- **Teacher**: {job.model}, {job.steps} steps of {job.batch} clips of {job.clip.num_frames} frames, {job.clip.crop_px}² px. "
        f"Scored with infinite memory: every {scored.memory.every}th frame and the most recent one{size}."
    )


def _flag(name: str) -> str:
    return "" if name == "davis-cpu" else f" --preset {name}"


def _claims(results: Results) -> str:
    found = claims(results)
    rows = [[one.name, one.target, one.how, f"**{one.outcome}**" if one.outcome else ""] for one in found]
    notes = [*cpu_lines(results), "Bounds are judged before they are rounded: 0.0 can be just above or just below 0."]
    table = markdown(["claim", "target", "found", ""], rows)
    return "\n".join(["## Claims and targets", table, "", *(f"- {one}" for one in notes)])


def _comparisons(results: Results) -> str:
    rows, before = [], ""
    for one in comparisons(results):
        head, before = ("" if one.group == before else f"**{one.group}**"), one.group
        rows.append([head, one.title, f"`{one.a}` − `{one.b}`", one.points, one.interval, len(one.seeds) or "-"])
    note = (
        "With one seed, the interval knows of sequences only, not of how much another seed would differ. With few seeds it is too "
        "narrow: with 3 of them on 8 sequences it holds the truth in some nine cases of ten (simulated in "
        "`tests/vos/metrics/test_intervals.py`). "
        "Nothing is corrected for the number of comparisons."
    )
    header = ["", "what", "runs", "J&F", "95 % interval", "seeds"]
    return "\n".join(["## Paired comparisons", markdown(header, rows), "", note])


def _ablations(results: Results) -> str:
    parts = ["## Ablations (student without ASPP, short length unless said)"]
    if plain := results.figures("short-plain"):
        parts.append(f"The plain student of this length: {spread(plain)} ({counted(plain)}).")
    for title, values in ablations(results.study).items():
        found, seeds = results.aligned([family for _, family in values])
        cells = [spread(found[family]) if found[family] else "not run" for _, family in values]
        label = f"J&F, seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}" if seeds else "J&F"
        parts.append(markdown([title, *(label for label, _ in values)], [[label, *cells]]))
    kinds = {"plain": "plain", "cached": "both", "online": "online"}
    steps = {label: results.cost(f"short-{one}", "cpu_s_per_step") for label, one in kinds.items()}
    if costs := [f"{label} {value:.2f} s" for label, value in steps.items() if value]:
        parts.append(f"CPU seconds of a step: {', '.join(costs)}.")
    return "\n\n".join(parts)


def _search(results: Results) -> str:
    trials = trials_of(results.records)
    if not trials:
        return ""
    searched, frames = list(trials[0].parameters), preset(TuneConfig, results.study.name).max_frames
    stopped = sum(trial.status == "stopped" for trial in trials)
    scored_on = f"{f'first {frames} frames of the ' if frames else ''}development sequences"
    text = (
        f"`jobs.tune` over {', '.join(searched)}: {len(trials)} trials of the short length on the short cache, one seed, {stopped} "
        f"stopped early by successive halving, {sum(trial.teacher_forwards for trial in trials)} forwards of the teacher. Trials are "
        f"scored on the {scored_on}, so the search shows how far the parameters matter; nothing on this page was chosen by it."
    )
    rows = []
    for trial in ranked(trials):
        score = f"{100 * trial.score:.1f}" if trial.score >= 0 else "-"
        rows.append([*(f"{trial.parameters[key]:.3g}" for key in searched), score, trial.step, trial.status])
    return "\n\n".join(["## Search", text, markdown([*searched, "J&F", "steps", ""], rows)])


def _sequences(results: Results, folder: str) -> str:
    longest = [
        f"full-{results.study.main}-{loss}{one}" for one in ("-fresh", "-long", "") for loss in ("plain", "both")
    ]
    names = sequence_names(results.records)
    rows = []
    for family in (TEACHER, *longest, "short-plain", "short-both"):
        if of := [scores(record) for record in results.of_family(family)]:
            rows.append([family, *(f"{100 * statistics.mean(one[sequence] for one in of):.1f}" for sequence in names)])
    if not rows:
        return ""
    link = f"Every run's J&F, J and F of every sequence: [{folder}/sequences.csv]({folder}/sequences.csv)."
    return "\n\n".join(["## Sequences (J&F, mean over seeds)", markdown(["run", *names], rows), link])
