"""Layers from trunk features to keys and values: projection, context, fusion.

Blocks and their parameter names are those of STCN (Cheng et al. 2021), so that its checkpoints load. The students use
the same blocks with fewer channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vos.errors import InputError


class ResBlock(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions; (B, Ci, h, w) -> (B, Co, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.downsample = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        return y + (x if self.downsample is None else self.downsample(x))


class SharedResBlock(nn.Module):
    """A ResBlock whose last input channels are equal in the whole batch. Convolutions are linear, so their part is computed once.

    num_own  input channels before the shared ones
    """

    def __init__(self, block: ResBlock, num_own: int) -> None:
        super().__init__()
        assert block.downsample is not None
        self.conv1, self.conv1_shared = _split(block.conv1, num_own)
        self.downsample, self.downsample_shared = _split(block.downsample, num_own)
        self.conv2 = block.conv2

    def forward(self, own: Tensor, shared: Tensor) -> Tensor:
        """own (O, Ca, h, w), shared (1, Cb, h, w) -> (O, Co, h, w)."""
        y = self.conv2(F.relu(self.conv1(F.relu(own)) + self.conv1_shared(F.relu(shared))))
        return y + self.downsample(own) + self.downsample_shared(shared)


def _split(conv: nn.Conv2d, num_own: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Split a convolution into two, over the first and the other input channels, whose sum equals it.

    The weights are copied, because int8 calibration does not find slices of weights in a graph.
    """
    weight = conv.weight.detach()
    parts = []
    for part, bias in ((weight[:, :num_own], conv.bias), (weight[:, num_own:], None)):
        one = nn.Conv2d(part.shape[1], part.shape[0], 3, padding=1, bias=bias is not None)
        one.weight = nn.Parameter(part.clone(), requires_grad=False)
        one.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        parts.append(one)
    return parts[0], parts[1]


class _ChannelGate(nn.Module):
    """Weigh channels by a gate from mean and maximum over the map (CBAM, eq. 2)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * torch.sigmoid(gate)[:, :, None, None]


class _GateConv(nn.Module):
    """Holds one convolution under the name the official checkpoint gives it (`spatial.conv`)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _SpatialGate(nn.Module):
    """Weigh positions by a gate from maximum and mean over channels (CBAM, eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = _GateConv()

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack((x.amax(1), x.mean(1)), 1)
        return x * torch.sigmoid(self.spatial(pooled))


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018): channels first, then positions."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.ChannelGate = _ChannelGate(channels, reduction)
        self.SpatialGate = _SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class FeatureFusionBlock(nn.Module):
    """Value trunk's f16 and query trunk's f16 -> value, (B, Ca, h, w), (B, Cb, h, w) -> (B, Cv, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block1: ResBlock | SharedResBlock = ResBlock(in_channels, out_channels)
        self.attention = CBAM(out_channels)
        self.block2 = ResBlock(out_channels, out_channels)

    def forward(self, value_f16: Tensor, query_f16: Tensor) -> Tensor:
        x = self._first_block(value_f16, query_f16)
        return self.block2(x + self.attention(x))

    def _first_block(self, value_f16: Tensor, query_f16: Tensor) -> Tensor:
        if isinstance(self.block1, SharedResBlock):
            return self.block1(value_f16, query_f16[:1])
        return self.block1(torch.cat((value_f16, query_f16), 1))

    def share_query(self, value_channels: int) -> None:
        """Convolve the query once for all objects, for inference: a batch must then be the objects of one frame."""
        assert isinstance(self.block1, ResBlock)
        self.block1 = SharedResBlock(self.block1, value_channels)


class KeyProjection(nn.Module):
    """f16 -> key, (B, C, h, w) -> (B, Ck, h, w). Weights start orthogonal, as in STCN, times a gain."""

    def __init__(self, in_channels: int, key_dim: int, gain: float = 1.0) -> None:
        super().__init__()
        self.key_proj = nn.Conv2d(in_channels, key_dim, 3, padding=1)
        nn.init.orthogonal_(self.key_proj.weight, gain)
        nn.init.zeros_(self.key_proj.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return self.key_proj(x)


def _conv_bn(in_channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    padding = rate * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=rate, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3): context at several rates and from the whole frame.

    Raises InputError in training mode for a batch of one frame: the pooled branch then has one value per channel, which
    has no variance for BatchNorm.
    """

    def __init__(self, in_channels: int, width: int, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_conv_bn(in_channels, width, 1)] + [_conv_bn(in_channels, width, 3, rate) for rate in rates]
        )
        self.pooled = _conv_bn(in_channels, width, 1)
        self.project = _conv_bn(width * (len(rates) + 2), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1:
            raise InputError(
                "a batch of one frame cannot train the ASPP's BatchNorm; encode two frames or more at once"
            )
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([branch(x) for branch in self.branches] + [pooled], 1))
