"""Runs, metrics, data sets, models and the registry. The only room that imports mlflow.

`run` is what jobs talk to; every word a run says is an event (`events`), said to the store (`store`) at once, or, where a server does not
answer, kept on disk and said later (`spool`). `registry` decides which version is champion, `packaging` makes models that load anywhere,
`pages` arranges what a browser shows, `load` watches the machine.
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
