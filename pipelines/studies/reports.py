"""The protocols of `jobs.report`, by the value of --protocol."""

from __future__ import annotations

from pipelines.studies.davis.validation import VALIDATION
from pipelines.studies.unseen.folds import FOLDS

PROTOCOLS = {"folds": FOLDS, "validation": VALIDATION}
