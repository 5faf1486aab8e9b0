"""The clips of a cache with its teacher at work at every step: what the cache saves, and what replaying it must be equal to.

The draws and their order are the cache's; its targets are not read. What the teacher says is kept in full: every column of the factor in
float32, so that a student of these targets also tells what rank and rounding cost.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.cache import schema
from pipelines.cache.read import Batch, CachedClips, collate, targets_of
from pipelines.cache.verify import made_by, teacher_of
from vos.config import CacheConfig, DataConfig, FactorConfig, TeacherConfig


class OnlineClips(CachedClips):
    """Raises InputError where CachedClips does, and when the teacher is no longer where the cache says."""

    def __init__(self, folder: str, data: DataConfig, threads: int = 1) -> None:
        super().__init__(folder, data, with_targets=False)
        asked = CacheConfig(out=folder, data=data, teacher=TeacherConfig())
        config, videos = made_by(asked, self.manifest)
        exact = replace(config, factor=FactorConfig(rank=0, dtype="fp32"), logits="fp16", threads=threads)
        self._teacher = teacher_of(exact, videos, self.manifest, "put that one back, or leave --teacher-online out")

    @property
    def teacher_forwards(self) -> int:
        return self._teacher.forwards

    def batch(self, numbers: list[int]) -> Batch:
        works = [self._teacher.work(number) for number in numbers]
        rows = [self._teacher.row(work) for work in works]
        targets = targets_of(rows, self.clip.crop_px // schema.GRID_STRIDE)
        return collate(numbers, [work.clip for work in works], [row["num_objects"] for row in rows], targets)
