"""Distil a student from a teacher cache, or train a teacher from the videos, on 1 to N workers.

Examples:
  python -m jobs.train --preset smoke --cache runs/cache --out runs/student
  python -m jobs.train --preset demo --role teacher --model teacher-small --data.root DAVIS --out runs/teacher --workers 2
"""

import sys

from vos.config import TrainConfig
from vos.config.command_line import run_job


def train(config: TrainConfig) -> None:
    from pipelines.training import launch

    result = launch.train(config)
    print(f"checkpoint  {result.checkpoint}")
    print(f"registered  {result.version}  (MLflow run {result.run_id})")
    print(f"next        {launch.next_command(result)}")


def main(argv: list[str] | None = None) -> int:
    return run_job(TrainConfig, __doc__ or "", train, argv)


if __name__ == "__main__":
    sys.exit(main())
