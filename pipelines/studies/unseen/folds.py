"""The protocol folds, for `jobs.report`: choices on folds of the training videos, docs/unseen.md."""

from __future__ import annotations

from pipelines.studies.protocols.protocol import Protocol
from pipelines.studies.unseen import page
from pipelines.studies.unseen.card import card
from pipelines.studies.unseen.data import fingerprints, prepare, real_video, with_videos
from pipelines.studies.unseen.plan import plan

FOLDS = Protocol("unseen", plan, real_video, prepare, fingerprints, with_videos, page.write, card)
