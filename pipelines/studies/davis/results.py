"""The records of the protocol under a preset."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.studies.davis.plan import study
from pipelines.studies.protocols.families import Families
from pipelines.studies.protocols.records import Record


class Results(Families):
    """The records of a preset by family, with the study that planned them."""

    def __init__(self, name: str, records: Mapping[str, Record]) -> None:
        super().__init__(records)
        self.study = study(name)
