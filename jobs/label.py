"""Let a teacher follow the given masks through whole videos, forwards and backwards, and keep the masks that can be trusted.

Examples:
  python -m jobs.label --data.root FOLDER --out runs/labels
  python -m jobs.label --data.root FOLDER --scales 1 1.25 --flip --workers 2 --out runs/labels
  python -m jobs.label --data.root FOLDER --out runs/labels --plan              # forecast of time and size
  python -m jobs.label --out runs/labels --verify                               # every byte of every file
  python -m jobs.label --out runs/labels --show 4                               # pictures of four videos
"""

import sys

from vos.config import LabelConfig
from vos.config.command_line import run_job


def label(config: LabelConfig) -> None:
    from pipelines.labelling.build import build_labels
    from pipelines.labelling.forecast import plan_labels, summary
    from pipelines.labelling.pictures import show_labels
    from pipelines.labelling.verify import verify_labels

    if config.plan:
        print(plan_labels(config))
    elif config.verify:
        print(verify_labels(config))
    elif config.show:
        print("\n".join(f"picture  {path}" for path in show_labels(config)))
    else:
        print(summary(config, build_labels(config)))


def main(argv: list[str] | None = None) -> int:
    return run_job(LabelConfig, __doc__ or "", label, argv)


if __name__ == "__main__":
    sys.exit(main())
