"""Follow the objects of a first mask through a video: an overlay video and palette PNGs.

Examples:
  python -m jobs.segment --sample
  python -m jobs.segment clip.mp4 --first-mask mask.png --out overlay.mp4
  python -m jobs.segment frames/ --first-mask mask.png --model champion --size-px 480 --out overlay.mp4
  python -m jobs.segment clip.mp4 --first-mask mask.png --add 40:second.png --model runs/student --out overlay.mp4
  ffmpeg -i /dev/video0 -f rawvideo -pix_fmt rgb24 - | python -m jobs.segment - --pipe-size 640x480 --first-mask mask.png
"""

import sys

from vos.config import SegmentConfig
from vos.config.command_line import run_job


def segment(config: SegmentConfig) -> None:
    from pipelines.delivery.segment import raise_if_incomplete, segment_video, summary

    result = segment_video(config)
    print(summary(result))
    raise_if_incomplete(result)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and (argv[0] == "-" or not argv[0].startswith("-")):
        argv = [f"--video={argv[0]}", *argv[1:]]
    return run_job(SegmentConfig, __doc__ or "", segment, argv)


if __name__ == "__main__":
    sys.exit(main())
