"""Segment a split, write palette PNGs, score J&F and measure FPS; or score two folders of masks.

Examples:
  python -m jobs.evaluate --preset smoke --checkpoint runs/student --out runs/evaluation
  python -m jobs.evaluate --checkpoint models:/mobilevos-tiny/3 --register --data.root DAVIS --out runs/evaluation
  python -m jobs.evaluate --gt DAVIS/Annotations/480p --pred runs/evaluation/masks --sequences val.txt --csv scores.csv
"""

import sys

from vos.config import EvaluateConfig
from vos.config.command_line import run_job


def evaluate(config: EvaluateConfig) -> None:
    from pipelines.evaluation.evaluate import evaluate_model
    from pipelines.evaluation.tables import score_table, sequence_table
    from pipelines.evaluation.two_folders import score_two_folders

    if config.gt:
        scores, path = score_two_folders(config)
        print(score_table(scores))
        print(f"table  {path}")
        return
    result = evaluate_model(config)
    print(sequence_table(result))
    print(f"masks  {result.masks}\nrun    {result.run_id}")
    if result.version:
        print(f"model  {result.version}")


def main(argv: list[str] | None = None) -> int:
    return run_job(EvaluateConfig, __doc__ or "", evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
