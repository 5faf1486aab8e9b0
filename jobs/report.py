"""Run the missing runs of the results' protocol, and build the tables, the plots and the page from the records of all runs.

Examples:
  DAVIS_ROOT=path/to/DAVIS python -m jobs.report                      # everything, two runs at a time; run it again to resume
  python -m jobs.report --list                                        # every run, its state and its expected CPU minutes
  python -m jobs.report --only full-noaspp short-both --workers 1     # some runs, and the runs that they need
  python -m jobs.report --page                                        # rebuild the page from the committed records alone
  python -m jobs.report --preset smoke                                # a quick check of everything on synthetic video
"""

import sys

from vos.config import ReportConfig
from vos.config.command_line import run_job


def report(config: ReportConfig) -> None:
    from pipelines.studies.davis import study
    from pipelines.studies.davis.ship import ship

    if config.list:
        print(study.listed(config))
    elif config.page:
        print(study.publish(config))
    elif config.ship:
        print(ship(config))
    elif config.run:
        print(study.run_one(config))
    elif not study.run(config, tell=print):
        raise SystemExit(1)


def main(argv: list[str] | None = None) -> int:
    return run_job(ReportConfig, __doc__ or "", report, argv)


if __name__ == "__main__":
    sys.exit(main())
