"""The students: STCN's topology with small trunks, narrow heads and, optionally, an ASPP.

The authors released no code; widths were fitted to the published sizes (1.9, 2.5 and 8.1 M parameters).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vos.errors import InputError
from vos.models.backbones import BACKBONES, Trunk, TrunkFeatures
from vos.models.decoder import Decoder
from vos.models.encoders import ASPP, FeatureFusionBlock, KeyProjection
from vos.models.interface import VOSModel


@dataclass(frozen=True)
class Design:
    """What sets one student apart.

    backbone    a row of BACKBONES, for both trunks
    width       channels of key, value and decoder
    aspp_width  channels of the ASPP's branches; None: no ASPP
    key_gain    scale of the first keys. Trained from scratch, the two small models start sharper: at 1 a query spreads
                over 25 of 64 memory cells and first learns to copy the background, at 1.5 over 8.
    """

    backbone: str
    width: int
    aspp_width: int | None = None
    key_gain: float = 1.0


STUDENTS: dict[str, Design] = {
    "mobilevos-mobilenetv2": Design("mobilenetv2", 64, aspp_width=144),
    "mobilevos-mobilenetv2-noaspp": Design("mobilenetv2", 64),
    "mobilevos-resnet18": Design("resnet18", 64, aspp_width=144),
    "mobilevos-tiny": Design("tiny", 32, key_gain=1.5),
    "teacher-small": Design("small", 64, key_gain=1.5),
}


class Student(VOSModel):
    """frame -> query trunk -> (ASPP) -> key and compressed f16;  frame and masks -> value trunk -> fusion -> value.

    The value fusion takes the query trunk's own f16, the key what the ASPP made of it (PAPER.md section 3).
    Raises InputError for a name that STUDENTS does not have.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in STUDENTS:
            raise InputError(f'student "{name}" is unknown; use one of {", ".join(STUDENTS)}')
        design = STUDENTS[name]
        width, aspp_width = design.width, design.aspp_width
        self.name = name
        self.key_dim = self.value_dim = width
        self.query_trunk = BACKBONES[design.backbone](3)
        self.value_trunk = BACKBONES[design.backbone](5)
        c16, c8, c4 = self.query_trunk.channels
        self.aspp = nn.Identity() if aspp_width is None else ASPP(c16, aspp_width)
        context_channels = c16 if aspp_width is None else aspp_width
        self.key_proj = KeyProjection(context_channels, width, design.key_gain)
        self.key_comp = nn.Conv2d(context_channels, width, 3, padding=1)
        self.fuser = FeatureFusionBlock(2 * c16, width)
        self.decoder = Decoder(2 * width, (c8, c4), (width, width, width))

    def trunks(self) -> tuple[Trunk, Trunk]:
        return self.query_trunk, self.value_trunk

    def context(self, f16: Tensor) -> Tensor:
        return self.aspp(f16)

    def fuse(self, value_features: TrunkFeatures, f16: Tensor) -> Tensor:
        return self.fuser(value_features.f16, f16)
