"""From readout and query features to one mask logit per object, at stride 4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vos.models.encoders import ResBlock


class UpsampleBlock(nn.Module):
    """Double the resolution and add a skip. The skip is projected once per frame and shared by that frame's objects."""

    def __init__(self, skip_channels: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip_conv = nn.Conv2d(skip_channels, in_channels, 3, padding=1)
        self.out_conv = ResBlock(in_channels, out_channels)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """skip (B, Cs, 2h, 2w), x (B*O, Ci, h, w) -> (B*O, Co, 2h, 2w)."""
        skip = self.skip_conv(skip)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        if skip.shape[0] == 1:  # one frame: without a fifth dimension, so that runtimes keep their fast layouts
            return self.out_conv(x + skip)
        x = x.unflatten(0, (skip.shape[0], -1)) + skip.unsqueeze(1)
        return self.out_conv(x.flatten(0, 1))


class Decoder(nn.Module):
    """STCN's decoder.

    in_channels    channels of the readout plus those of the compressed f16
    skip_channels  channels of the query trunk at strides 8 and 4
    widths         channels at strides 16, 8 and 4
    """

    def __init__(self, in_channels: int, skip_channels: tuple[int, int], widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.compress = ResBlock(in_channels, widths[0])
        self.up_16_8 = UpsampleBlock(skip_channels[0], widths[0], widths[1])
        self.up_8_4 = UpsampleBlock(skip_channels[1], widths[1], widths[2])
        self.pred = nn.Conv2d(widths[2], 1, 3, padding=1)
        # Objects cover about a tenth of a frame: starting there (sigmoid(-2) = 0.12) saves about a hundred steps.
        nn.init.normal_(self.pred.weight, std=0.01)
        nn.init.constant_(self.pred.get_parameter("bias"), -2.0)

    def forward(self, x: Tensor, f8: Tensor, f4: Tensor) -> tuple[Tensor, Tensor]:
        """x (B*O, C, h, w), f8 (B, C8, 2h, 2w), f4 (B, C4, 4h, 4w) -> logits (B*O, 1, 4h, 4w) and the features before
        the classifier (B*O, Cd, 4h, 4w)."""
        x = self.up_16_8(f8, self.compress(x))
        features = F.relu(self.up_8_4(f4, x))
        return self.pred(features), features


def object_probability(logits: Tensor) -> Tensor:
    """Per-object logits at stride 4 (B, O, H/4, W/4) -> probabilities at full size (B, O, H, W), float32.

    The logits are upsampled, not the probabilities (as in STCN).
    """
    return torch.sigmoid(F.interpolate(logits.float(), scale_factor=4, mode="bilinear", align_corners=False))
