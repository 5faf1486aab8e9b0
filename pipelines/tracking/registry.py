"""Versions of models, and which of them is champion.

A version is a model in MLflow's format (`packaging`). `champion` moves only to a version that the *same* evaluation (same videos by
fingerprint, same protocol) found better; any other evaluated version is `challenger`, and its description says why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any

from vos.errors import InputError
from vos.json_files import checked, parse_json

MODELS = "models:/"
CHAMPION, CHALLENGER = "champion", "challenger"
SCORE = "val/j_and_f"
DATA, PROTOCOL = "evaluation.data", "evaluation.protocol"
KEY = "tracking.id"
"""Tag of every run and version: a name that is known before the server has given it an id."""
_FIGURE = re.compile(r"\d+(\.\d+)?(e-?\d{1,2})?")
_RUN = re.compile(r"(?:runs:/)?(?P<id>[0-9a-f]{32})")
_REFERENCE = re.compile(
    r"models:/(?P<name>[A-Za-z0-9_][A-Za-z0-9_ .-]*)(?:@(?P<alias>[A-Za-z][\w-]*)|/(?P<version>\d+))"
)


def verdict(new: dict[str, str], champion: dict[str, str] | None, same: bool = False) -> tuple[str, str]:
    """(alias, reason) of an evaluated version.

    new, champion  tags of the two versions: SCORE, DATA, PROTOCOL, and `version`; champion None where there is none
    same           the champion itself was evaluated again: it stays, and the new figures are what others are compared with
    """
    score = f"J&F {100 * float(new[SCORE]):.2f}"
    if champion is None:
        return CHAMPION, f"{score}: the first version that was evaluated"
    if same:
        return CHAMPION, f"{score}: the champion, evaluated again"
    other = f"version {champion['version']}"
    if not _FIGURE.fullmatch(champion.get(SCORE, "")) or DATA not in champion or PROTOCOL not in champion:
        return CHALLENGER, f"{score}: {other} is champion and has no evaluation to compare with"
    if new[DATA] != champion[DATA]:
        return CHALLENGER, f"{score}, on other videos than {other}, the champion: not compared"
    if new[PROTOCOL] != champion[PROTOCOL]:
        changed = _changes(champion[PROTOCOL], new[PROTOCOL])
        return CHALLENGER, f"{score}, by another protocol than {other}, the champion ({changed}): not compared"
    if float(new[SCORE]) > float(champion[SCORE]):
        return (
            CHAMPION,
            f"{score}, better than {100 * float(champion[SCORE]):.2f} of {other} on the same videos and protocol",
        )
    return (
        CHALLENGER,
        f"{score}, not better than {100 * float(champion[SCORE]):.2f} of {other} on the same videos and protocol",
    )


def register(client: Any, run_id: str, event: dict[str, Any]) -> str:
    """Make a version of the model in `path` (or take the evaluated `version`), decide its alias; returns `name/version`.

    event: {"name", "path", "key", "description"} and for an evaluated one {"evaluation", "version"} (see Run.register_evaluated).
    """
    name, evaluation = event["name"], event.get("evaluation")
    number = event.get("version") or _version_of_key(client, name, event["key"])
    if not number:
        number = _new_version(client, run_id, event)
    if evaluation is None:
        return f"{name}/{number}"
    tags = {figure: str(value) for figure, value in evaluation["metrics"].items()}
    tags |= {DATA: evaluation["data"], PROTOCOL: json.dumps(evaluation["protocol"], sort_keys=True)}
    champion = _by_alias(client, name, CHAMPION)
    before = {**champion.tags, "version": str(champion.version)} if champion else None
    alias, reason = verdict(tags, before, same=bool(champion) and str(champion.version) == number)
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    client.update_model_version(name, number, description=reason)
    client.set_registered_model_alias(name, alias, number)
    if alias == CHAMPION:
        challenger = _by_alias(client, name, CHALLENGER)
        if challenger is not None and str(challenger.version) == number:
            client.delete_registered_model_alias(name, CHALLENGER)
    return f"{name}/{number} ({alias}: {reason})"


def is_reference(checkpoint: str) -> bool:
    """Whether a checkpoint is named by the registry: models:/NAME/3 or models:/NAME@champion."""
    return checkpoint.startswith(MODELS)


def reference_of(name: str) -> str:
    """What a shorter name means as models:/…: champion (of the only model that has one), NAME@champion, the id of a run; "" for others.

    Raises InputError for several or no champions, and for a run that registered no version.
    """
    run = _RUN.fullmatch(name)
    if run is None and name != CHAMPION and not _REFERENCE.fullmatch(f"{MODELS}{name}"):
        return ""
    if run is None and name != CHAMPION:
        return f"{MODELS}{name}" if "@" in name else ""  # NAME/3 would be a folder
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import store

    try:
        client = store.connect()
        if run is not None:
            versions = client.search_model_versions(f"run_id = '{run['id']}'")
            if not versions:
                raise InputError(
                    f"--model {name}: {store.store_name()} has no version of that run; name its --out folder"
                )
            newest = max(versions, key=lambda version: int(version.version))
            return f"{MODELS}{newest.name}/{newest.version}"
        champions = [model.name for model in client.search_registered_models() if CHAMPION in model.aliases]
    except (store.Unreachable, MlflowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"--model {name}: {store.store_name()} cannot tell ({reason}); name a folder") from error
    if len(champions) != 1:
        have = f"several: {', '.join(f'{one}@champion' for one in champions)}" if champions else "none"
        raise InputError(f"--model champion: {store.store_name()} has {have}; name one, or a folder of jobs.train")
    return f"{MODELS}{champions[0]}@{CHAMPION}"


def resolve(checkpoint: str, folder: str, flag: str = "--checkpoint") -> tuple[str, str, str]:
    """(folder with the checkpoint of a registered version, the name that it is registered under, its number).

    Its files are copied into `folder`, under the name of the version. Raises InputError, which begins with `flag`, for what the registry
    does not have.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import store
    from vos.checkpoint import DESCRIPTION, WEIGHTS

    found = _REFERENCE.fullmatch(checkpoint)
    if found is None or ".." in found["name"]:
        raise InputError(f"{flag} {checkpoint}: no name of a version; use models:/NAME/3 or models:/NAME@champion")
    name = found["name"]
    try:
        client = store.connect()
        if found["alias"]:
            version = client.get_model_version_by_alias(name, found["alias"])
        else:
            version = client.get_model_version(name, found["version"])
        source = client.get_model_version_download_uri(name, str(version.version))
        kept = download_artifacts(artifact_uri=source, tracking_uri=store.store_uri())
    except (store.Unreachable, MlflowException, OSError) as error:
        if isinstance(error, store.Unreachable) or store.is_unreachable(error):
            raise InputError(f"{flag} {checkpoint}: {store.store_name()} does not answer; name a folder") from error
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{flag} {checkpoint}: not in the registry of {store.store_name()} ({reason})") from error
    target = os.path.join(folder, f"{name}-{version.version}")
    os.makedirs(target, exist_ok=True)
    files = [
        os.path.join(at, file) for at, _, names in os.walk(kept) for file in names if file in (WEIGHTS, DESCRIPTION)
    ]
    if not files:
        raise InputError(f"{flag} {checkpoint}: this version holds no checkpoint of this project; name another")
    for file in files:
        shutil.copyfile(file, os.path.join(target, os.path.basename(file)))
    return target, name, str(version.version)


