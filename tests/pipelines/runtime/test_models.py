"""Which network a name stands for, and at which size its engine works."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.runtime.models import find_model, load_engine
from vos.config import AS_TRAINED
from vos.errors import InputError
from vos.models import build
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import save_checkpoint


@pytest.mark.parametrize(
    ("description", "asked", "expected"),
    [({"size_px": 48}, AS_TRAINED, (48, 64)), ({}, AS_TRAINED, (96, 128)), ({"size_px": 48}, 0, (96, 128))],
)
def test_a_model_works_at_the_size_that_its_description_names_unless_another_is_asked_for(
    description: dict[str, int], asked: int, expected: tuple[int, int], tmp_path: Path
):
    save_checkpoint(str(tmp_path), build("mobilevos-tiny"), description)
    engine = load_engine(str(tmp_path), "eager", size_px=asked, threads=1)
    labels = np.zeros((96, 128), np.uint8)
    labels[30:60, 40:80] = 1
    engine.start(np.zeros((96, 128, 3), np.uint8), labels)
    assert engine.working_size == expected


def test_what_comes_with_the_project_is_known_by_its_name_and_a_wrong_name_is_told_which(tmp_path: Path):
    for name in BUILTIN:
        assert find_model(name, str(tmp_path)) == name
    with pytest.raises(InputError, match="--model nowhere: .*builtin-student"):
        find_model("nowhere", str(tmp_path))
