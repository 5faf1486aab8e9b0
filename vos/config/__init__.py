"""The configuration: one frozen dataclass per job.

Torch and Ray are not imported here, so `--help` is fast. A preset (`vos/config/presets.py`) is a complete configuration and flags change
single fields (`vos/config/command_line.py`). The resolved configuration is saved as `config.json` beside every output.
"""

from vos.config.adapt import AdaptConfig
from vos.config.base import (
    AS_TRAINED,
    BUILTIN_DAVIS_TEACHER,
    BUILTIN_STUDENT,
    BUILTIN_STUDENTS,
    BUILTIN_TEACHER,
    BUILTINS,
    DataConfig,
    JobConfig,
    Preset,
)
from vos.config.benchmark import BenchmarkConfig
from vos.config.benchmark_fps import FpsBenchmarkConfig
from vos.config.cache import CacheConfig, ClipConfig, FactorConfig, TeacherConfig
from vos.config.check import CheckConfig
from vos.config.demo import DemoConfig
from vos.config.evaluate import EvaluateConfig, FpsConfig, MemoryConfig, VerifyConfig
from vos.config.export import ExportConfig
from vos.config.label import LabelConfig, LabelTeacherConfig
from vos.config.report import ReportConfig
from vos.config.score import ScoreConfig
from vos.config.segment import SegmentConfig
from vos.config.train import LossConfig, OptimiserConfig, TrainConfig, ValidationConfig
from vos.config.tune import SpaceConfig, TuneConfig

__all__ = [
    "AS_TRAINED",
    "AdaptConfig",
    "BUILTIN_DAVIS_TEACHER",
    "BUILTINS",
    "BUILTIN_STUDENT",
    "BUILTIN_STUDENTS",
    "BUILTIN_TEACHER",
    "BenchmarkConfig",
    "CacheConfig",
    "CheckConfig",
    "ClipConfig",
    "DataConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FactorConfig",
    "FpsBenchmarkConfig",
    "FpsConfig",
    "JobConfig",
    "LabelConfig",
    "LabelTeacherConfig",
    "LossConfig",
    "MemoryConfig",
    "OptimiserConfig",
    "Preset",
    "ReportConfig",
    "ScoreConfig",
    "SegmentConfig",
    "SpaceConfig",
    "TeacherConfig",
    "TrainConfig",
    "TuneConfig",
    "ValidationConfig",
    "VerifyConfig",
]
