"""Read every frame and mask once and list every fault that would stop a later job; exit code 2 if there is one.

Examples:
  python -m jobs.check --data.root DAVIS
  python -m jobs.check --data.root YouTube-VOS --data.kind youtubevos --workers 8
  python -m jobs.check --data.root DAVIS --split val --out runs/check-val       # the sequences that are segmented
  python -m jobs.check --data.root DAVIS --again                                # read again what was checked before
"""

import sys

from vos.config import CheckConfig
from vos.config.command_line import run_job


def check(config: CheckConfig) -> None:
    from pipelines.runtime.data_check import check_data, summary

    result = check_data(config)
    print(summary(result))
    if result.faults:
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    return run_job(CheckConfig, __doc__ or "", check, argv)


if __name__ == "__main__":
    sys.exit(main())
