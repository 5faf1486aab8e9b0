"""Published figures of MobileVOS and the methods it is compared with, for reports.

Source: the authors' slides of "MobileVOS: Real-Time Video Object Segmentation Contrastive Learning meets Knowledge
Distillation" (CVPR 2023). Nothing here was measured by this project, so every row has source = "reported".
J, F and J&F are in [0, 1]; FPS are those of the authors' machines. None means that the source gives no figure.
"""

from dataclasses import dataclass

REPORTED = "reported"


@dataclass(frozen=True)
class Quality:
    """One method on one data set. `fps_is_bound`: the source gives `fps` as an upper bound."""

    j_and_f: float
    j: float
    f: float
    fps: float | None = None
    fps_is_bound: bool = False


@dataclass(frozen=True)
class Speed:
    """FPS of one method on one GPU: a sequence played once (short) and 10 times in a row (long)."""

    short_fps: float
    long_fps: float | None
    long_out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Published:
    """One method. `constant_cost`: whether time and memory per frame do not grow with the video."""

    method: str
    constant_cost: bool | None = None
    davis16: Quality | None = None
    davis17: Quality | None = None
    params_m: float | None = None
    a40: Speed | None = None
    gtx1080ti: Speed | None = None
    source: str = REPORTED


PUBLISHED: tuple[Published, ...] = (
    Published(
        method="STM",
        constant_cost=False,
        davis16=Quality(0.893, 0.887, 0.899, 6.3),
        davis17=Quality(0.818, 0.792, 0.843, 10.2),
        params_m=38.9,
        a40=Speed(8.9, 4.3),
        gtx1080ti=Speed(6.8, None, long_out_of_memory=True),
    ),
    Published(method="MiVOS", constant_cost=False, davis16=Quality(0.910, 0.897, 0.924, 16.9)),
    Published(
        method="GSFM",
        params_m=67.0,
        a40=Speed(18.4, 4.2),
        gtx1080ti=Speed(7.6, None, long_out_of_memory=True),
    ),
    Published(
        method="STCN",
        constant_cost=False,
        davis16=Quality(0.917, 0.904, 0.930, 26.9),
        davis17=Quality(0.853, 0.820, 0.886, 20.2),
        params_m=54.4,
        a40=Speed(37.4, 8.3),
        gtx1080ti=Speed(18.1, None, long_out_of_memory=True),
    ),
    Published(
        method="BATMAN",
        constant_cost=False,
        davis16=Quality(0.925, 0.907, 0.942),
        davis17=Quality(0.862, 0.832, 0.894),
    ),
    Published(
        method="XMem",
        constant_cost=False,
        davis16=Quality(0.920, 0.907, 0.932, 29.6),
        davis17=Quality(0.877, 0.840, 0.914, 22.6),
        params_m=62.2,
        a40=Speed(38.6, 39.9),
        gtx1080ti=Speed(12.6, 12.7),
    ),
    Published(
        method="SwiftNet",
        constant_cost=True,
        davis16=Quality(0.904, 0.905, 0.903, 25.0),
        davis17=Quality(0.811, 0.783, 0.839, 25.0, fps_is_bound=True),
    ),
    Published(
        method="RDE-VOS",
        constant_cost=True,
        davis16=Quality(0.916, 0.900, 0.932, 35.0),
        davis17=Quality(0.861, 0.821, 0.900, 27.0),
        params_m=64.0,
        a40=Speed(32.0, 34.2),
        gtx1080ti=Speed(14.4, 14.1),
    ),
    Published(
        method="MobileVOS ResNet18",
        constant_cost=True,
        davis16=Quality(0.914, 0.903, 0.926, 100.1),
        davis17=Quality(0.850, 0.817, 0.883, 90.6),
        params_m=8.1,
        a40=Speed(144.7, 145.4),
        gtx1080ti=Speed(76.0, 76.3),
    ),
    Published(
        method="MobileVOS MobileNetV2",
        constant_cost=True,
        davis16=Quality(0.905, 0.895, 0.915, 81.8),
        davis17=Quality(0.822, 0.787, 0.857, 79.1),
        params_m=2.5,
        a40=Speed(99.9, 99.1),
        gtx1080ti=Speed(61.6, 60.6),
    ),
    Published(
        method="MobileVOS MobileNetV2 without ASPP",
        constant_cost=True,
        davis16=Quality(0.901, 0.890, 0.911, 86.0),
        davis17=Quality(0.818, 0.783, 0.853, 81.3),
        params_m=1.9,
        a40=Speed(105.1, 103.4),
        gtx1080ti=Speed(66.8, 67.4),
    ),
)


METHOD_OF_MODEL = {
    "stcn": "STCN",
    "mobilevos-resnet18": "MobileVOS ResNet18",
    "mobilevos-mobilenetv2": "MobileVOS MobileNetV2",
    "mobilevos-mobilenetv2-noaspp": "MobileVOS MobileNetV2 without ASPP",
}
"""Architecture of `vos.models.names()` -> published method; the other models were not published."""


def published(method: str) -> Published:
    """Return the row of one method; raises KeyError for a method that the source does not list."""
    return {row.method: row for row in PUBLISHED}[method]
