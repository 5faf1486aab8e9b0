"""Measure speed and size against named baselines, interleaved in one run, as medians.

Examples:
  python -m jobs.benchmark cache                                           # the paper's sizes, some ten minutes on 2 cores
  python -m jobs.benchmark train                                           # trainings and a search, some forty minutes
  python -m jobs.benchmark data                                            # the fingerprint of 20,000 files, a minute
  python -m jobs.benchmark mixture --data.sources davis2016=DAVIS:0.5 stills=STILLS:0.5   # a step of a mixture, minutes
  python -m jobs.benchmark start --rounds 5                                # from return to the first mask, minutes
  python -m jobs.benchmark fps --data.root DAVIS                           # every network's speed and memory, a quarter of an hour
"""

import sys

from vos.config import BenchmarkConfig, FpsBenchmarkConfig
from vos.config.command_line import run_job


def benchmark(config: BenchmarkConfig) -> None:
    from pipelines.studies.benchmarks.benchmark import measure

    print(measure(config))


def benchmark_fps(config: FpsBenchmarkConfig) -> None:
    from pipelines.studies.benchmarks.fps import measure_fps

    print(measure_fps(config))


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "fps":
        return run_job(FpsBenchmarkConfig, __doc__ or "", benchmark_fps, argv[1:])
    if argv and not argv[0].startswith("-"):
        argv = ["--what", *argv]
    return run_job(BenchmarkConfig, __doc__ or "", benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
