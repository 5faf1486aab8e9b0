"""Image trunks cut at stride 16, with skips at strides 8 and 4.

Parameters carry torchvision's names, so ImageNet checkpoints load without a renaming table; torchvision itself is not
needed. Every trunk takes our ImageNet-normalised frames, also when its weights were made for TensorFlow's convention:
the conversion then happens inside the trunk, so that no caller has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vos.errors import InputError
from vos.transforms import IMAGENET_MEAN, IMAGENET_STD


class TrunkFeatures(NamedTuple):
    """Features at strides 16, 8 and 4: (B, C16, H/16, W/16), (B, C8, H/8, W/8), (B, C4, H/4, W/4)."""

    f16: Tensor
    f8: Tensor
    f4: Tensor


class Trunk(nn.Module):
    """What every trunk promises: its channels and the convention of its weights.

    Channels beyond the third of the input (masks) pass through untouched, whatever the convention.
    """

    channels: tuple[int, int, int]
    """Channels at strides 16, 8 and 4."""

    preprocessings: tuple[str, ...] = ("imagenet",)
    """The conventions of weights that this trunk knows."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = "imagenet"

    def early(self) -> list[nn.Module]:
        """The layers up to stride 4: generic edges and colours, and half of a training step's time."""
        raise NotImplementedError

    def set_preprocessing(self, preprocessing: str) -> None:
        """Say which convention the weights expect. Raises InputError for one that the trunk does not know."""
        if preprocessing not in self.preprocessings:
            known = " or ".join(f'"{known}"' for known in self.preprocessings)
            raise InputError(f'preprocessing "{preprocessing}" does not fit this trunk; use {known}')
        self.preprocessing = preprocessing


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """norm(conv(x)). BatchNorm with fixed statistics is an affine map of channels, so it is multiplied into the convolution's weights
    first: the same function and gradients, without two passes over the feature map in each direction."""
    if norm.training or not isinstance(norm, nn.BatchNorm2d):
        return norm(conv(x))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    return conv._conv_forward(x, conv.weight * scale[:, None, None, None], bias)


