"""The MobileVOS family: students, and teachers of the same design. STCN's topology with small trunks, narrow heads and an optional ASPP.

The authors released no code; widths were fitted to the published sizes (1.9, 2.5 and 8.1 M parameters).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vos.errors import InputError
from vos.models.backbones import BACKBONES
from vos.models.decoder import Decoder
from vos.models.encoders import ASPP, FeatureFusionBlock, KeyProjection
from vos.models.interface import VOSModel
from vos.models.trunk import Trunk, TrunkFeatures


@dataclass(frozen=True)
class Design:
    """The parameters of one model of the family.

    backbone    a row of BACKBONES, for both trunks
    width       channels of key, value and decoder
    aspp_width  channels of the ASPP's branches; None: no ASPP
    key_gain    initial scale of the keys. The two small models, trained from scratch, start with 1.5: a query then
                spreads over 8 of 64 memory cells. At 1 it spreads over 25 and first learns to copy the background.
    value_width, decoder_widths   channels of the value, and of the decoder at strides 16, 8 and 4, if they differ from `width`
    """

    backbone: str
    width: int
    aspp_width: int | None = None
    key_gain: float = 1.0
    value_width: int | None = None
    decoder_widths: tuple[int, int, int] | None = None


DESIGNS: dict[str, Design] = {
    "mobilevos-mobilenetv2": Design("mobilenetv2", 64, aspp_width=144),
    "mobilevos-mobilenetv2-noaspp": Design("mobilenetv2", 64),
    "mobilevos-resnet18": Design("resnet18", 64, aspp_width=144),
    "mobilevos-tiny": Design("tiny", 32, key_gain=1.5),
    "teacher-small": Design("small", 64, key_gain=1.5),
    "teacher-mobilenetv2": Design("mobilenetv2", 64, value_width=256, decoder_widths=(128, 64, 64)),
    "teacher-lite0": Design("efficientnet-lite0", 64, value_width=256, decoder_widths=(128, 64, 64)),
    "teacher-lite2": Design("efficientnet-lite2", 64, value_width=256, decoder_widths=(128, 64, 64)),
}


class Standard(nn.Module):
    """Scale the features of a trained trunk per channel to mean 0 and deviation 1 by fixed statistics; the identity before `measure`.

    ImageNet trunks have deviations of 3 to 10. Without scaling, the inputs of new heads are too large, and keys start so far apart
    that a query attends to a single cell.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)"""
        return x * self.scale[:, None, None] - self.shift[:, None, None]

    def measure(self, x: Tensor) -> None:
        deviation, mean = torch.std_mean(x.float(), dim=(0, 2, 3))
        self.scale.copy_(1 / deviation.clamp(min=1e-3))
        self.shift.copy_(mean * self.scale)


class MobileVOS(VOSModel):
    """frame -> query trunk -> (ASPP) -> key and compressed f16;  frame and masks -> value trunk -> fusion -> value.

    The value fusion reads the query trunk's f16, the key projection reads the ASPP's output.
    Raises InputError for a name that is not in DESIGNS.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in DESIGNS:
            raise InputError(f'model "{name}" is unknown; use one of {", ".join(DESIGNS)}')
        design = DESIGNS[name]
        width, aspp_width = design.width, design.aspp_width
        value_width = design.value_width or width
        self.name = name
        self.key_dim, self.value_dim = width, value_width
        self.query_trunk = BACKBONES[design.backbone](3)
        self.value_trunk = BACKBONES[design.backbone](5)
        c16, c8, c4 = self.query_trunk.channels
        self.query_standard = nn.ModuleList(Standard(channels) for channels in (c16, c8, c4))
        self.value_standard = Standard(c16)
        self.aspp = nn.Identity() if aspp_width is None else ASPP(c16, aspp_width)
        context_channels = c16 if aspp_width is None else aspp_width
        self.key_proj = KeyProjection(context_channels, width, design.key_gain)
        self.key_comp = nn.Conv2d(context_channels, value_width, 3, padding=1)
        self.fuser = FeatureFusionBlock(2 * c16, value_width)
        self.decoder = Decoder(2 * value_width, (c8, c4), design.decoder_widths or (width, width, width))

    def trunks(self) -> tuple[Trunk, Trunk]:
        return self.query_trunk, self.value_trunk

    def query_features(self, frames: Tensor) -> TrunkFeatures:
        features = super().query_features(frames)
        return TrunkFeatures(*(standard(x) for standard, x in zip(self.query_standard, features, strict=True)))

    def value_features(self, inputs: Tensor) -> TrunkFeatures:
        features = super().value_features(inputs)
        return features._replace(f16=self.value_standard(features.f16))

    @torch.no_grad()
    def standardise(self, frames: Tensor, masks: Tensor) -> None:
        """Measure the fixed statistics of the trunks' features on some frames.

        frames (B, 3, H, W) ImageNet-normalised, masks (B, 1, H, W) of one object in [0, 1]
        """
        for standard, x in zip(self.query_standard, self.query_trunk(frames), strict=True):
            assert isinstance(standard, Standard)
            standard.measure(x)
        self.value_standard.measure(self.value_trunk(torch.cat((frames, masks, torch.zeros_like(masks)), 1)).f16)

    def context(self, f16: Tensor) -> Tensor:
        return self.aspp(f16)

    def fuse(self, value_features: TrunkFeatures, f16: Tensor) -> Tensor:
        return self.fuser(value_features.f16, f16)
