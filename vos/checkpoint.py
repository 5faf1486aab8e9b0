"""Weights to and from disk: our own folders, official STCN files, ImageNet trunks.

A checkpoint is a folder with `model.safetensors` (the weights, nothing executable) and `model.json` (what they are).
Both are written under a temporary name and renamed, the description last: a folder with a `model.json` is complete.
Weights load strictly; nothing is skipped or guessed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vos.errors import InputError
from vos.files import write_atomic
from vos.models import VOSModel, build
from vos.models.backbones import Trunk

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"

_STCN_STEM = "value_encoder.conv1.weight"


def save_checkpoint(folder: str, model: VOSModel, extra: Mapping[str, Any]) -> None:
    """Write a model that `load_checkpoint` restores, whatever happens in between.

    folder  made if absent; a checkpoint already there is replaced
    extra   JSON values to keep beside the weights (configuration, step, metrics, git commit, ...)

    Raises InputError where `extra` is no JSON or uses a name of ours.
    """
    description = {
        "model": model.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "preprocessing": model.preprocessing,
        "batch_norm_frozen": model.batch_norm_frozen,
    }
    clash = sorted(description.keys() & extra.keys())
    if clash:
        raise InputError(f"{folder}/{DESCRIPTION}: extra uses the reserved name {clash[0]}; rename it")
    try:
        text = json.dumps({**description, **extra}, indent=2)
    except TypeError as error:
        raise InputError(f"{folder}/{DESCRIPTION}: {error}; give only what JSON can hold") from error
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(os.path.join(folder, WEIGHTS), save(weights))
    write_atomic(os.path.join(folder, DESCRIPTION), f"{text}\n".encode())


def is_infinite(description: Mapping[str, Any]) -> bool:
    """Whether the network was trained for a growing memory: teachers, and official STCN files."""
    return description.get("role", "teacher") == "teacher"


def load_checkpoint(path: str, name: str | None = None) -> tuple[VOSModel, dict[str, Any]]:
    """Restore a model, in evaluation mode, and its description.

    path     a folder of `save_checkpoint`; its .safetensors file; or a .pth of bare weights, such as official STCN's
             (also with a `module.` prefix, also the single-object one, whose 4-channel stem gets a fifth, zero, channel
             as the authors do)
    name     the model expected; needed for a .safetensors without its description, "stcn" is assumed for a .pth
    returns  the model and a dict with at least "model" and "parameters"

    Raises InputError, naming the file, where it is missing, truncated, or of another architecture.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such checkpoint; give a folder with {WEIGHTS}, a .safetensors or a .pth file")
    if os.path.isdir(path):
        folder, path = path, os.path.join(path, WEIGHTS)
        for part in (WEIGHTS, DESCRIPTION):
            if not os.path.exists(os.path.join(folder, part)):
                raise InputError(
                    f"{folder}: {part} is missing, the checkpoint is unfinished or no checkpoint; give another"
                )
    description = _read_description(path)
    if description is None:
        if name is None and not path.endswith((".pth", ".pt")):
            raise InputError(f"{path}: no {DESCRIPTION} beside it says which model this is; give the model's name")
        description = dict[str, Any](model=name or "stcn")
    if name is not None and description["model"] != name:
        raise InputError(f'{path}: holds "{description["model"]}", not "{name}"; give that name or another checkpoint')
    model = build(description["model"], description.get("preprocessing", "imagenet"))
    weights = {key.removeprefix("module."): tensor for key, tensor in _read_weights(path).items()}
    if model.name == "stcn":
        _widen_single_object_stem(weights)
    _load_strictly(model, weights, path)
    if description.get("batch_norm_frozen", False):
        model.freeze_batch_norm()
    description["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return model.eval(), description


def load_trunk_weights(model: VOSModel, path: str, preprocessing: str = "auto") -> dict[str, Any]:
    """Start both trunks of a student from an ImageNet checkpoint in torchvision's naming.

    The value trunk's two mask channels are orthogonal to begin with (STCN's), the same whenever they are made. Layers behind the
    trunk (the classifier, the last stage) are left out.

    path           .safetensors or .pth
    preprocessing  the convention of these weights, "imagenet" or "tensorflow"; "auto": tensorflow for a MobileNetV2
                   whose BatchNorm is folded into the convolutions, since such files come from TensorFlow
    returns        {"preprocessing": ..., "batch_norm_frozen": ...}: what was found, now set in the model. Where
                   BatchNorm is folded, its statistics say nothing about the features and are frozen.

    Raises InputError where the file is unreadable or does not hold this trunk.
    """
    weights = {key.removeprefix("module."): tensor for key, tensor in _read_weights(path).items()}
    for trunk in model.trunks():
        _load_trunk(trunk, weights, model.name, path)
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
            source = target  # a step counter, absent from old torchvision files and without effect on the features
        if source is None:
            raise InputError(
                f"{path}: has no {key}, so it is no trunk of {model_name}; give ImageNet weights of its backbone"
            )
        source = source.to(target.dtype)
        if source.ndim == 4 and source.shape[1] == 3 and target.shape[1] > 3:
            # At zero, a student of single-object video learns what objects look like before it can see the mask, and never asks for it.
            masks = source.new_empty(source.shape[0], target.shape[1] - 3, *source.shape[2:])
            nn.init.orthogonal_(masks, generator=torch.Generator().manual_seed(0))
            source = torch.cat((source, masks), 1)
        if source.shape != target.shape:
            shapes = f"{tuple(source.shape)}, {model_name} needs {tuple(target.shape)}"
            raise InputError(f"{path}: {key} is {shapes}; give ImageNet weights of its backbone")
        found[key] = source
    trunk.load_state_dict(found, strict=True)


def _is_folded(weights: Mapping[str, Tensor]) -> bool:
    """Whether every BatchNorm keeps only a bias: mean 0, variance and weight 1. A freshly made one has no bias either."""
    layers = [key.removesuffix("running_mean") for key in weights if key.endswith("running_mean")]
    identity = all(
        not weights[layer + "running_mean"].any()
        and bool((weights[layer + "running_var"] == 1).all())
        and bool((weights[layer + "weight"] == 1).all())
        for layer in layers
    )
    return identity and any(bool(weights[layer + "bias"].any()) for layer in layers)


def _read_description(weights_path: str) -> dict[str, Any] | None:
    """The model.json beside a weights file, or None where there is none (a bare .pth never has one)."""
    path = os.path.join(os.path.dirname(weights_path), DESCRIPTION)
    if not weights_path.endswith(".safetensors") or not os.path.exists(path):
        return None
    try:
        description = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}); copy the checkpoint again") from error
    if not isinstance(description, dict) or not isinstance(description.get("model"), str):
        raise InputError(f'{path}: does not name its "model"; copy the checkpoint again')
    return description


