"""The protocol of docs/results.md, whose settings were chosen on the validation sequences."""

from __future__ import annotations

from dataclasses import replace

from pipelines.runtime.videos import data_fingerprint, index_videos
from pipelines.studies.davis import page
from pipelines.studies.davis.card import card
from pipelines.studies.davis.plan import SCALES, plan
from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.protocol import Place, Protocol, Records
from vos.config import JobConfig, ReportConfig
from vos.data.contents import FORM, index_fingerprint
from vos.errors import InputError


def real_video(preset: str) -> bool:
    return SCALES[preset].pretrained


def prepare(config: ReportConfig, missing: list[Planned]) -> ReportConfig:
    """Return the configuration as it is. Raises InputError where real video is needed and none is named."""
    if real_video(config.preset) and not config.data.root:
        raise InputError(f"--preset {config.preset}: real video is needed; give --data.root (or DAVIS_ROOT)")
    return config


def fingerprints(config: ReportConfig, records: Records) -> dict[str, str]:
    """Return the fingerprints of the videos in the form of the existing records: of contents, or, for older ones, of names and sizes."""
    older = any(not record["data"]["train"].startswith(FORM) for record in records.values())
    form = index_fingerprint if older else data_fingerprint
    return {split: form(index_videos(config.data, split)) for split in ("train", "val")}


def with_videos(config: ReportConfig, planned: Planned, job: JobConfig, place: Place) -> JobConfig:
    return replace(job, data=config.data)


VALIDATION = Protocol("results", plan, real_video, prepare, fingerprints, with_videos, page.write, card)
