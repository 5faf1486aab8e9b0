"""Which runs make up each ablation, in the order of the value that is varied."""

from __future__ import annotations

from pipelines.studies.davis.plan import (
    LONG,
    SCALES,
    SHARES,
    TEMPERATURES,
    W,
    as_large,
    denser_samples,
    heavier,
    lighter_kd,
    quarter,
)
from vos.config import CacheConfig, EvaluateConfig, TrainConfig
from vos.config.presets import preset


def ablation_families(name: str) -> dict[str, list[tuple[str, str]]]:
    """Title -> (value, family) of each ablation, in the order of its values; what has its usual value is the common base run."""
    usual, samples = preset(TrainConfig, name).loss, preset(CacheConfig, name).samples
    rank, context = preset(CacheConfig, name).factor.rank, preset(CacheConfig, name).teacher.context_frames
    main = next(iter(SCALES[name].students))
    base = "short-both"
    w = sorted([(value, f"short-w{value:g}") for value in W] + [(usual.w, base)])
    tau = sorted([(value, f"short-tau{value:g}") for value in TEMPERATURES] + [(usual.temperature, base)])
    kd = lighter_kd(name)
    density = [(round(share * samples), f"short-n{round(share * samples)}") for share in SHARES] + [(samples, base)]
    denser = denser_samples(name)
    density.append((denser, f"short-n{denser}"))
    more_kd, more_repr = heavier(name)
    memory = {"first": "memory-first-{}", "recent": "memory-recent-{}", "first + recent": f"full-{main}-{{}}"}
    memory["infinite"] = "memory-infinite-{}"
    larger = {}
    if size := as_large(name):
        for loss, student in (("plain", "plain"), ("both", "distilled")):
            families = {preset(EvaluateConfig, name).size_px: f"full-{main}", SCALES[name].teacher_px: size}
            larger[f"frames' shorter side (px), {student}, {LONG:g} x full"] = [
                (str(size_px), f"{family}-{loss}-fresh") for size_px, family in families.items()
            ]
    return {
        "w, the teacher's share of the correlations": [(f"{value:g}", family) for value, family in w],
        "temperature": [(f"{value:g}", family) for value, family in tau],
        "weight of the logits' KL": [
            (f"{kd:g}", f"short-kd{kd:g}"),
            (f"{usual.kd:g}", base),
            (f"{more_kd:g}", f"short-kd{more_kd:g}"),
        ],
        "weight of |S| x L_repr": [
            (f"{usual.representation:g}", base),
            (f"{more_repr:g}", f"short-repr{more_repr:g}"),
        ],
        "N, sampled pixels": [(str(value), family) for value, family in density],
        "sampling": [
            (f"boundary {quarter(name)}", f"short-{quarter(name)}"),
            (f"uniform {quarter(name)}", "short-uniform"),
        ],
        "factor": [
            ("int8 r16", "short-rank16"),
            (f"int8 r{rank}", base),
            (f"fp16 r{rank}", "short-fp16"),
            ("fp32 all", "short-fp32"),
            ("online", "short-online"),
        ],
        "context frames": [
            ("0", "short-context0"),
            ("2", "short-context2"),
            (str(context), base),
            ("5, true masks", "short-truemasks"),
        ],
        "weight of the logits' KL, full": [
            (f"{kd:g}", f"full-{main}-kd{kd:g}"),
            (f"{usual.kd:g}", f"full-{main}-both"),
        ],
        "memory, plain student, full": [(label, family.format("plain")) for label, family in memory.items()],
        "memory, distilled student, full": [(label, family.format("both")) for label, family in memory.items()],
        **larger,
    }
