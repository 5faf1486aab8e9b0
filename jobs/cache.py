"""Run the teacher once over the clip draws and keep what it says, for every student, trial and epoch.

Examples:
  python -m jobs.cache --preset smoke --out runs/cache
  python -m jobs.cache --preset demo --data.root DAVIS --teacher.checkpoint runs/teacher --draws 2000 --workers 2
  python -m jobs.cache --preset demo --out runs/cache --plan                   # what it will take, before it is built
  python -m jobs.cache --preset demo --out runs/cache --draws 800 --extend     # more draws for a finished cache
  python -m jobs.cache --out runs/cache --verify                               # every byte and row; some rows recomputed
  python -m jobs.cache --out runs/cache --show 4                               # pictures of what is in it
"""

import sys

from vos.command_line import run_job
from vos.config import CacheConfig


def cache(config: CacheConfig) -> None:
    from pipelines import cache_check, cache_pictures, cache_plan
    from pipelines.teacher_cache import build_cache

    if config.plan:
        print(cache_plan.plan_cache(config)[1])
    elif config.verify:
        print(cache_check.verify_cache(config))
    elif config.show:
        print("\n".join(f"picture  {path}" for path in cache_pictures.show_cache(config)))
    else:
        result = build_cache(config)
        manifest = result.manifest
        if forecast := cache_plan.plan_and_truth(config, result):
            print(f"{forecast}\n")
        size = f"{manifest['draws']} draws in {len(manifest['shards'])} shards, {manifest['bytes'] / 2**20:.1f} MiB"
        print(f"cache  {config.out}  ({size})")
        print(f"spent  {result.teacher_cpu_s:.1f} CPU-seconds of the teacher on {result.draws_made} new draws")
        print(f"next   python -m jobs.train --preset {config.preset} --cache {config.out} --out runs/student")


def main(argv: list[str] | None = None) -> int:
    return run_job(CacheConfig, __doc__ or "", cache, argv)


if __name__ == "__main__":
    sys.exit(main())
