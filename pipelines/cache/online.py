"""Clips of a cache whose targets the teacher computes at every step: the reference for the time that a cache saves and for its targets.

The draws and their order are the cache's; its targets are not read. The teacher's outputs are used in full: every column of the factor,
in float32. So a student of these targets also shows the effect of the cache's rank and rounding.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.cache import schema
from pipelines.cache.read import Batch, CachedClips, collate, targets_of
from pipelines.cache.verify import made_by, teacher_of
from vos.config import CacheConfig, DataConfig, FactorConfig, TeacherConfig


class OnlineClips(CachedClips):
    """The draws of a finished cache, with targets computed by its teacher.

    Raises InputError where CachedClips does, and where the recorded checkpoint no longer holds the teacher.
    """

    def __init__(self, folder: str, data: DataConfig, threads: int = 1) -> None:
        super().__init__(folder, data, with_targets=False)
        asked = CacheConfig(out=folder, data=data, teacher=TeacherConfig())
        config, videos = made_by(asked, self.manifest)
        exact = replace(config, factor=FactorConfig(rank=0, dtype="fp32"), logits="fp16", threads=threads)
        self._teacher = teacher_of(exact, videos, self.manifest, "restore that one, or omit --teacher-online")

    @property
    def teacher_forwards(self) -> int:
        return self._teacher.forwards

    def batch(self, numbers: list[int]) -> Batch:
        works = [self._teacher.work(number) for number in numbers]
        rows = [self._teacher.row(work) for work in works]
        targets = targets_of(rows, self.clip.crop_px // schema.GRID_STRIDE)
        return collate(numbers, [work.clip for work in works], [row["num_objects"] for row in rows], targets)
