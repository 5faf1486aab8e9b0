"""The interface of all models: encode a query frame, encode a memory value, decode a readout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vos.models.decoder import Decoder
from vos.models.trunk import Trunk, TrunkFeatures


class QueryFeatures(NamedTuple):
    """Features of a frame for matching and decoding; its key is later used as memory key.

    key (B, Ck, h, w), f16_thin (B, C, h, w), f16 (B, C16, h, w), f8 (B, C8, 2h, 2w), f4 (B, C4, 4h, 4w); h = H/16
    """

    key: Tensor
    f16_thin: Tensor
    f16: Tensor
    f8: Tensor
    f4: Tensor


class Decoded(NamedTuple):
    """logits (B, O, H/4, W/4) per object, before the sigmoid; features (B, O, Cd, H/4, W/4) before the classifier."""

    logits: Tensor
    features: Tensor


class VOSModel(nn.Module):
    """Space-time memory network: two trunks, a key, a value, a decoder (STCN's topology).

    A subclass builds `key_proj`, `key_comp` and `decoder`, and implements `trunks` and `fuse`.
    """

    name: str
    key_dim: int
    value_dim: int
    key_proj: nn.Module
    key_comp: nn.Module
    decoder: Decoder

    def __init__(self) -> None:
        super().__init__()
        self.batch_norm_frozen = False
        self.trained_size_px = 0
        """Shorter side in pixels of the frames that it was trained for, 0 if unknown."""

    def trunks(self) -> tuple[Trunk, Trunk]:
        """Return the query trunk and the value trunk."""
        raise NotImplementedError

    def context(self, f16: Tensor) -> Tensor:
        """Return the input of key and compressed f16: the query trunk's f16, unless a subclass adds context."""
        return f16

    def fuse(self, value_features: TrunkFeatures, f16: Tensor) -> Tensor:
        """Fuse the value trunk's features and the query f16 into the value (B*O, Cv, h, w)."""
        raise NotImplementedError

    def query_features(self, frames: Tensor) -> TrunkFeatures:
        """Return the query trunk's features of frames (B, 3, H, W); a subclass may scale them."""
        return self.trunks()[0](frames)

    def value_features(self, inputs: Tensor) -> TrunkFeatures:
        """Return the value trunk's features of inputs (B*O, 5, H, W); a subclass may scale them."""
        return self.trunks()[1](inputs)

    def encode_query(self, frames: Tensor) -> QueryFeatures:
        """Encode frames (B, 3, H, W), ImageNet-normalised, H and W multiples of 16: once per frame, for all objects."""
        features = self.query_features(frames)
        context = self.context(features.f16)
        return QueryFeatures(self.key_proj(context), self.key_comp(context), *features)

    def encode_value(self, frames: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """Encode frames with their masks into memory values (B, O, Cv, h, w).

        frames (B, 3, H, W), f16 (B, C16, h, w) of the same frames, masks (B, O, H, W) in [0, 1]. The trunk's input per
        object is RGB, its mask and the sum of the other objects' masks.
        """
        B, O = masks.shape[:2]
        masks = masks.to(frames.dtype)
        others = masks.sum(1, keepdim=True) - masks
        rgb = frames.unsqueeze(1).expand(-1, O, -1, -1, -1)
        inputs = torch.cat((rgb, masks.unsqueeze(2), others.unsqueeze(2)), 2).flatten(0, 1)
        value = self.fuse(self.value_features(inputs), f16.repeat_interleave(O, 0))
        return value.unflatten(0, (B, O))

    def decode(self, query: QueryFeatures, readout: Tensor) -> Decoded:
        """Decode a readout (B, O, Cv, h, w) with the query features of B frames."""
        B, O = readout.shape[:2]
        thin = query.f16_thin.unsqueeze(1).expand(-1, O, -1, -1, -1)
        logits, features = self.decoder(torch.cat((readout, thin), 2).flatten(0, 1), query.f8, query.f4)
        return Decoded(logits.squeeze(1).unflatten(0, (B, O)), features.unflatten(0, (B, O)))

    @property
    def preprocessing(self) -> str:
        """Convention of the trunks' weights, "imagenet" or "tensorflow"; frames are ImageNet-normalised for both."""
        return self.trunks()[0].preprocessing

    def set_preprocessing(self, preprocessing: str) -> None:
        """Set the convention of both trunks' weights. Raises InputError if the trunk does not support it."""
        for trunk in self.trunks():
            trunk.set_preprocessing(preprocessing)

    def freeze_batch_norm(self) -> None:
        """Freeze the trunks' BatchNorm statistics, also after a later `.train()`.

        Needed if BatchNorm was folded into the convolutions, since batch statistics would undo the weights. STCN's main
        training does it too. Affine parameters stay trainable; the BatchNorm of an ASPP is not frozen.
        """
        self.batch_norm_frozen = True
        self.train(self.training)

    def freeze_early(self) -> None:
        """Freeze the query trunk's weights up to stride 4. The value trunk must learn to see masks and is not frozen."""
        for module in self.trunks()[0].early():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> VOSModel:
        super().train(mode)
        if self.batch_norm_frozen:
            for trunk in self.trunks():
                for module in trunk.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eval()
        return self
