"""Every reader, by name; its samples, made once for a run; and how many inputs each gets."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import (
    read_addresses,
    read_cache,
    read_configs,
    read_datasets,
    read_flags,
    read_images,
    read_records,
    read_spool,
    read_videos,
    read_weights,
)
from tests.fuzz.cases import Files, Reader, lay


def _all() -> list[Reader]:
    modules = (
        *(read_images, read_datasets, read_videos, read_cache, read_weights),
        *(read_configs, read_flags, read_records, read_spool, read_addresses),
    )
    return [reader for module in modules for reader in module.READERS]


READERS = {reader.name: reader for reader in _all()}


def make_samples(root: Path, names: list[str]) -> None:
    """Lay the samples of these readers below a folder, for every process of the run."""
    done: dict[object, str] = {}
    for name in names:
        make = READERS[name].samples
        before = done.setdefault(make, name)
        folder = root / "samples" / name
        if before != name:  # readers of the same files share them
            folder.symlink_to(root / "samples" / before)
            continue
        for sample, files in make(root / "made" / name).items():
            (folder / sample).mkdir(parents=True)
            lay(folder / sample, files)


def load_samples(root: Path, name: str) -> dict[str, Files]:
    """What `make_samples` has laid."""
    found: dict[str, Files] = {}
    for folder in sorted((root / "samples" / name).iterdir()):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        found[folder.name] = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return found


def numbers_of(names: list[str], inputs: int) -> dict[str, int]:
    """How many inputs each reader gets: by its share, one at least."""
    whole = sum(READERS[name].share for name in names)
    counts = {name: max(1, int(inputs * READERS[name].share / whole)) for name in names}
    counts[names[0]] += max(0, inputs - sum(counts.values()))
    return counts
