"""Describe each experiment on MLflow's pages, and save a view of its most useful columns.

A saved view is a tag of the experiment in the form that MLflow's *Views > Save view* writes; it appears in that menu.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

NOTE = "mlflow.note.content"


@dataclass(frozen=True)
class View:
    """A named view of the run list: its columns, and the one it is sorted by, largest first."""

    name: str
    columns: tuple[str, ...]
    order_by: str


EXPERIMENTS = {
    "cache": "Teacher caches: the teacher's outputs, computed once and used by every student.",
    "label": "Labels of a teacher for videos without true masks: frames, kept frames, pictures.",
    "train": "Trainings of students and teachers: loss curves, checkpoints, registered versions.",
    "tune": "Searches over w, temperature and density; each trial is a child run with its own loss curve.",
    "evaluate": "J&F, J, F and FPS of checkpoints on a split; each run has a table, curves, pictures and a video.",
    "export": "Exported models: their size, and their difference from PyTorch.",
    "adapt": "Students adapted to videos with one mask each: J&F before and after, and what it cost.",
    "demo": "The demo's table and pictures.",
    "results": "The results page with its tables and plots, and the mean J&F of every kind of run.",
    "benchmark": "Speed and size, compared with their targets.",
}
ACCURACY = ("metrics.`val/j_and_f`", "metrics.`val/j`", "metrics.`val/f`")
SPEED = ("metrics.`fps/short`", "metrics.`fps/long`")
VIEWS = {
    "cache": View(
        "Size of each cache",
        ("metrics.`cache/draws`", "metrics.`cache/mib`", "params.`data.root`"),
        "attributes.start_time",
    ),
    "train": View(
        "Loss and J&F of each training",
        ("metrics.`train/total`", "metrics.`val/j_and_f`", "tags.`model`", "tags.`world_size`", "params.`steps`"),
        "attributes.start_time",
    ),
    "tune": View(
        "Best J&F per parameter",
        ("metrics.`val/j_and_f`", "params.`loss.w`", "params.`loss.temperature`", "params.`loss.density`"),
        "metrics.`val/j_and_f`",
    ),
    "evaluate": View("Best J&F and FPS per model", (*ACCURACY, *SPEED, "tags.`model`"), "metrics.`val/j_and_f`"),
}


def experiment_tags(name: str) -> dict[str, str]:
    """Return the tags of an experiment: its description, its view, and the kind for which MLflow opens its training pages."""
    tags = {"mlflow.experimentKind": "custom_model_development", NOTE: EXPERIMENTS.get(name, "")}
    view = VIEWS.get(name)
    if view is not None:
        state = {
            "selectedColumns": ["attributes.`Created`", *view.columns],
            "orderByKey": view.order_by,
            "orderByAsc": False,
            "runsExpanded": {},
        }
        # A fixed time, so that the same view is the same tag.
        tags[_view_tag(name)] = json.dumps({"name": view.name, "createdAt": 0, "state": json.dumps(state)})
        tags[NOTE] += f" **Views > {view.name}** shows the main columns."
    return tags


def _view_tag(name: str) -> str:
    return f"mlflow.sharedViewState.mobilevos-{name}"
