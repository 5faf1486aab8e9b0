"""Run the whole pipeline once: adapt the built-in student to new videos from a cache of its teacher, and compare it before and after.

Examples:
  python -m jobs.demo
  DAVIS_ROOT=path/to/DAVIS python -m jobs.demo --out runs/demo-davis
"""

import sys

from vos.config import DemoConfig
from vos.config.command_line import run_job


def demo(config: DemoConfig) -> None:
    from pipelines.studies.demo import run_demo

    print(run_demo(config))


def main(argv: list[str] | None = None) -> int:
    return run_job(DemoConfig, __doc__ or "", demo, argv)


if __name__ == "__main__":
    sys.exit(main())
