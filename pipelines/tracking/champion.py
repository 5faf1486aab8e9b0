"""Decide which of two evaluated versions is champion.

`champion` moves only to a version that the *same* evaluation (same videos by fingerprint, same protocol) found better. Any other version
becomes `challenger`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vos.errors import InputError
from vos.files.canonical import differences
from vos.files.json_files import checked, parse_json

CHAMPION, CHALLENGER = "champion", "challenger"
SCORE = "val/j_and_f"
DATA, PROTOCOL = "evaluation.data", "evaluation.protocol"


def verdict(new: Mapping[str, str], champion: Mapping[str, str] | None, same: bool = False) -> tuple[str, str]:
    """Return (alias, reason) of an evaluated version.

    new, champion  tags of the two versions: SCORE, DATA, PROTOCOL, and `version`; champion is None where there is none. Anybody can edit
                   tags, so each may be absent or hold any text; a version that cannot be compared never becomes champion.
    same           the champion itself was evaluated again: it stays champion, and other versions are compared with its new figures
    """
    score = score_of(new)
    if score is None:
        return CHALLENGER, f"J&F {str(new.get(SCORE))[:20]} is no score: never champion"
    score_text = f"J&F {100 * score:.2f}"
    if same:
        return CHAMPION, f"{score_text}: the champion, evaluated again"
    if not score:
        return CHALLENGER, f"{score_text}: never champion"
    if champion is None:
        return CHAMPION, f"{score_text}: the first version that was evaluated"
    other, best = f"version {champion.get('version')}", score_of(champion)
    protocols = [_protocol(tags.get(PROTOCOL)) for tags in (champion, new)]
    if best is None or DATA not in champion or None in protocols:
        return CHALLENGER, f"{score_text}: {other} is champion and has no evaluation to compare with"
    if new.get(DATA) != champion[DATA]:
        return CHALLENGER, f"{score_text}, on other videos than {other}, the champion: not compared"
    if protocols[0] != protocols[1]:
        changed = "; ".join(differences(protocols[0] or {}, protocols[1] or {}))[:500]
        return CHALLENGER, f"{score_text}, by another protocol than {other}, the champion ({changed}): not compared"
    if score > best:
        return CHAMPION, f"{score_text}, better than {100 * best:.2f} of {other} on the same videos and protocol"
    return CHALLENGER, f"{score_text}, not better than {100 * best:.2f} of {other} on the same videos and protocol"


def score_of(tags: Mapping[str, str]) -> float | None:
    """Return the J&F in a version's tags, in [0, 1]; None where it is absent, NaN or no number."""
    try:
        score = float(tags[SCORE])
    except (KeyError, ValueError, TypeError):
        return None
    return score if 0 <= score <= 1 else None


def _protocol(text: str | None) -> dict[str, Any] | None:
    try:
        return checked(parse_json(text or "", PROTOCOL, ""), dict[str, Any], PROTOCOL, "")
    except InputError:
        return None
