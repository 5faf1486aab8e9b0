"""Segment a split, write palette PNGs, score J&F and measure FPS.

Examples:
  python -m jobs.evaluate --checkpoint runs/student --data.root DAVIS --out runs/evaluation
  python -m jobs.evaluate --checkpoint models:/mobilevos-tiny/3 --register --data.root DAVIS --out runs/evaluation
"""

import sys

from vos.config import EvaluateConfig
from vos.config.command_line import run_job


def evaluate(config: EvaluateConfig) -> None:
    from pipelines.evaluation.evaluate import evaluate_model
    from pipelines.evaluation.tables import sequence_table

    result = evaluate_model(config)
    print(sequence_table(result))
    print(f"masks  {result.masks}\nrun    {result.run_id}")
    if result.version:
        print(f"model  {result.version}")


def main(argv: list[str] | None = None) -> int:
    return run_job(EvaluateConfig, __doc__ or "", evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
