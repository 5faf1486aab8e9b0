"""What the pages say before anyone clicks: what each experiment is."""

from __future__ import annotations

from typing import Any

EXPERIMENTS = {
    "cache": "Teacher caches: what the teacher said once, for every student after it.",
    "train": "Students and teachers: loss curves, checkpoints, registered versions.",
    "tune": "Searches over w, temperature and density; each trial is a child run with its own loss curve.",
    "evaluate": "J&F, J, F and FPS of checkpoints on a split.",
    "demo": "The demo's table and pictures.",
}


def experiment_tags(name: str) -> dict[str, str]:
    # The kind makes MLflow open the pages for trainings (runs, charts, models), not those for language models.
    return {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": EXPERIMENTS.get(name, "")}


def describe(client: Any, experiment_id: str, name: str) -> None:
    pass
