"""Check that ImageNet weights of MobileNetV2 work in this project's trunk, by classifying frames.

A trunk with a wrong pixel range or padding still gives features, only worse ones, without any error. The complete
classifier is therefore applied to DAVIS frames that show an ImageNet animal or vehicle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vos.data.transforms import to_tensor
from vos.errors import InputError
from vos.models.mobilenetv2 import MobileNetV2Trunk, conv_bn_relu6
from vos.models.weight_files import check_finite, read_weights

RECOGNISABLE: dict[str, frozenset[int]] = {
    "bear": frozenset({294, 295, 296, 297}),
    "blackswan": frozenset({100}),
    "elephant": frozenset({101, 385, 386}),
    "flamingo": frozenset({130}),
    "bus": frozenset({654, 779, 874}),
    "boat": frozenset({625, 814}),
}
"""DAVIS sequence -> ImageNet classes (0 to 999) that name its animal or vehicle."""


class Recognised(NamedTuple):
    """The five most likely classes of a frame, and the probability of the correct classes."""

    top5: frozenset[int]
    right: float


def read_classifier(path: str) -> dict[str, Tensor]:
    """Read a complete MobileNetV2 with torchvision's names (.safetensors), as float32. Raises InputError for any other file."""
    weights = {name: tensor.float() for name, tensor in read_weights(path).tensors.items()}
    check_finite(weights, path)
    if "classifier.1.weight" not in weights or "features.18.0.weight" not in weights:
        raise InputError(f"{path}: has no classifier; give the complete MobileNetV2, features.0 to classifier.1")
    return weights


@torch.no_grad()
def recognise(
    weights: Mapping[str, Tensor], frames: Mapping[str, np.ndarray], preprocessing: str
) -> dict[str, Recognised]:
    """Classify the central square of each frame with this project's trunk.

    weights        a complete classifier, see read_classifier
    frames         sequence of RECOGNISABLE -> (H, W, 3) uint8 RGB
    preprocessing  the assumed convention of the weights, "tensorflow" or "imagenet"
    """
    trunk, head = MobileNetV2Trunk(3, num_features=18).eval(), conv_bn_relu6(320, 1280).eval()
    _load_part(trunk, weights, "", without=("features.18.", "classifier."))
    _load_part(head, weights, "features.18.")
    trunk.set_preprocessing(preprocessing)
    result = {}
    for sequence, frame in frames.items():
        side = min(frame.shape[:2])
        top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
        middle = cv2.resize(frame[top : top + side, left : left + side], (224, 224))
        features = head(trunk.features(trunk.to_weight_range(to_tensor(np.asarray(middle)[None]))))
        logits = features.mean((2, 3)) @ weights["classifier.1.weight"].T + weights["classifier.1.bias"]
        prob = logits.softmax(1)[0]
        right = float(prob[sorted(RECOGNISABLE[sequence])].sum())
        result[sequence] = Recognised(frozenset(prob.topk(5).indices.tolist()), right)
    return result


def _load_part(module: nn.Module, weights: Mapping[str, Tensor], prefix: str, without: tuple[str, ...] = ()) -> None:
    part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix) and not k.startswith(without)}
    module.load_state_dict(part, strict=True)
