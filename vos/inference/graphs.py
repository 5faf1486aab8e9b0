"""One video step as graphs: tensors in, tensors out, the memory included.

Every runtime of the engine runs these and export writes them, so a device needs no Python of ours. Before there is a recent memory the
first one stands in for it: repeating a memory frame leaves a softmax's readout unchanged. All positions are read (no top k), as the
students were trained. An object's first memory is the frame in which it appeared, so objects added in mid-video need no other graph.

    frame         (H, W, 3) uint8 RGB, any size; padded inside to multiples of 16: Hp, Wp; h = Hp / 16, w = Wp / 16
    key           (1, Ck, h, w), of the frame; the recent memory's key when the next frame comes
    first_key     (O, Ck, h, w)
    first_value   (O, Cv, h, w), recent_value alike
    masks         (O, Hp, Wp) soft masks of the objects, as the value encoder takes them
    prob          (O + 1, H, W) probabilities, background first
    labels        (H, W) uint8, 0 is background, object o is o + 1
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vos.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vos.inference.propagate import STRIDE, padding
from vos.models.encoders import FeatureFusionBlock, ResBlock
from vos.models.interface import QueryFeatures, VOSModel
from vos.models.trunk import StridedConv2d

READ_SCORES = 2**25
"""Most affinity scores of an object in memory at once (128 MiB in float32); a frame of 480p has 2**22."""


def inference_copy(model: VOSModel) -> VOSModel:
    """The same function with fewer operations: BatchNorm folded into convolutions, channels last."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, StridedConv2d):
            module.even_sides = True  # frames are padded to multiples of 16, and no trunk goes beyond stride 16
        if isinstance(module, FeatureFusionBlock) and isinstance(module.block1, ResBlock):
            module.share_query(model.trunks()[1].channels[0])
    for module in list(model.modules()):
        _fold_batch_norm(module)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_batch_norm(module: nn.Module) -> None:
    """A BatchNorm that follows a convolution among a module's children becomes part of it."""
    children = list(module.named_children())
    for (name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())


class Preprocess(nn.Module):
    """frame (H, W, 3) uint8 -> (1, 3, Hp, Wp) float32, ImageNet-normalised, zeros around it."""

    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        x = frame.permute(2, 0, 1).unsqueeze(0).to(self.scale.dtype)
        return F.pad(x * self.scale - self.offset, padding(frame.shape[0], frame.shape[1]))


