"""Run the missing runs of a protocol, and build the tables, the plots and the page from the records of all runs.

Examples:
  DAVIS_ROOT=path/to/DAVIS python -m jobs.report --stills STILLS      # everything, two runs at a time; run it again to resume
  python -m jobs.report --list                                        # every run, its state and its expected CPU minutes
  python -m jobs.report --only teacher-2 plain-2 --workers 1          # some runs, and the runs that they need
  python -m jobs.report --protocol validation --page                  # rebuild a page from the committed records alone
  python -m jobs.report --preset smoke                                # a quick check of everything on synthetic video
"""

import sys

from vos.config import ReportConfig
from vos.config.command_line import run_job


def report(config: ReportConfig) -> None:
    from pipelines.studies.protocols import study
    from pipelines.studies.protocols.ship import ship
    from pipelines.studies.reports import PROTOCOLS

    protocol = PROTOCOLS[config.protocol]
    if config.list:
        print(study.listed(protocol, config))
    elif config.page:
        print(study.publish(protocol, config))
    elif config.ship:
        print(ship(protocol, config))
    elif config.run:
        print(study.run_one(protocol, config))
    elif not study.run(protocol, config, tell=print):
        raise SystemExit(1)


def main(argv: list[str] | None = None) -> int:
    return run_job(ReportConfig, __doc__ or "", report, argv)


if __name__ == "__main__":
    sys.exit(main())