def _new_version(client: Any, run_id: str, event: dict[str, Any]) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    name = event["name"]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if "ALREADY_EXISTS" not in str(error.error_code):
            raise
    run = client.get_run(run_id)
    model = client.create_logged_model(run.info.experiment_id, name, run_id, model_type="video object segmentation")
    client.log_model_artifacts(model.model_id, event["path"])
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    for figure, value in event.get("evaluation", {}).get("metrics", {}).items():
        client.log_metric(run_id, figure, value, model_id=model.model_id)
    version = client.create_model_version(
        name,
        client.get_logged_model(model.model_id).artifact_location,
        run_id,
        tags={KEY: event["key"]},
        description=event.get("description", ""),
        model_id=model.model_id,
    )
    return str(version.version)


def _version_of_key(client: Any, name: str, key: str) -> str:
    """The version that this very event made already, when its answer was lost on the way; else ""."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{KEY}` = '{key}'")
    return str(found[0].version) if found else ""


def _by_alias(client: Any, name: str, alias: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _changes(old: str, new: str) -> str:
    """What two protocols have differently; the tags of a version may be edited by hand in the pages."""
    from vos.config_json import differences

    try:
        before, after = (
            checked(parse_json(text, f"the tag {PROTOCOL}", ""), dict[str, Any], f"the tag {PROTOCOL}", "")
            for text in (old, new)
        )
    except InputError:
        return "the champion's cannot be read"
    return "; ".join(differences(before, after))
