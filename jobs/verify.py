"""Check the models, losses, sampling and scores against the published ones: one line per check, exit code 1 if one fails.

Examples:
  python -m jobs.verify
  python -m jobs.verify --golden golden --weights mobilenet_v2.safetensors --data.root DAVIS --strict
"""

import sys

from vos.config import VerifyConfig
from vos.config.command_line import run_job


def verify(config: VerifyConfig) -> None:
    from pipelines.studies import verification

    if not verification.verify(config, tell=print):
        raise SystemExit(1)


def main(argv: list[str] | None = None) -> int:
    return run_job(VerifyConfig, __doc__ or "", verify, argv)


if __name__ == "__main__":
    sys.exit(main())
