"""Verify finished labels: the list, every receipt, and every byte of every mask and confidence map."""

from __future__ import annotations

from pipelines.labelling.build import check_files
from pipelines.runtime.progress import progress_bar
from vos.config import LabelConfig
from vos.data.labels import LIST, labelled_video, read_labels, read_receipt
from vos.errors import InputError


def verify_labels(config: LabelConfig) -> str:
    """Check the labels in --out; returns the report, one finding a line.

    Raises InputError, naming every damaged video, where a check fails, and when the labels are absent or unfinished.
    """
    labels = read_labels(config.out)
    problems: list[str] = []
    kept = frames = 0
    with progress_bar("verify", len(labels["videos"]), "video") as bar:
        for listed in labels["videos"]:
            try:
                receipt = read_receipt(config.out, labels, listed)
                check_files(config.out, receipt)
                labelled_video(config.out, labels, listed)
                frames, kept = frames + len(receipt["frames"]), kept + listed["kept"]
            except InputError as error:
                problems.append(str(error))
            bar.update()
    intact = len(labels["videos"]) - len(problems)
    state = "FAILED" if problems else "ok    "
    lines = [
        f"ok      {LIST}: {len(labels['videos'])} videos",
        f"{state}  {intact} of {len(labels['videos'])} videos: receipts, masks, confidence, frames; {kept} of {frames} frames kept",
    ]
    text = "\n".join(lines)
    if problems:
        print("\n".join([text, *(f"FAILED  {problem}" for problem in problems)]))
        raise InputError(f"{config.out}: {len(problems)} problems: {problems[0]}")
    return text
