"""Save and load weights: checkpoint folders of this project, official STCN files, ImageNet trunks.

A checkpoint is a folder with `model.safetensors` (the weights, nothing executable) and `model.json` (their description).
Both are written under a temporary name and renamed, the description last: a folder with a `model.json` is complete.
Weights load strictly; nothing is skipped or guessed. `model.json` holds the digest of the weights and a seal of its own content. A file
that was edited, truncated or mixed with another checkpoint's is refused, and so are weights that are not finite.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vos.errors import InputError, NotFiniteError
from vos.files.json_files import checked, parse_json
from vos.files.seals import SEAL, sealed, unsealed
from vos.files.whole import read_regular, write_atomic
from vos.models import VOSModel, build
from vos.models.trunk import Trunk
from vos.models.weight_files import check_finite, not_finite, read_weights

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
DIGEST = "weights_sha256"
"""Name in `model.json` of the digest of the weights file."""

_SEALED_BY = "checkpoint"
_STCN_STEM = "value_encoder.conv1.weight"
_AGAIN = "copy the checkpoint again"
_noted: set[str] = set()
"""Checkpoints for which this process has already printed the note that they have no digest."""


class Description(TypedDict):
    """The fields of `model.json` that are used here; training adds more."""

    model: str
    parameters: NotRequired[int]
    preprocessing: NotRequired[str]
    batch_norm_frozen: NotRequired[bool]
    role: NotRequired[Literal["teacher", "student"]]
    size_px: NotRequired[int]
    weights_sha256: NotRequired[str]


def save_checkpoint(folder: str, model: VOSModel, extra: Mapping[str, Any]) -> None:
    """Write a checkpoint that `load_checkpoint` restores; an interrupted write is never taken for a complete one.

    folder  made if absent; an existing checkpoint is replaced
    extra   JSON values for `model.json` (configuration, step, metrics, git commit, ...)

    Raises InputError if `extra` is not JSON or uses a reserved name, NotFiniteError for NaN or infinite weights.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if name := not_finite(weights):
        raise NotFiniteError(f"{folder}: {name} holds NaN or infinite numbers and is not saved; lower --optimiser.lr")
    data = save(weights)
    description: dict[str, Any] = {
        "model": model.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "preprocessing": model.preprocessing,
        "batch_norm_frozen": model.batch_norm_frozen,
        DIGEST: hashlib.sha256(data).hexdigest(),
    }
    clash = sorted({*description, SEAL} & extra.keys())
    if clash:
        raise InputError(f"{folder}/{DESCRIPTION}: extra uses the reserved name {clash[0]}; rename it")
    try:
        text = sealed({**description, **extra}, _SEALED_BY, description[DIGEST])
    except TypeError as error:
        raise InputError(f"{folder}/{DESCRIPTION}: {error}; give only JSON values") from error
    write_atomic(os.path.join(folder, WEIGHTS), data)
    write_atomic(os.path.join(folder, DESCRIPTION), text)


def is_infinite(description: Mapping[str, Any]) -> bool:
    """Return whether the network was trained for a growing memory: teachers and official STCN files."""
    return description.get("role", "teacher") == "teacher"


