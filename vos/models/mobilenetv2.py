"""The MobileNetV2 trunk (Sandler et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from vos.models.trunk import ConvNorms, PixelRange, StridedConv2d, Trunk, TrunkFeatures, kaiming_init


def conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return MobileNetV2's unit; its entries are numbered as in torchvision."""
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

    num_features  entries of `features` to build; 14 is the trunk, 18 ends at the 320 channels before the classifier's
                  own convolution (vos/published/recognition.py checks weights by classifying).
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
        """Convert ImageNet-normalised frames to the pixel range of the weights."""
        return self.pixel_range(x) if self.preprocessing == "tensorflow" else x

    def early(self) -> list[nn.Module]:
        return [self.features[:4]]

    def forward(self, x: Tensor) -> TrunkFeatures:
        f4 = self.features[:4](self.to_weight_range(x))
        f8 = self.features[4:7](f4)
        return TrunkFeatures(self.features[7:14](f8), f8, f4)
