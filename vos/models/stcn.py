"""The teacher: STCN (Cheng et al. 2021), with the official parameter names."""

from __future__ import annotations

from torch import Tensor, nn

from vos.models.decoder import Decoder
from vos.models.encoders import FeatureFusionBlock, KeyProjection
from vos.models.interface import VOSModel
from vos.models.resnet import ResNetTrunk, resnet18_trunk, resnet50_trunk
from vos.models.trunk import Trunk, TrunkFeatures


class STCN(VOSModel):
    """STCN with the official shapes: 54,434,180 parameters. `vos.models.checkpoint.load_checkpoint` loads released weights."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "stcn"
        self.key_dim, self.value_dim = 64, 512
        self.key_encoder = resnet50_trunk(first_stage="res2")
        self.value_encoder = _with_fuser(resnet18_trunk(in_channels=5, conv_bias=True))
        self.key_proj = KeyProjection(1024, self.key_dim)
        self.key_comp = nn.Conv2d(1024, 512, 3, padding=1)
        self.decoder = Decoder(1024, (512, 256), (512, 256, 256))

    def trunks(self) -> tuple[Trunk, Trunk]:
        return self.key_encoder, self.value_encoder

    def fuse(self, value_features: TrunkFeatures, f16: Tensor) -> Tensor:
        return self.value_encoder.get_submodule("fuser")(value_features.f16, f16)


def _with_fuser(trunk: ResNetTrunk) -> ResNetTrunk:
    """Add the fusion block to the value encoder, where the official checkpoint has it."""
    trunk.add_module("fuser", FeatureFusionBlock(256 + 1024, 512))
    return trunk
