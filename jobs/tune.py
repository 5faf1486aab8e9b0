"""Search w, temperature and sampling density; every trial is a training from the one cache.

Examples:
  python -m jobs.tune --preset smoke --cache runs/cache --out runs/tune
  python -m jobs.tune --preset demo --cache runs/cache --trials 16 --concurrent 2 --out runs/tune
"""

import sys

from vos.command_line import run_job
from vos.config import TuneConfig


def tune(config: TuneConfig) -> None:
    from pipelines import report, search

    result = search.search(config)
    print(report.trial_table(result.trials))
    print(f"best   {result.best_config}")
    print(f"next   python -m jobs.train --config {result.best_config} --out runs/best")


def main(argv: list[str] | None = None) -> int:
    return run_job(TuneConfig, __doc__ or "", tune, argv)


if __name__ == "__main__":
    sys.exit(main())