def load_checkpoint(path: str, name: str | None = None) -> tuple[VOSModel, dict[str, Any]]:
    """Load a model, in evaluation mode, and its description.

    path     a folder of `save_checkpoint`; its .safetensors file; or a .pth of bare weights, such as official STCN's
             (names may have a `module.` prefix; the 4-channel stem of the single-object file gets a fifth channel of
             zeros, as the authors do)
    name     the expected model; needed for a .safetensors without its description; a .pth defaults to "stcn"
    returns  the model and a dict with at least "model", "parameters" and "weights_sha256"

    Raises InputError, naming the file, if it is missing, damaged, of another architecture, not finite, or does not match its model.json.
    A folder of an earlier version, without a digest, loads with a note on standard error.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such checkpoint; give a folder with {WEIGHTS}, a .safetensors or a .pth file")
    if os.path.isdir(path):
        folder, path = path, os.path.join(path, WEIGHTS)
        for part in (WEIGHTS, DESCRIPTION):
            if not os.path.exists(os.path.join(folder, part)):
                raise InputError(
                    f"{folder}: {part} is missing, so this is not a finished checkpoint; give another folder"
                )
    description = _read_description(path)
    if description is None:
        if name is None and not path.endswith((".pth", ".pt")):
            raise InputError(f"{path}: there is no {DESCRIPTION} beside it to tell the model; give the model's name")
        description = dict[str, Any](model=name or "stcn")
    if name is not None and description["model"] != name:
        raise InputError(f'{path}: holds "{description["model"]}", not "{name}"; give that name or another checkpoint')
    try:
        model = build(description["model"], description.get("preprocessing", "imagenet"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    weights, digest = read_weights(path)
    _check_digest(description.get(DIGEST), digest, path)
    description[DIGEST] = digest
    if model.name == "stcn":
        _widen_single_object_stem(weights)
    _load_strictly(model, weights, path)
    check_finite(model.state_dict(), path)  # in this network's type: a float64 of 1e300 is infinite here
    if description.get("batch_norm_frozen", False):
        model.freeze_batch_norm()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if description.setdefault("parameters", parameters) != parameters:
        claimed = f"{description['parameters']:,} parameters, {model.name} has {parameters:,}"
        raise InputError(f"{os.path.join(os.path.dirname(path), DESCRIPTION)}: states {claimed}; {_AGAIN}")
    model.trained_size_px = description.get("size_px", 0)
    return model.eval(), description


def load_trunk_weights(model: VOSModel, path: str, preprocessing: str = "auto") -> dict[str, Any]:
    """Load ImageNet weights with torchvision's names into both trunks of a model.

    The value trunk's two mask channels start orthogonal (as in STCN), with a fixed seed. Layers after the trunk (the
    classifier, the last stage) are left out.

    path           .safetensors or .pth
    preprocessing  the convention of these weights, "imagenet" or "tensorflow"; "auto": tensorflow for a MobileNetV2
                   whose BatchNorm is folded into the convolutions, since such files come from TensorFlow
    returns        {"preprocessing": ..., "batch_norm_frozen": ...} as found and now set in the model. If BatchNorm is
                   folded, its statistics do not describe the features and are frozen.

    Raises InputError if the file is unreadable or does not hold this trunk.
    """
    weights = read_weights(path).tensors
    for trunk in model.trunks():
        _load_trunk(trunk, weights, model.name, path)
        check_finite(trunk.state_dict(), path)
    folded = _is_folded(weights)
    if preprocessing == "auto":
        known = model.trunks()[0].preprocessings
        preprocessing = "tensorflow" if folded and "tensorflow" in known else "imagenet"
    model.set_preprocessing(preprocessing)
    if folded:
        model.freeze_batch_norm()
    return {"preprocessing": preprocessing, "batch_norm_frozen": model.batch_norm_frozen}


def _load_trunk(trunk: Trunk, weights: Mapping[str, Tensor], model_name: str, path: str) -> None:
    wanted = trunk.state_dict()
    found: dict[str, Tensor] = {}
    for key, target in wanted.items():
        source = weights.get(key)
        if source is None and key.endswith("num_batches_tracked"):
            source = target  # a step counter, absent in old torchvision files; it does not affect the features
        if source is None:
            raise InputError(
                f"{path}: has no {key}, so it does not fit the trunk of {model_name}; give ImageNet weights of its backbone"
            )
        source = source.to(target.dtype)
        if source.ndim == 4 and source.shape[1] == 3 and target.shape[1] > 3:
            # Not zeros: with them, a student of single-object video learns to find objects without the mask, and then ignores it.
            masks = source.new_empty(source.shape[0], target.shape[1] - 3, *source.shape[2:])
            nn.init.orthogonal_(masks, generator=torch.Generator().manual_seed(0))
            source = torch.cat((source, masks), 1)
        if source.shape != target.shape:
            shapes = f"{tuple(source.shape)}, {model_name} needs {tuple(target.shape)}"
            raise InputError(f"{path}: {key} is {shapes}; give ImageNet weights of its backbone")
        found[key] = source
    trunk.load_state_dict(found, strict=True)


def _is_folded(weights: Mapping[str, Tensor]) -> bool:
    """Return whether BatchNorm is folded: mean 0, variance and weight 1 everywhere, and some bias is not 0."""
    layers = [key.removesuffix("running_mean") for key in weights if key.endswith("running_mean")]
    identity = all(
        not weights[layer + "running_mean"].any()
        and bool((weights[layer + "running_var"] == 1).all())
        and bool((weights[layer + "weight"] == 1).all())
        for layer in layers
    )
    return identity and any(bool(weights[layer + "bias"].any()) for layer in layers)


def _read_description(weights_path: str) -> dict[str, Any] | None:
    """Read the model.json beside a weights file; None if there is none (a bare .pth never has one)."""
    path = os.path.join(os.path.dirname(weights_path), DESCRIPTION)
    if not weights_path.endswith(".safetensors") or not os.path.lexists(path):
        return None
    return parse_description(read_regular(path, "json_bytes", _AGAIN), path)


def parse_description(data: bytes, path: str) -> dict[str, Any]:
    """Return the content of a model.json; `path` is named in errors. Raises InputError if it is damaged or was changed."""
    values = checked(parse_json(data, path, _AGAIN, finite=False), dict[str, Any], path, _AGAIN)
    if SEAL in values:
        values = unsealed(data, dict[str, Any], path, _SEALED_BY, None, _AGAIN)
    elif DIGEST in values:
        raise InputError(f"{path}: was changed after it was written (its seal is gone); {_AGAIN}")
    description = checked(values, Description, path, _AGAIN)
    if not re.fullmatch("[0-9a-f]{64}", description.get(DIGEST, "0" * 64)):
        raise InputError(f"{path}: '{DIGEST}' is not a digest; {_AGAIN}")
    if not 0 <= description.get("size_px", 0) <= 2**16:
        raise InputError(f"{path}: 'size_px' holds {description.get('size_px')}, which is not a size; {_AGAIN}")
    return values


def _check_digest(expected: str | None, found: str, path: str) -> None:
    if expected is not None and expected != found:
        raise InputError(
            f"{path}: is not the file that its {DESCRIPTION} describes, it is damaged or of another checkpoint "
            f"(sha256 {found[:12]}, expected {expected[:12]}); {_AGAIN}"
        )
    folder = os.path.realpath(os.path.dirname(path))
    if expected is None and os.path.exists(os.path.join(folder, DESCRIPTION)) and folder not in _noted:
        _noted.add(folder)
        print(f"note: {path}: its {DESCRIPTION} has no digest, so these weights cannot be verified", file=sys.stderr)


def _widen_single_object_stem(weights: dict[str, Tensor]) -> None:
    stem = weights.get(_STCN_STEM)
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 4:
        weights[_STCN_STEM] = torch.cat((stem, torch.zeros_like(stem[:, :1])), 1)


def _load_strictly(model: VOSModel, weights: Mapping[str, Tensor], path: str) -> None:
    wanted = model.state_dict()
    if not any(
        "_standard." in key for key in weights
    ):  # an older file without these statistics: features stay unscaled
        weights = {**{key: value for key, value in wanted.items() if "_standard." in key}, **weights}
    problems = [f"lacks {key}" for key in wanted if key not in weights]
    problems += [f"has an unknown {key}" for key in weights if key not in wanted]
    problems += [
        f"has {key} as {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    problems += [
        f"has {key} as {weights[key].dtype} instead of {wanted[key].dtype}"
        for key in wanted
        if key in weights and weights[key].is_floating_point() != wanted[key].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{path}: is not a {model.name}: {', '.join(problems[:3])}{more}; give the name of the model it was saved from"
        )
    model.load_state_dict(dict(weights), strict=True)