class Graph(nn.Module):
    """A step or a part of it; tensors go in and come out in this order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, model: VOSModel) -> None:
        super().__init__()
        self.model = model


class EncodeQuery(Graph):
    """A frame -> what it is matched and decoded with, once for all objects."""

    inputs = ("frame",)
    outputs = ("key", "f16_thin", "f16", "f8", "f4")

    def __init__(self, model: VOSModel) -> None:
        super().__init__(model)
        self.preprocess = Preprocess()

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.encode_query(self.preprocess(frame)))


class ReadDecode(Graph):
    """Query features and memory -> the objects' masks. The frame gives only its size."""

    inputs = ("frame", "key", "f16_thin", "f8", "f4", "first_key", "first_value", "recent_key", "recent_value")
    outputs = ("labels", "prob", "masks")
    together = False

    def __init__(self, model: VOSModel) -> None:
        super().__init__(model)
        self.enlarge = Enlarge4()

    def forward(
        self,
        frame: Tensor,
        key: Tensor,
        f16_thin: Tensor,
        f8: Tensor,
        f4: Tensor,
        first_key: Tensor,
        first_value: Tensor,
        recent_key: Tensor,
        recent_value: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        readout = read_two_frames(key, first_key, first_value, recent_key, recent_value, self.together)
        query = QueryFeatures(key, f16_thin, key, f8, f4)  # the decoder does not look at f16
        every = aggregate(torch.sigmoid(self.enlarge(self.model.decode(query, readout).logits[0])))
        height, width = frame.shape[0], frame.shape[1]
        left, _, top, _ = padding(height, width)
        prob = every[:, top : top + height, left : left + width]
        return prob.argmax(0).to(torch.uint8), prob, every[1:]


class ReadDecodeTogether(ReadDecode):
    """The same for objects that began in the same frame: their affinity is one, computed once, with their values side by side."""

    inputs = ("frame", "key", "f16_thin", "f8", "f4", "shared_first_key", "first_value", "recent_key", "recent_value")
    together = True


class Enlarge4(nn.Module):
    """Bilinear enlargement by 4, as `F.interpolate(align_corners=False)`: a convolution to the 16 phases of a cell, shuffled into place.

    Runtimes' own interpolation works along channels and takes a tenth of a frame's time for these maps of one channel; this, a hundredth.
    """

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A phase's centre lies at (phase - 1.5) / 4 cells from its cell's, between that cell and the one before or after.
        taps = torch.tensor([[3, 5, 0], [1, 7, 0], [0, 7, 1], [0, 5, 3]]) / 8
        self.register_buffer("weight", torch.einsum("ai,bj->abij", taps, taps).reshape(16, 1, 3, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(O, h, w) -> (O, 4h, 4w)."""
        padded = F.pad(x.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.weight), 4).squeeze(1)


class EncodeValue(Graph):
    """A frame, its f16 and the objects' masks -> the memory value of that frame."""

    inputs = ("frame", "f16", "masks")
    outputs = ("value",)

    def __init__(self, model: VOSModel) -> None:
        super().__init__(model)
        self.preprocess = Preprocess()

    def forward(self, frame: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        return self.model.encode_value(self.preprocess(frame), f16, masks.unsqueeze(0))[0]


class Step(Graph):
    """A frame and the memory -> masks and the next recent memory: the whole pipeline, for any runtime to loop over."""

    inputs = ("frame", "first_key", "first_value", "recent_key", "recent_value")
    outputs = ("labels", "prob", "key", "value")

    def __init__(self, model: VOSModel) -> None:
        super().__init__(model)
        self.encode_query, self.encode_value = EncodeQuery(model), EncodeValue(model)
        self.read_decode = ReadDecode(model)

    def forward(
        self, frame: Tensor, first_key: Tensor, first_value: Tensor, recent_key: Tensor, recent_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        key, f16_thin, f16, f8, f4 = self.encode_query(frame)
        memory = (first_key, first_value, recent_key, recent_value)
        labels, prob, masks = self.read_decode(frame, key, f16_thin, f8, f4, *memory)
        return labels, prob, key, self.encode_value(frame, f16, masks)


class Start(Graph):
    """The first frame and its given labels -> its memory, which is first and recent memory of the next frame.

    labels (H, W) uint8 with objects 1 to O; `objects` (O,) uint8 = 1 to O says how many there are.
    """

    inputs = ("frame", "labels", "objects")
    outputs = ("key", "value")

    def __init__(self, model: VOSModel) -> None:
        super().__init__(model)
        self.encode_query, self.encode_value = EncodeQuery(model), EncodeValue(model)

    def forward(self, frame: Tensor, labels: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        key, _, f16, _, _ = self.encode_query(frame)
        masks = (labels.unsqueeze(0) == objects.view(-1, 1, 1)).to(key.dtype)
        return key, self.encode_value(frame, f16, F.pad(masks, padding(frame.shape[0], frame.shape[1])))


def read_two_frames(
    key: Tensor,
    first_key: Tensor,
    first_value: Tensor,
    recent_key: Tensor,
    recent_value: Tensor,
    together: bool = False,
) -> Tensor:
    """The readout over every position of both memory frames, as one fused attention.

    key (1, Ck, h, w), first_value (O, Cv, h, w), recent_key (1, Ck, h, w), recent_value (O, Cv, h, w)
    first_key  (O, Ck, h, w), an object per head; `together`: (1, Ck, h, w), the same for all objects, whose values are read side by side
    returns    (1, O, Cv, h, w), that of `vos.models.memory.read_memory` with top_k=None

    The affinity (2 m.q - |m|^2) / sqrt(Ck) is an attention with queries 2 q and the bias -|m|^2 / sqrt(Ck) on a memory position. Runtimes
    may keep all scores in memory, 8 GiB at 4K, so query positions are read in chunks of at most `READ_SCORES` scores an object.
    """
    O, h, w = first_value.shape[0], key.shape[2], key.shape[3]
    heads = 1 if together else O
    scale = key.shape[1] ** -0.5
    query_rows = key.flatten(2).transpose(1, 2) * 2
    key_rows = torch.cat((first_key.flatten(2), recent_key.flatten(2).expand(heads, -1, -1)), 2).transpose(1, 2)
    value = torch.cat((first_value.flatten(2), recent_value.flatten(2)), 2)
    value_rows = (value.flatten(0, 1).unsqueeze(0) if together else value).transpose(1, 2)
    bias = key_rows.square().sum(-1) * -scale
    readout = [
        F.scaled_dot_product_attention(
            rows.unsqueeze(1).expand(1, heads, -1, -1),
            key_rows.unsqueeze(0),
            value_rows.unsqueeze(0),
            attn_mask=bias.view(1, heads, 1, -1).expand(1, heads, rows.shape[1], -1),
            scale=scale,
        )
        for rows in _chunks(query_rows, key_rows.shape[1])
    ]
    whole = torch.cat(readout, 2) if len(readout) > 1 else readout[0]
    return whole.transpose(2, 3).reshape(1, O, -1, h, w)


def _chunks(query_rows: Tensor, num_positions: int) -> Sequence[Tensor]:
    """Split (1, N, Ck) into parts that read at most READ_SCORES scores each."""
    if not isinstance(
        num_positions, int
    ):  # exported for frames of any size: such a graph cannot contain a number of parts
        return (query_rows,)
    return query_rows.split(max(1, READ_SCORES // num_positions), 1)


def aggregate(prob: Tensor) -> Tensor:
    """prob (O, H, W) of independent objects -> (O + 1, H, W), background first, summing to 1.

    The softmax of `soft_aggregate`'s logits without its logarithms: odds, normalised.
    """
    prob = torch.cat(((1 - prob).prod(0, keepdim=True), prob)).clamp(1e-7, 1 - 1e-7)
    odds = prob / (1 - prob)
    return odds / odds.sum(0, keepdim=True)


GRAPHS: dict[str, type[Graph]] = {
    "start": Start,
    "step": Step,
    "encode_query": EncodeQuery,
    "read_decode": ReadDecode,
    "encode_value": EncodeValue,
}
"""Every graph of an export by the name of its file."""

TOGETHER = "read_decode_together"
NEEDED = ("encode_query", "read_decode", "encode_value")
"""What the engine cannot do without; an exported folder has these."""
ENGINE_GRAPHS: dict[str, type[Graph]] = {**{name: GRAPHS[name] for name in NEEDED}, TOGETHER: ReadDecodeTogether}
"""What the engine runs where it makes the graphs itself."""


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) -> the multiples of 16 that the network sees."""
    return -(-size[0] // STRIDE) * STRIDE, -(-size[1] // STRIDE) * STRIDE