def _read_weights(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; give a .safetensors or .pth file of weights")
    try:
        weights = load_file(path) if path.endswith(".safetensors") else _read_pickled(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is truncated or no .safetensors file ({_one_line(error)}); copy it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: holds no plain table of weights; save the model's state_dict() alone")
    return weights


def _read_pickled(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything: UnpicklingError, EOFError, KeyError, ...
        raise InputError(
            f"{path}: is truncated or no file of bare weights ({_one_line(error)}); copy it again"
        ) from error


def _one_line(error: Exception) -> str:
    """The first sentence of torch's page-long explanations."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _widen_single_object_stem(weights: dict[str, Tensor]) -> None:
    stem = weights.get(_STCN_STEM)
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 4:
        weights[_STCN_STEM] = torch.cat((stem, torch.zeros_like(stem[:, :1])), 1)


def _load_strictly(model: VOSModel, weights: Mapping[str, Tensor], path: str) -> None:
    wanted = model.state_dict()
    if not any("_standard." in key for key in weights):  # from before there were such statistics: features as they are
        weights = {**{key: value for key, value in wanted.items() if "_standard." in key}, **weights}
    problems = [f"lacks {key}" for key in wanted if key not in weights]
    problems += [f"has an unknown {key}" for key in weights if key not in wanted]
    problems += [
        f"has {key} as {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{path}: is no {model.name}: {', '.join(problems[:3])}{more}; give the name of the model it was saved from"
        )
    model.load_state_dict(dict(weights), strict=True)
