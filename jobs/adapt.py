"""Adapt a student to videos with one mask each: label them with a teacher, cache its outputs, train, and score before and after.

Examples:
  python -m jobs.adapt --data.root FOLDER --out runs/adapted            # FOLDER/frames/VIDEO/*.jpg, FOLDER/masks/VIDEO/00000.png
  python -m jobs.adapt --sample --out runs/adapted-sample               # the video that comes with the package
  python -m jobs.adapt --data.synthetic-videos 5 --seeds 3 --out runs/adapted-synthetic
"""

import sys

from vos.config import AdaptConfig
from vos.config.command_line import run_job


def run(config: AdaptConfig) -> None:
    from pipelines.adaptation.adapt import adapt
    from pipelines.adaptation.tables import summary

    print(summary(config, adapt(config)))


def main(argv: list[str] | None = None) -> int:
    return run_job(AdaptConfig, __doc__ or "", run, argv)


if __name__ == "__main__":
    sys.exit(main())
