"""Run a list of tasks with Ray Data: each task is one row, each worker an actor that is set up once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vos.errors import InputError

Task = Callable[[dict[str, Any]], dict[str, Any]]


def run_on_actors(
    items: list[dict[str, Any]],
    make_task: Callable[..., Task],
    arguments: dict[str, Any],
    workers: int,
    gpus: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """Yield the results of `make_task(**arguments)(item)` as they finish, in any order.

    A pool of at most `workers` actors runs them, each with a share `gpus` of a GPU where the cluster has any. Items and results are
    small JSON objects; a task writes its large outputs itself. Needs a running Ray session.
    Raises the first InputError that a task raises; the results of other tasks may then be lost.
    """
    import ray

    rows = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=len(items))
    results = rows.map_batches(
        _Actor,
        fn_constructor_kwargs={"make_task": make_task, "arguments": arguments},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
        num_cpus=1,
        num_gpus=gpus if ray.cluster_resources().get("GPU") else 0,
    )
    for row in results.iter_rows():
        answer = json.loads(row["result"])
        if "bad_input" in answer:
            raise InputError(answer["bad_input"])
        yield answer["result"]


class _Actor:
    def __init__(self, make_task: Callable[..., Task], arguments: dict[str, Any]) -> None:
        self._task = make_task(**arguments)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        return {"result": [json.dumps(self._answer(json.loads(item))) for item in batch["item"]]}

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        # Ray Data reduces a worker's exception to text inside its own long trace, so an InputError is returned as a result.
        try:
            return {"result": self._task(item)}
        except InputError as error:
            return {"bad_input": str(error)}
