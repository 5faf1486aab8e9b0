"""Format a search as text tables."""

from __future__ import annotations

from pipelines.runtime.tables import percent, table
from pipelines.search.trials import Trial, ranked, repeat_rows
from vos.config import TuneConfig


def trial_table(trials: list[Trial], config: TuneConfig) -> str:
    """Return a table of the trials with the search's own seed: finished ones first, then by J&F."""
    names = list(config.space.ranges())
    own = [trial for trial in trials if trial.seed == config.seed]
    rows = [
        [
            one.name,
            *(f"{one.parameters[name]:.3g}" for name in names),
            percent(one.score) if one.score >= 0 else "-",
            one.step,
            f"{one.seconds:.0f}",
            one.status,
        ]
        for one in ranked(own)
    ]
    found = table(["trial", *names, "J&F", "steps", "s", "status"], rows)
    return f"{found}\n{note}" if (note := cut_note(config)) else found


def cut_note(config: TuneConfig) -> str:
    """Return a note that J&F is of cut sequences, "" where they are whole."""
    return f"J&F is of the first {config.max_frames} frames of each sequence only" if config.max_frames else ""


def repeat_table(repeats: list[Trial], names: list[str]) -> str:
    """Return a table of the best parameters over several seeds, the best mean first."""
    rows = [
        [f"{place}.", *(f"{parameters[name]:.3g}" for name in names), percent(mean), percent(spread), seeds]
        for place, (parameters, mean, spread, seeds) in enumerate(repeat_rows(repeats), 1)
    ]
    return "\nwith other seeds\n" + table(["", *names, "J&F mean", "sd", "seeds"], rows)
