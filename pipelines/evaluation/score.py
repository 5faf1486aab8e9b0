"""Score a folder of predicted masks against a folder of true ones, for `jobs.score`."""

from __future__ import annotations

import os
from typing import Any

from pipelines import storage
from pipelines.evaluation.evaluate import SCORES
from pipelines.runtime.output_folder import OutputFile, check_folder, claimed_folder
from vos.config import ScoreConfig
from vos.errors import InputError
from vos.files.json_files import checked, parse_json
from vos.files.names import check_name, read_names
from vos.metrics.scores import Scores

SCORE = "score"


def score_two_folders(config: ScoreConfig) -> tuple[Scores, str]:
    """Score `--pred` against `--gt`; returns the scores and the path of the per-object table that was written.

    Raises InputError for bad input.
    """
    from vos.metrics.davis import score_folders

    if not config.gt:
        raise InputError("--gt and --pred: name the folder of true masks and the folder of predicted masks")

    csv = OutputFile(config.csv, SCORE, config.overwrite) if config.csv else None
    if csv:
        csv.check()
    else:
        check_folder(config, SCORE).check([SCORES])
    names = _sequence_names(config.sequences) if config.sequences else None
    seen = None
    if config.meta:
        from vos.metrics.scores import seen_objects

        seen = seen_objects(_read_meta(config.meta), _read_meta(config.train_meta))
    scores = score_folders(
        config.gt, config.pred, config.workers, config.protocol, sequences=names, seen=seen, strict=config.strict
    )
    if csv:
        csv.write(scores.csv().encode())
        return scores, config.csv
    with claimed_folder(config, SCORE, "scores") as folder:
        folder.write(SCORES, scores.csv().encode())
    return scores, storage.join(config.out, SCORES)


def _read_meta(path: str) -> dict[str, Any]:
    repair = "name a meta.json of YouTube-VOS"
    return checked(parse_json(storage.read_bytes(path), path, repair), dict[str, Any], path, repair)


def _sequence_names(given: str) -> list[str]:
    """Return the names in `given`: separated by commas, or the lines of a file."""
    path = os.path.join(os.environ.get("MOBILEVOS_HOME", ""), given)
    if os.path.exists(path) and not os.path.isdir(path):
        names = read_names(path, "give --sequences a text file with one folder name per line")
    else:
        names = [check_name(name.strip(), "--sequences") for name in given.split(",") if name.strip()]
    if not names:
        raise InputError(f"--sequences {given}: holds no folder names; give names separated by commas or a split file")
    return names
