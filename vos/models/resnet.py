"""ResNet trunks (He et al. 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vos.models.trunk import ConvNorms, Trunk, TrunkFeatures, conv_norm, kaiming_init


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet18)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, conv_bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=conv_bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=conv_bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride, conv_bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(self.conv1, self.bn1, x))
        y = conv_norm(self.conv2, self.bn2, y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet50); the 3x3 has the stride, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, conv_bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=conv_bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=conv_bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=conv_bias)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(in_channels, width * 4, stride, conv_bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(conv_norm(self.conv1, self.bn1, x))
        y = F.relu(conv_norm(self.conv2, self.bn2, y))
        y = conv_norm(self.conv3, self.bn3, y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int, conv_bias: bool) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=conv_bias)
    return ConvNorms(conv, nn.BatchNorm2d(out_channels))


class ResNetTrunk(Trunk):
    """A ResNet up to `layer3`.

    conv_bias and first_stage exist for STCN's official parameter names: its value encoder has biases before BatchNorm,
    and its key encoder calls `layer1` `res2`.
    """

    def __init__(
        self,
        block: type[_BasicBlock] | type[_Bottleneck],
        depths: tuple[int, int, int],
        in_channels: int = 3,
        conv_bias: bool = False,
        first_stage: str = "layer1",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=conv_bias)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (width, depth) in enumerate(zip((64, 128, 256), depths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride, conv_bias))
                channels = width * block.expansion
            self.add_module(first_stage if stage == 0 else f"layer{stage + 1}", nn.Sequential(*blocks))
        self.first_stage = first_stage
        self.channels = (256 * block.expansion, 128 * block.expansion, 64 * block.expansion)
        kaiming_init(self)

    def early(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.get_submodule(self.first_stage)]

    def forward(self, x: Tensor) -> TrunkFeatures:
        x = F.relu(conv_norm(self.conv1, self.bn1, x))
        f4 = getattr(self, self.first_stage)(F.max_pool2d(x, 3, 2, 1))
        f8 = self.get_submodule("layer2")(f4)
        return TrunkFeatures(self.get_submodule("layer3")(f8), f8, f4)


def resnet50_trunk(in_channels: int = 3, conv_bias: bool = False, first_stage: str = "layer1") -> ResNetTrunk:
    """Return ResNet50 up to layer3: 1024 channels at stride 16."""
    return ResNetTrunk(_Bottleneck, (3, 4, 6), in_channels, conv_bias, first_stage)


def resnet18_trunk(in_channels: int = 3, conv_bias: bool = False) -> ResNetTrunk:
    """Return ResNet18 up to layer3: 256 channels at stride 16."""
    return ResNetTrunk(_BasicBlock, (2, 2, 2), in_channels, conv_bias)
