"""Base of all image trunks: cut at stride 16, with skips at strides 8 and 4.

Parameters have torchvision's names, so ImageNet checkpoints load without a renaming table; torchvision itself is not
needed. Every trunk takes ImageNet-normalised frames. If its weights have TensorFlow's convention, the trunk converts
the frames itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vos.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vos.errors import InputError


class TrunkFeatures(NamedTuple):
    """Features at strides 16, 8 and 4: (B, C16, H/16, W/16), (B, C8, H/8, W/8), (B, C4, H/4, W/4)."""

    f16: Tensor
    f8: Tensor
    f4: Tensor


class Trunk(nn.Module):
    """Base class of trunks: channels, and the convention of the weights.

    Input channels beyond the third (masks) are not converted, whatever the convention.
    """

    channels: tuple[int, int, int]
    """Channels at strides 16, 8 and 4."""

    preprocessings: tuple[str, ...] = ("imagenet",)
    """The conventions of weights that this trunk supports."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = "imagenet"

    def early(self) -> list[nn.Module]:
        """Return the layers up to stride 4. They detect generic edges and colours and take half of a training step's time."""
        raise NotImplementedError

    def set_preprocessing(self, preprocessing: str) -> None:
        """Set the convention of the weights. Raises InputError for one that the trunk does not support."""
        if preprocessing not in self.preprocessings:
            known = " or ".join(f'"{known}"' for known in self.preprocessings)
            raise InputError(f'preprocessing "{preprocessing}" does not fit this trunk; use {known}')
        self.preprocessing = preprocessing


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Return norm(conv(x)). BatchNorm with fixed statistics is folded into the convolution's weights first.

    Values and gradients are the same, with two passes over the feature map less in each direction.
    """
    if norm.training or not isinstance(norm, nn.BatchNorm2d):
        return norm(conv(x))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    return conv._conv_forward(x, conv.weight * scale[:, None, None, None], bias)


class PixelRange(nn.Module):
    """Convert ImageNet-normalised frames to (pixel - middle) / half, with pixels in 0 to 255; mask channels are unchanged."""

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
    """Sequential layers in which each BatchNorm is applied with its convolution (`conv_norm`)."""

    def forward(self, input: Tensor) -> Tensor:
        layers = list(self)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.BatchNorm2d):
                continue  # applied with its convolution
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                input = conv_norm(layer, following, input)
            else:
                input = layer(input)
        return input


class StridedConv2d(nn.Conv2d):
    """A convolution with optional TensorFlow SAME padding.

    At stride 2 on an even side, SAME adds one row of padding, at the end (right, bottom). The usual padding=1 adds one
    on each side, so the same weights see the image shifted by a pixel.
    """

    same_padding = False
    even_sides = False
    """Set if every side is even: the padding is then constant, also in a graph of free size."""

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


def kaiming_init(module: nn.Module) -> None:
    """Initialise convolution weights from N(0, 2 / fan_out) and biases with zero (He et al. 2015)."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
