"""Runs, metrics, data sets, models and the registry. The only room that imports mlflow.

Jobs use `run`. A run sends each call as an event (`events`) to the store (`store`); if the server is unreachable, events are queued on
disk and sent later (`spool`). `registry` makes model versions, `champion` decides which one is champion, `packaging` makes models that
load without this project, `pages` describes experiments in the browser, `load` samples the machine's load.
"""

from pipelines.tracking.champion import SCORE
from pipelines.tracking.registry import is_reference, reference_of, resolve
from pipelines.tracking.run import Run, commit, existing_run, start_run
from pipelines.tracking.store import environment, page_line, store_uri

__all__ = [
    "SCORE",
    "Run",
    "commit",
    "environment",
    "existing_run",
    "is_reference",
    "page_line",
    "reference_of",
    "resolve",
    "start_run",
    "store_uri",
]
