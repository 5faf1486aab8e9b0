"""A data set, a loss, a backbone, a teacher and a job are added by two files at most, as CONTRIBUTING.md says: done here to a copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Edit:
    """A new file (no `before`), or a piece of text put before one that is there."""

    path: str
    text: str
    before: str = ""


ADDITIONS = {
    "data set": (
        Edit(
            "vos/data/datasets.py",
            'def _index_flat(root, split, tell):\n    yield from _index_folder(root, "", tell)\n\n\n',
            "_MARKS = {",
        ),
        Edit("vos/data/datasets.py", '    "flat": _index_flat,\n', '    "synthetic": lambda root'),
        Edit("vos/config/sources.py", '"flat", ', '"synthetic", "stills"'),
    ),
    "loss": (
        Edit(
            "vos/distillation/losses.py",
            "def _area(seen):\n    return (seen.prob[:, 1:].mean() - (seen.labels > 0).float().mean()).abs()\n\n\n",
            "TERMS: dict",
        ),
        Edit("vos/distillation/losses.py", '    "area": Term(_area),\n', '    "kd": Term('),
        Edit("vos/config/train.py", "    area: float = 0.0\n", "    jaccard: float = 0.0"),
    ),
    "backbone": (
        Edit(
            "vos/models/plain.py",
            "from torch import nn\n\nfrom vos.models.trunk import Trunk, TrunkFeatures\n\n\n"
            "class PlainTrunk(Trunk):\n"
            "    def __init__(self, in_channels=3):\n"
            "        super().__init__()\n"
            "        self.f4 = nn.Conv2d(in_channels, 8, 4, 4)\n"
            "        self.f8, self.f16 = nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)\n"
            "        self.channels = (8, 8, 8)\n\n"
            "    def early(self):\n        return [self.f4]\n\n"
            "    def forward(self, x):\n"
            "        f4 = self.f4(x)\n        f8 = self.f8(f4)\n        return TrunkFeatures(self.f16(f8), f8, f4)\n",
        ),
        Edit("vos/models/backbones.py", "from vos.models.plain import PlainTrunk\n", "from vos.models.resnet"),
        Edit("vos/models/backbones.py", '    "plain": PlainTrunk,\n', '    "tiny": tiny'),
    ),
    "teacher": (
        Edit(
            "vos/models/wide.py",
            "from vos.models.mobilevos import Design, DESIGNS, MobileVOS\n\n\n"
            "class Wide(MobileVOS):\n"
            "    def __init__(self):\n"
            '        DESIGNS.setdefault("teacher-wide", Design("small", 96, value_width=128))\n'
            '        super().__init__("teacher-wide")\n',
        ),
        Edit("vos/models/__init__.py", "from vos.models.wide import Wide\n", "from vos.models.stcn import STCN"),
        Edit("vos/models/__init__.py", '"teacher-wide": Wide, ', "**{name: partial(MobileVOS"),
    ),
    "job": (
        Edit(
            "vos/config/count.py",
            "from dataclasses import dataclass\n\nfrom vos.config.base import JobConfig\n\n\n"
            "@dataclass(frozen=True, kw_only=True)\nclass CountConfig(JobConfig):\n    upto: int = 3\n",
        ),
        Edit(
            "jobs/count.py",
            "import sys\n\nfrom vos.config.command_line import run_job\nfrom vos.config.count import CountConfig\n\n\n"
            "def main(argv=None):\n    return run_job(CountConfig, 'Count.', lambda config: print('counted', config.upto), argv)\n\n\n"
            "if __name__ == '__main__':\n    sys.exit(main())\n",
        ),
    ),
}
TRY = """
import json, sys, torch
from dataclasses import replace
from jobs.count import main as count
from vos.config import DataConfig, LossConfig, TrainConfig
from vos.data.datasets import load_index
from vos.distillation.clip_forward import ClipSegmenter
from vos.distillation.objective import objective
from vos.distillation.schedule import *
from vos.models import build, names
from vos.models.backbones import BACKBONES
from vos.models.checkpoint import load_checkpoint, save_checkpoint

root, folder = sys.argv[1:]
torch.set_num_threads(1)
found = {"data set": [video.name for video in load_index(DataConfig(root=root, kind="flat").root, "flat", "train")]}
model = build("mobilevos-tiny").eval()
frames, labels = torch.rand(1, 2, 3, 64, 64), torch.zeros(1, 2, 64, 64, dtype=torch.long)
labels[:, :, 16:40, 16:40] = 1
output = ClipSegmenter(model)(frames, labels[:, 0], torch.tensor([1]), 1)
terms = objective(output, labels, torch.tensor([1]), None, LossConfig(area=2.0), 0, 10)[1]
without = objective(output, labels, torch.tensor([1]), None, LossConfig(), 0, 10)[1]
found["loss"] = [abs(float(terms["total"] - without["total"] - 2 * terms["area"])) < 1e-5, "area" in without]
found["backbone"] = [list(one.shape) for one in BACKBONES["plain"](3)(frames[0, :1])]
save_checkpoint(folder, build("teacher-wide"), {"role": "teacher"})
teacher, about = load_checkpoint(folder)
found["teacher"] = ["teacher-wide" in names(), about["model"], teacher.value_dim]
found["job"] = [count(["--upto", "7"]), count(["--preset", "smoke"])]
print(json.dumps(found))
"""


def applied(tree: Path, edits: tuple[Edit, ...]) -> None:
    for edit in edits:
        path = tree / edit.path
        text = path.read_text() if edit.before else ""
        assert not edit.before or text.count(edit.before) == 1, f"{edit.path}: {edit.before!r}"
        path.write_text(text.replace(edit.before, edit.text + edit.before) if edit.before else edit.text)


@pytest.mark.parametrize("what", ADDITIONS)
def test_an_addition_touches_two_files_at_most(what: str):
    assert len({edit.path for edit in ADDITIONS[what]}) <= 2


def test_what_was_added_works(tmp_path: Path):
    tree, root = tmp_path / "tree", tmp_path / "data"
    for package in ("jobs", "vos"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for edits in ADDITIONS.values():
        applied(tree, edits)
    for name in ("00000", "00001"):
        (root / "frames/cat").mkdir(parents=True, exist_ok=True)
        write(root / f"frames/cat/{name}.png", (32, 32, 3))
    (root / "masks/cat").mkdir(parents=True)
    write(root / "masks/cat/00000.png", (32, 32))
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", TRY, str(root), str(tmp_path / "teacher")]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "counted 7" in done.stdout and "--preset smoke: unknown; use one of paper" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "data set": ["cat"],
        "loss": [True, False],
        "backbone": [[1, 8, 4, 4], [1, 8, 8, 8], [1, 8, 16, 16]],
        "teacher": [True, "teacher-wide", 128],
        "job": [0, 2],
    }


def write(path: Path, shape: tuple[int, ...]) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.zeros(shape, np.uint8)
    pixels[8:20, 8:20] = 1
    Image.fromarray(pixels).save(path)