class PixelRange(nn.Module):
    """From our ImageNet-normalised frames to (pixel - middle) / half, of pixels in 0 to 255; mask channels stay as they are."""

    scale: Tensor
    offset: Tensor

    def __init__(self, in_channels: int, middle: float, half: float) -> None:
        super().__init__()
        num_masks = in_channels - 3
        scale = [255 * std / half for std in IMAGENET_STD] + [1.0] * num_masks
        offset = [(255 * mean - middle) / half for mean in IMAGENET_MEAN] + [0.0] * num_masks
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("offset", torch.tensor(offset).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        return x * self.scale + self.offset


class ConvNorms(nn.Sequential):
    """Layers in a row, where each BatchNorm follows its convolution (`conv_norm`)."""

    def forward(self, input: Tensor) -> Tensor:
        layers = list(self)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.BatchNorm2d):
                continue  # done with its convolution
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                input = conv_norm(layer, following, input)
            else:
                input = layer(input)
        return input


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
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet50); the stride sits on the 3x3, as in torchvision."""

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

    conv_bias and first_stage exist because STCN's official parameter names ask for them: its value encoder keeps
    biases before BatchNorm, its key encoder calls `layer1` `res2`.
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


class StridedConv2d(nn.Conv2d):
    """A convolution that can pad as TensorFlow's SAME does.

    At stride 2 on an even side SAME needs one row of padding in all and puts it last (right, bottom), where the usual
    padding=1 puts one on either side: the same weights then see the image shifted by a pixel.
    """

    same_padding = False
    even_sides = False
    """Set where every side is known to be even: the padding is a constant then, also in a graph of free size."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.same_padding:
            return super()._conv_forward(input, weight, bias)
        if self.even_sides:
            (kernel_h, kernel_w), (stride_h, stride_w) = self.kernel_size, self.stride
            down, right = kernel_h - stride_h, kernel_w - stride_w
            input = F.pad(input, (right // 2, right - right // 2, down // 2, down - down // 2))
            return F.conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        pads: list[int] = []
        for side, kernel, stride in zip(input.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), weight, bias, self.stride, 0, self.dilation, self.groups)


def conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """MobileNetV2's unit; the entries are numbered as torchvision numbers them."""
    conv_type = StridedConv2d if stride > 1 else nn.Conv2d
    conv = conv_type(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return ConvNorms(conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class _InvertedResidual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [conv_bn_relu6(in_channels, hidden)]
        layers += [
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = ConvNorms(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2Trunk(Trunk):
    """MobileNetV2 up to the 96-channel stage (torchvision's features.0 to features.13).

    num_features  how many entries of `features` to build; 14 is the trunk, 18 reaches the 320 channels before the
                  classifier's own convolution (vos/recognition.py proves the weights by classifying).
    """

    preprocessings = ("imagenet", "tensorflow")
    # (expansion, channels, repeats, first stride), table 2 of the MobileNetV2 paper
    _STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, in_channels: int = 3, num_features: int = 14) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(in_channels, 32, 3, 2)]
        channels = 32
        for expansion, width, repeats, first_stride in self._STAGES:
            for index in range(repeats):
                layers.append(_InvertedResidual(channels, width, first_stride if index == 0 else 1, expansion))
                channels = width
        self.features = nn.Sequential(*layers[:num_features])
        self.channels = (96, 32, 24)
        self.pixel_range = PixelRange(in_channels, 127.5, 127.5)  # TensorFlow's -1 to 1
        kaiming_init(self)

    def set_preprocessing(self, preprocessing: str) -> None:
        super().set_preprocessing(preprocessing)
        for module in self.modules():
            if isinstance(module, StridedConv2d):
                module.same_padding = preprocessing == "tensorflow"

    def to_weight_range(self, x: Tensor) -> Tensor:
        """From our normalised frames to what the weights were trained on."""
        return self.pixel_range(x) if self.preprocessing == "tensorflow" else x

    def early(self) -> list[nn.Module]:
        return [self.features[:4]]

    def forward(self, x: Tensor) -> TrunkFeatures:
        f4 = self.features[:4](self.to_weight_range(x))
        f8 = self.features[4:7](f4)
        return TrunkFeatures(self.features[7:14](f8), f8, f4)


class _GroupNormBlock(nn.Module):
    """A residual block that halves the side. GroupNorm looks at one sample only, so splitting a batch over workers
    changes nothing."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        self.norm1 = nn.GroupNorm(out_channels // 8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(out_channels // 8, out_channels)
        self.downsample = nn.Conv2d(in_channels, out_channels, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.downsample(x))


class SmallTrunk(Trunk):
    """Plain 3x3 convolutions with GroupNorm, trained from scratch in minutes on a CPU.

    widths  channels at strides 2, 4, 8 and 16, multiples of 8
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        stem_conv = nn.Conv2d(in_channels, widths[0], 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem_conv, nn.GroupNorm(widths[0] // 8, widths[0]), nn.ReLU())
        self.stage4 = _GroupNormBlock(widths[0], widths[1])
        self.stage8 = _GroupNormBlock(widths[1], widths[2])
        self.stage16 = _GroupNormBlock(widths[2], widths[3])
        self.channels = (widths[3], widths[2], widths[1])
        kaiming_init(self)
        # A mask must not drown in the texture of three colours. Measured together with the key's gain in student.py:
        # J after 160 steps on moving shapes is 0.44 with both, 0.23 without.
        with torch.no_grad():
            stem_conv.weight[:, 3:] *= 3

    def early(self) -> list[nn.Module]:
        return [self.stem, self.stage4]

    def forward(self, x: Tensor) -> TrunkFeatures:
        f4 = self.stage4(self.stem(x))
        f8 = self.stage8(f4)
        return TrunkFeatures(self.stage16(f8), f8, f4)


def kaiming_init(module: nn.Module) -> None:
    """Convolution weights from N(0, 2 / fan_out), biases zero (He et al. 2015)."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def resnet50_trunk(in_channels: int = 3, conv_bias: bool = False, first_stage: str = "layer1") -> ResNetTrunk:
    """ResNet50 up to layer3: 1024 channels at stride 16."""
    return ResNetTrunk(_Bottleneck, (3, 4, 6), in_channels, conv_bias, first_stage)


def resnet18_trunk(in_channels: int = 3, conv_bias: bool = False) -> ResNetTrunk:
    """ResNet18 up to layer3: 256 channels at stride 16."""
    return ResNetTrunk(_BasicBlock, (2, 2, 2), in_channels, conv_bias)


def tiny_trunk(in_channels: int = 3) -> SmallTrunk:
    """The trunk of mobilevos-tiny."""
    return SmallTrunk(in_channels, (16, 24, 40, 56))


def small_trunk(in_channels: int = 3) -> SmallTrunk:
    """The trunk of teacher-small."""
    return SmallTrunk(in_channels, (24, 32, 64, 96))


def efficientnet_lite0_trunk(in_channels: int = 3) -> Trunk:
    """EfficientNet-Lite0 up to its 112-channel stage."""
    from vos.models.efficientnet import EfficientNetLite0Trunk  # it is built from the parts above

    return EfficientNetLite0Trunk(in_channels)


BACKBONES: dict[str, Callable[[int], Trunk]] = {
    "resnet50": resnet50_trunk,
    "resnet18": resnet18_trunk,
    "mobilenetv2": MobileNetV2Trunk,
    "efficientnet-lite0": efficientnet_lite0_trunk,
    "tiny": tiny_trunk,
    "small": small_trunk,
}
"""Trunk by name; each takes the number of input channels (3, or 5 for a value trunk)."""
