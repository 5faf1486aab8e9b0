"""Pictures and masks that the tests of masks and data sets draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vos.data.synthetic import synthetic_index
from vos.media.images import write_frame

SIZE = (48, 96)


def blob(y: int, x: int, radius: float) -> np.ndarray:
    """A disc, (48, 96) uint8, 0 and 255."""
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.where((rows - y) ** 2 + (columns - x) ** 2 <= radius**2, 255, 0).astype(np.uint8)


def save_png(path: Path, values: np.ndarray) -> str:
    """Write a grey PNG of uint8 values; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return str(path)


def holiday(folder: Path, count: int = 4) -> Path:
    """Write frames 000.jpg, 001.jpg, … of 48x96 pixels; returns their folder."""
    video = synthetic_index(1, count, SIZE)[0]
    for index in range(count):
        write_frame(str(folder / f"{index:03d}.jpg"), video.frame(index))
    return folder


def turned_jpeg(path: Path, orientation: int) -> None:
    """Write a picture with a dark, a red, a green and a blue corner, and an EXIF orientation."""
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:24, 48:, 0], picture[24:, :48, 1], picture[24:, 48:, 2] = 255, 255, 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95, exif=exif, subsampling=0)
