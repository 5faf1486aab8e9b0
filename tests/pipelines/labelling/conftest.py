"""Two small videos with one mask each, labelled once by the real job."""

from pathlib import Path

import pytest

from vos.config import BUILTIN_TEACHER, DataConfig, LabelConfig, LabelTeacherConfig
from vos.data.synthetic import synthetic_index
from vos.media.images import write_frame, write_mask

FRAMES = 7


def write_videos(root: Path, masks: range) -> str:
    """Two synthetic videos in kind `folder`, with these of their true masks."""
    for video in synthetic_index(2, FRAMES, (64, 96)):
        for index in range(FRAMES):
            write_frame(str(root / "frames" / video.name / f"{index:05d}.png"), video.frame(index))
        for index in masks:
            write_mask(str(root / "masks" / video.name / f"{index:05d}.png"), video.mask(index))
    return str(root)


def label_config(root: str, out: Path, **changes: object) -> LabelConfig:
    teacher = LabelTeacherConfig(checkpoint=BUILTIN_TEACHER)
    data = DataConfig(root=root, kind="folder")
    return LabelConfig(data=data, out=str(out), teacher=teacher, check_every=4, min_agreement=0.3, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With every true mask."""
    return write_videos(tmp_path_factory.mktemp("videos"), range(FRAMES))


@pytest.fixture(scope="session")
def labels(ray_cluster: None, videos: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Finished labels of these videos, by one worker; not to be changed."""
    from pipelines.labelling.build import build_labels

    out = tmp_path_factory.mktemp("labels") / "out"
    build_labels(label_config(videos, out))
    return str(out)
