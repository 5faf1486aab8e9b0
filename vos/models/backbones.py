"""Image trunks by name."""

from __future__ import annotations

from collections.abc import Callable

from vos.models.efficientnet import efficientnet_lite0_trunk, efficientnet_lite2_trunk
from vos.models.mobilenetv2 import MobileNetV2Trunk
from vos.models.resnet import resnet18_trunk, resnet50_trunk
from vos.models.small import small_trunk, tiny_trunk
from vos.models.trunk import Trunk

BACKBONES: dict[str, Callable[[int], Trunk]] = {
    "resnet50": resnet50_trunk,
    "resnet18": resnet18_trunk,
    "mobilenetv2": MobileNetV2Trunk,
    "efficientnet-lite0": efficientnet_lite0_trunk,
    "efficientnet-lite2": efficientnet_lite2_trunk,
    "tiny": tiny_trunk,
    "small": small_trunk,
}
"""Trunk constructors by name; each takes the number of input channels (3, or 5 for a value trunk)."""
