"""Run the teacher once over the clip draws and store its outputs, for every student, trial and epoch.

Examples:
  python -m jobs.cache --preset smoke --out runs/cache
  python -m jobs.cache --preset demo --data.root DAVIS --teacher.checkpoint runs/teacher --draws 2000 --workers 2
  python -m jobs.cache --preset demo --out runs/cache --plan                   # forecast of size and time, before it is built
  python -m jobs.cache --preset demo --out runs/cache --draws 800 --extend     # more draws for a finished cache
  python -m jobs.cache --out runs/cache --verify                               # every byte and row; some rows recomputed
  python -m jobs.cache --out runs/cache --show 4                               # pictures of its content
"""

import sys

from vos.config import CacheConfig
from vos.config.command_line import run_job


def cache(config: CacheConfig) -> None:
    from pipelines.cache.build import build_cache
    from pipelines.cache.forecast import plan_cache, summary
    from pipelines.cache.pictures import show_cache
    from pipelines.cache.verify import verify_cache

    if config.plan:
        print(plan_cache(config)[1])
    elif config.verify:
        print(verify_cache(config))
    elif config.show:
        print("\n".join(f"picture  {path}" for path in show_cache(config)))
    else:
        print(summary(config, build_cache(config)))


def main(argv: list[str] | None = None) -> int:
    return run_job(CacheConfig, __doc__ or "", cache, argv)


if __name__ == "__main__":
    sys.exit(main())
