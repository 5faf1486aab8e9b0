"""Register versions of models, and find the files of a version.

A version is a model in MLflow's format (`packaging`). Its tags record the digest of its weights, which is checked wherever the version is
used. An evaluated version is `champion` or `challenger` (`champion.verdict`); its description gives the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.tracking.champion import CHALLENGER, CHAMPION, DATA, PROTOCOL, verdict
from vos.errors import InputError
from vos.files.limits import check_limit
from vos.files.whole import inside, read_regular, write_atomic

MODELS = "models:/"
WEIGHTS_TAG, FINITE_TAG = "weights.sha256", "weights.finite"
PACKAGED = ("data", "checkpoint")
"""Folder of the checkpoint in a model of MLflow's format (`packaging`)."""
KEY = "tracking.id"
"""Tag of every run and version: a name that exists before the server assigns an id."""
_RUN = re.compile(r"(?:runs:/)?(?P<id>[0-9a-f]{32})")
_REFERENCE = re.compile(
    r"models:/(?P<name>[A-Za-z0-9_][A-Za-z0-9_ .-]*)(?:@(?P<alias>[A-Za-z][A-Za-z0-9_-]*)|/(?P<version>[0-9]{1,9}))"
)
_NUMBER = re.compile("[0-9]{1,9}")


def register(client: Any, run_id: str, event: dict[str, Any]) -> str:
    """Make a version of the model in `path` (or take the evaluated `version`) and set its alias; returns `name/version`.

    event  {"name", "path", "key", "description"}, and for an evaluated model {"evaluation", "version"} (see Run.register_evaluated)
    Raises InputError where the model's weights are damaged, not finite, or not those that were evaluated.
    """
    name, evaluation = event["name"], event.get("evaluation")
    digest = packaged_weights(event["path"])
    if evaluation is not None and evaluation.get("weights", digest) != digest:
        raise InputError(
            f"--register: the weights of {name} have changed since they were evaluated; evaluate them again"
        )
    number = event.get("version") or _version_of_key(client, name, event["key"])
    if not number:
        number = _new_version(client, run_id, event, digest)
    elif digest != client.get_model_version(name, number).tags.get(WEIGHTS_TAG, digest):
        raise InputError(
            f"--register: version {number} of {name} has other weights than those evaluated; evaluate it again"
        )
    if evaluation is None:
        return f"{name}/{number}"
    tags = {figure: str(value) for figure, value in evaluation["metrics"].items()}
    tags |= {DATA: evaluation["data"], PROTOCOL: json.dumps(evaluation["protocol"], sort_keys=True)}
    tags |= _weights_tags(digest)
    champion = _by_alias(client, name, CHAMPION)
    before = {**champion.tags, "version": str(champion.version)} if champion else None
    same = champion is not None and str(champion.version) == number
    alias, reason = verdict(tags, before, same)
    if same and alias != CHAMPION:  # it keeps its earlier figures and its alias
        return f"{name}/{number} ({CHAMPION}: {reason})"
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    client.update_model_version(name, number, description=reason)
    client.set_registered_model_alias(name, alias, number)
    if alias == CHAMPION:
        challenger = _by_alias(client, name, CHALLENGER)
        if challenger is not None and str(challenger.version) == number:
            client.delete_registered_model_alias(name, CHALLENGER)
    return f"{name}/{number} ({alias}: {reason})"


def packaged_weights(path: str) -> str:
    """Return the digest of the weights in a model's folder (`packaging`). Raises InputError where they are damaged or not finite."""
    from vos.models.checkpoint import DIGEST, load_checkpoint

    return load_checkpoint(os.path.join(path, *PACKAGED))[1][DIGEST]


def _weights_tags(digest: str) -> dict[str, str]:
    return {WEIGHTS_TAG: digest, FINITE_TAG: "true"}


def is_reference(checkpoint: str) -> bool:
    """Return whether a checkpoint is a name of the registry: models:/NAME/3 or models:/NAME@champion."""
    return checkpoint.startswith(MODELS)


