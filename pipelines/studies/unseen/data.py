"""The videos of a run on this machine: folds, nested sets of labelled videos as lists of names, mixtures, and data for a quick check.

OUT/lists/labelled-8.txt, others-8.txt   names of the training videos outside the judging fold
OUT-data/davis, OUT-data/stills          synthetic video and images of it, where no real video is named
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.studies.protocols.planned import Planned, Videos
from pipelines.studies.protocols.protocol import Place, Records
from pipelines.studies.unseen.recipes import recipe_of
from vos.config import DataConfig, EvaluateConfig, JobConfig, LabelConfig, ReportConfig
from vos.config.sources import Kind
from vos.data.datasets import detect_kind
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError
from vos.files.whole import write_atomic
from vos.files.written import Written
from vos.media import images

SUBSET_SEED = 1
SYNTHETIC_STILLS = 8


def real_video(preset: str) -> bool:
    return recipe_of(preset).real_video


def prepare(config: ReportConfig, missing: list[Planned]) -> ReportConfig:
    """Return the configuration with a data set and stills; synthetic ones are written where the preset allows it.

    Raises InputError where the missing runs need real video or stills and none are named.
    """
    if config.data.root:
        stills = any(one.videos and one.videos.stills for one in missing)
        if stills and not os.path.isdir(config.stills):
            raise InputError(
                f"--stills {config.stills or '(none)'}: no such folder; name images with masks (docs/data.md, kind stills), or choose "
                "runs without them by --only before"
            )
        return config
    if real_video(config.preset):
        raise InputError(
            f"--preset {config.preset}: real video is needed; give --data.root (or DAVIS_ROOT) and --stills"
        )
    root = f"{config.out}-data"
    davis = _written_davis(os.path.join(root, "davis"), config.data)
    stills = config.stills or _written_stills(os.path.join(root, "stills"), config.data)
    return replace(config, data=DataConfig(root=davis, kind="davis2017"), stills=stills)


def fingerprints(config: ReportConfig, records: Records) -> dict[str, str]:
    """Return the fingerprints of the training videos, the validation sequences and the stills, as far as they are named."""
    whole = DataConfig(root=config.data.root, kind=_kind(config))
    found = {split: data_fingerprint(index_videos(whole, split)) for split in ("train", "val")}
    if config.stills:
        found["stills"] = data_fingerprint(index_videos(DataConfig(root=config.stills, kind="stills"), "train"))
    return found


def with_videos(config: ReportConfig, planned: Planned, job: JobConfig, place: Place) -> JobConfig:
    """Return a configuration of a run with its videos; lists of names are written into --out."""
    videos = planned.videos
    assert videos is not None, "every run of this protocol says which videos it takes"
    whole = DataConfig(root=config.data.root, kind=_kind(config), fold=videos.fold, fold_videos=videos.fold_videos)
    if isinstance(job, EvaluateConfig):
        return replace(job, data=whole)
    if isinstance(job, LabelConfig):
        return replace(job, data=replace(whole, fold=0), split=_list(config, whole, videos))
    chosen = f"@{_list(config, whole, videos)}" if videos.labelled else ""
    parts = {f"{whole.kind}{chosen}={whole.root}": videos.davis} if videos.davis else {}
    parts |= {f"stills={config.stills}": videos.stills} if videos.stills else {}
    parts |= {f"labels={place(videos.labels)}": videos.unlabelled} if videos.labels else {}
    if set(parts) == {f"{whole.kind}={whole.root}"}:
        return replace(job, data=whole)
    sources = tuple(f"{source}:{weight:g}" for source, weight in parts.items())
    return replace(job, data=replace(whole, root="", kind="auto", sources=sources))


def nested(names: Sequence[str], count: int) -> list[str]:
    """Return the first `count` names of a fixed random order, sorted: a smaller set is a part of every larger one.

    Raises InputError where there are fewer names.
    """
    if count > len(names):
        raise InputError(
            f"--data.root: {count} videos to learn from are needed, there are {len(names)}; name the whole data set"
        )
    order = np.random.default_rng(SUBSET_SEED).permutation(len(names))
    return sorted(sorted(names)[i] for i in order[:count])


def _list(config: ReportConfig, whole: DataConfig, videos: Videos) -> str:
    """Write the names of the labelled videos, or of the others; returns the path."""
    path = os.path.join(config.out, "lists", f"{'others' if videos.others else 'labelled'}-{videos.labelled}.txt")
    if "=" in path:
        raise InputError(
            f"--out {config.out}: holds '=', which separates a source from its folder; choose another folder"
        )
    names = [video.name for video in index_videos(whole, "train")]
    labelled = nested(names, videos.labelled)
    taken = [name for name in sorted(names) if name not in labelled] if videos.others else labelled
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_atomic(path, "".join(f"{name}\n" for name in taken).encode())
    return path


def _kind(config: ReportConfig) -> Kind:
    return cast(Kind, detect_kind(config.data.root)) if config.data.kind == "auto" else config.data.kind


def _written_davis(root: str, data: DataConfig) -> str:
    if not os.path.exists(os.path.join(root, "ImageSets", "2017", "val.txt")):
        for split in ("train", "val"):  # the file of the last split is written last
            write_davis(index_videos(data, split), root, split)  # type: ignore[arg-type]
    return root


def _written_stills(root: str, data: DataConfig) -> str:
    """Write first frames of further synthetic videos as still images."""
    if not os.path.exists(os.path.join(root, "list.txt")):
        folder, height = Written(root, "synthetic"), data.synthetic_height_px
        shown = synthetic_index(
            SYNTHETIC_STILLS, 1, (height, height * 3 // 2), seed=data.synthetic_seed, split="stills"
        )
        for video in shown:
            name = f"JPEGImages/{video.name}.jpg"
            folder.write(name, images.frame_file(name, video.frame(0)), sync=False)
            folder.write(f"Annotations/{video.name}.png", images.mask_png(video.mask(0)), sync=False)
        folder.write("list.txt", "".join(f"{video.name}\n" for video in shown).encode())
    return root
