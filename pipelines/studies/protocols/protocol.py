"""What a protocol of jobs.report is: a plan of runs, the videos of each, and a page made from their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.records import Record
from vos.config import EvaluateConfig, JobConfig, ReportConfig

Records = Mapping[str, Record]
Place = Callable[[str], str]
"""Name of a finished run -> its folder on this machine"""


@dataclass(frozen=True)
class Protocol:
    """The parts in which the protocols differ.

    title         of its MLflow run, and the first folder of its page's metrics
    plan          every run under a preset, each after the runs that it needs. Raises InputError for a preset that the protocol lacks
    real_video    whether a preset needs real video and ImageNet weights
    prepare       returns the configuration with the data sets that the protocol makes itself. Raises InputError where one is missing
    fingerprints  {name: fingerprint} of the data sets, in the form of the existing records
    with_videos   one of a run's configurations, with the videos on this machine
    write         writes page, sheet and plots: (configuration, plan, valid records, names of records that do not count) -> paths
    card          the README.md beside shipped weights: (name, run, its evaluation, its record)
    """

    title: str
    plan: Callable[[str], list[Planned]]
    real_video: Callable[[str], bool]
    prepare: Callable[[ReportConfig, list[Planned]], ReportConfig]
    fingerprints: Callable[[ReportConfig, Records], dict[str, str]]
    with_videos: Callable[[ReportConfig, Planned, JobConfig, Place], JobConfig]
    write: Callable[[ReportConfig, list[Planned], Records, list[str]], list[str]]
    card: Callable[[str, Planned, EvaluateConfig, Record], str]
