"""Search w, temperature, sampling density and more; every trial is a training from one cache.

Examples:
  python -m jobs.tune --preset smoke --cache runs/cache --out runs/tune
  python -m jobs.tune --preset demo --cache runs/cache --trials 16 --concurrent 2 --out runs/tune
  python -m jobs.tune --preset demo --cache runs/cache --out runs/tune --resume --repeat 3      # resume; three more seeds for the best
  python -m jobs.tune --preset demo --cache runs/cache --out runs/tune-lr --space.lr 3e-4 3e-3  # one more dimension
"""

import sys

from vos.config import TuneConfig
from vos.config.command_line import run_job


def tune(config: TuneConfig) -> None:
    from pipelines.search.search import next_commands, search
    from pipelines.search.tables import repeat_table, trial_table

    result = search(config)
    print(trial_table(result.trials, config))
    if result.repeats:
        print(repeat_table(result.repeats, list(config.space.ranges())))
    print(f"page   {result.page}")
    print(f"best   {result.best_config}")
    print("next  ", "\n       ".join(next_commands(result.best_config)))


def main(argv: list[str] | None = None) -> int:
    return run_job(TuneConfig, __doc__ or "", tune, argv)


if __name__ == "__main__":
    sys.exit(main())
