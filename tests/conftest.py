"""Fixtures that the whole suite shares."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and data beside the project; a user's machine need not have it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: golden numbers and DAVIS data are not on this machine")
    return folder
