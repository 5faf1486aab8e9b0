"""Score a folder of predicted masks against a folder of true ones, with the official evaluations' protocols.

Examples:
  python -m jobs.score --gt DAVIS/Annotations/480p --pred runs/evaluation/masks
  python -m jobs.score --gt DAVIS/Annotations/480p --pred theirs --sequences val.txt --csv scores.csv
  python -m jobs.score --gt DAVIS/Annotations/480p --pred theirs --strict --official
  python -m jobs.score --gt YTVOS/valid/Annotations --pred theirs --protocol youtubevos
"""

import sys

from vos.config import ScoreConfig
from vos.config.command_line import run_job


def score(config: ScoreConfig) -> None:
    from pipelines.evaluation.score import score_two_folders
    from pipelines.evaluation.tables import score_table

    scores, path = score_two_folders(config)
    print(score_table(scores, config.official))
    print(f"table  {path}")


def main(argv: list[str] | None = None) -> int:
    return run_job(ScoreConfig, __doc__ or "", score, argv)


if __name__ == "__main__":
    sys.exit(main())