def reference_of(name: str) -> str:
    """Return the models:/… reference of a short name, "" where it is none.

    Short names are champion (of the only model that has one), NAME@champion, and the id of a run.
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
                    f"--model {name}: {store.store_name()} holds no version of this run; name its --out folder"
                )
            newest = max(versions, key=lambda version: int(version.version))
            return f"{MODELS}{newest.name}/{newest.version}"
        champions = [model.name for model in client.search_registered_models() if CHAMPION in model.aliases]
    except (store.Unreachable, MlflowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"--model {name}: {store.store_name()} cannot be queried ({reason}); name a folder") from error
    if len(champions) != 1:
        have = f"several: {', '.join(f'{one}@champion' for one in champions)}" if champions else "none"
        raise InputError(f"--model champion: {store.store_name()} has {have}; name one, or a folder of jobs.train")
    return f"{MODELS}{champions[0]}@{CHAMPION}"


def resolve(checkpoint: str, folder: str, flag: str = "--checkpoint") -> tuple[str, str, str]:
    """Copy the checkpoint of a registered version; returns (its folder, registered name, version number).

    Only its two files are copied, into a subfolder of `folder` that is named after the version. Raises InputError, which begins with
    `flag`, for a version that the registry does not hold, and where the files are not the registered weights.
    """
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import store
    from vos.models.checkpoint import WEIGHTS

    found = _REFERENCE.fullmatch(checkpoint)
    if found is None or ".." in found["name"]:
        raise InputError(f"{flag} {checkpoint}: names no version; use models:/NAME/3 or models:/NAME@champion")
    name = found["name"]
    try:
        client = store.connect()
        if found["alias"]:
            version = client.get_model_version_by_alias(name, found["alias"])
        else:
            version = client.get_model_version(name, found["version"])
        number = str(version.version)
        if not _NUMBER.fullmatch(number):
            raise InputError(f"{flag} {checkpoint}: {number[:40]!r} is not a version number; register the model again")
        source = client.get_model_version_download_uri(name, number)
        files = _checkpoint_files(source, store.store_uri(), f"{flag} {checkpoint}")
    except (store.Unreachable, MlflowException, OSError) as error:
        if isinstance(error, store.Unreachable) or store.is_unreachable(error):
            raise InputError(f"{flag} {checkpoint}: {store.store_name()} does not answer; name a folder") from error
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{flag} {checkpoint}: not in the registry of {store.store_name()} ({reason})") from error
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    recorded = version.tags.get(WEIGHTS_TAG, digest)
    if recorded != digest:
        raise InputError(
            f"{flag} {checkpoint}: its weights are not those that were registered (sha256 {digest[:12]}, recorded {recorded[:12]}); "
            "register the model again"
        )
    target = os.path.join(folder, f"{name}-{number}")
    for file, data in files.items():
        write_atomic(os.path.join(target, file), data, sync=False)
    return target, name, number


def _checkpoint_files(source: str, store_uri: str, origin: str) -> dict[str, bytes]:
    """Return model.safetensors and model.json of a version, from its source or the folder of `packaging`. No other file is read.

    Raises InputError, which begins with `origin`, where they are absent, too large, or (on this machine) links.
    """
    from vos.models.checkpoint import DESCRIPTION, WEIGHTS

    bounds = {WEIGHTS: "checkpoint_bytes", DESCRIPTION: "json_bytes"}
    find = _local_files if source.startswith(("/", "file:")) or ":/" not in source else _remote_files
    for inner in ((), PACKAGED):
        files = find(source, inner, bounds, store_uri, origin)
        if files:
            return files
    raise InputError(f"{origin}: this version holds no checkpoint of this project; name another")


def _local_files(source: str, inner: Sequence[str], bounds: Mapping[str, str], _: str, origin: str) -> dict[str, bytes]:
    from mlflow.utils.file_utils import local_file_uri_to_path

    folder = local_file_uri_to_path(source)
    for part in inner:
        folder = inside(folder, part, origin)
    if not all(os.path.lexists(os.path.join(folder, name)) for name in bounds):
        return {}
    return {name: read_regular(inside(folder, name, origin), bound) for name, bound in bounds.items()}


def _remote_files(
    source: str, inner: Sequence[str], bounds: Mapping[str, str], store_uri: str, origin: str
) -> dict[str, bytes]:
    from mlflow.artifacts import download_artifacts, list_artifacts

    place = "/".join((source.rstrip("/"), *inner))
    # By the last part, since some stores list paths relative to the version's folder, others to this one.
    listed = {one.path.rsplit("/", 1)[-1]: one for one in list_artifacts(artifact_uri=place, tracking_uri=store_uri)}
    if not listed.keys() >= bounds.keys():
        return {}
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, bound in bounds.items():
            check_limit(bound, int(listed[name].file_size or 0), f"{origin}: {name}")
            kept = download_artifacts(artifact_uri=f"{place}/{name}", dst_path=folder, tracking_uri=store_uri)
            files[name] = read_regular(kept, bound)
    return files


def _new_version(client: Any, run_id: str, event: dict[str, Any], digest: str) -> str:
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
        tags={KEY: event["key"], **_weights_tags(digest)},
        description=event.get("description", ""),
        model_id=model.model_id,
    )
    return str(version.version)


def _version_of_key(client: Any, name: str, key: str) -> str:
    """Return the version that this event has already made, if the server's answer was lost; else ""."""
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
