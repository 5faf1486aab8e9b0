"""Run the teacher once over the clip draws and keep what it says, for every student, trial and epoch.

Examples:
  python -m jobs.cache --preset smoke --out runs/cache
  python -m jobs.cache --preset demo --data.root DAVIS --teacher.checkpoint runs/teacher --draws 2000 --workers 2
"""

import sys

from vos.command_line import run_job
from vos.config import CacheConfig


def cache(config: CacheConfig) -> None:
    from pipelines.teacher_cache import build_cache

    result = build_cache(config)
    manifest = result.manifest
    size = f"{manifest['draws']} draws in {len(manifest['shards'])} shards, {manifest['bytes'] / 2**20:.1f} MiB"
    print(f"cache  {config.out}  ({size})")
    print(f"next   python -m jobs.train --preset {config.preset} --cache {config.out} --out runs/student")


def main(argv: list[str] | None = None) -> int:
    return run_job(CacheConfig, __doc__ or "", cache, argv)


if __name__ == "__main__":
    sys.exit(main())
