"""Segment a split, write palette PNGs, score J&F and measure FPS; or score two folders of masks.

Examples:
  python -m jobs.evaluate --preset smoke --checkpoint runs/student --out runs/evaluation
  python -m jobs.evaluate --checkpoint models:/mobilevos-tiny/3 --register --data.root DAVIS --out runs/evaluation
  python -m jobs.evaluate --gt DAVIS/Annotations/480p --pred runs/evaluation/masks --sequences val.txt --csv scores.csv
"""

import sys

from vos.command_line import run_job
from vos.config import EvaluateConfig


def evaluate(config: EvaluateConfig) -> None:
    from pipelines import evaluation, report

    if config.gt:
        scores, path = evaluation.score_two_folders(config)
        print(report.score_table(scores))
        print(f"table  {path}")
        return
    result = evaluation.evaluate(config)
    print(report.sequence_table(result))
    print(f"masks  {result.masks}\nrun    {result.run_id}")
    if result.version:
        print(f"model  {result.version}")


def main(argv: list[str] | None = None) -> int:
    return run_job(EvaluateConfig, __doc__ or "", evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
