"""Video files in every container that is read, and raw pipes."""

from __future__ import annotations

import hashlib
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.random import Generator

from tests.fuzz.byte_mutations import CUTS, any_bytes, in_one_file, pick
from tests.fuzz.cases import Files, Mutation, NotTellableError, Reader
from vos.data.synthetic import synthetic_index
from vos.media.video_files import open_video, read_pipe

SIZE = (48, 64)
NUM_FRAMES = 8
CONTAINERS = {"mp4": "libx264", "mov": "mpeg4", "mkv": "libx264", "avi": "mpeg4", "webm": "libvpx"}
PIPE = (6, 8)


def encoded(path: Path, codec: str) -> bytes:
    frames = synthetic_index(1, NUM_FRAMES, SIZE)[0]
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.options = {"g": "4"}
        for index in range(NUM_FRAMES):
            picture = av.VideoFrame.from_ndarray(frames.frame(index), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path.read_bytes()


def video_samples(folder: Path) -> dict[str, Files]:
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Files] = {}
    for ending, codec in CONTAINERS.items():
        found[ending] = {f"a.{ending}": encoded(folder / f"a.{ending}", codec)}
    return found


def read_video(folder: Path) -> dict[str, Any]:
    """All frames: how many, of which size, and a digest. What cannot be verified is said by the reader itself."""
    path = next(
        (str(folder / name) for name in sorted(p.name for p in folder.iterdir()) if name.startswith("a.")),
        str(folder / "a.mp4"),
    )
    video = open_video(path)
    digest, count = hashlib.sha256(), 0
    for frame in video.frames:
        if frame.shape != (*video.size, 3) or frame.dtype != np.uint8:
            raise AssertionError(f"a frame of {frame.shape} in a video of {video.size}")
        digest.update(frame.tobytes())
        count += 1
        if count > 5000:
            raise AssertionError("more than 5000 frames of a video of 8")
    said = bool(getattr(video, "unverified_end", ""))
    return {"size": list(video.size), "frames": count, "digest": digest.hexdigest(), "whole": not said}


def video_by_others(folder: Path) -> dict[str, Any]:
    """No checksum anywhere: content cannot be told. A video that lost its end or shows another file can."""
    names = sorted(path.name for path in folder.iterdir())
    if any(name.startswith("secret") for name in names):
        raise ValueError("the file names another one")
    data = Path(folder / names[0]).read_bytes()
    if len(data) < 100:
        raise ValueError("too short for any video")
    raise NotTellableError


def _references() -> dict[str, tuple[str, Files]]:
    """Files that have ffmpeg open other files: nothing beside the named file may be shown."""
    texts = {
        "concat script": "ffconcat version 1.0\nfile secret.mp4\n",
        "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        '<Representation id="1" mimeType="video/mp4"><BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "subtitles": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
        "metadata": ";FFMETADATA1\ntitle=x\n",
        "text video": "hello world\n" * 1000,
        "image sequence": "%05d.png",
        "y4m of 60000 squared": "YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420\nFRAME\n",
        "webvtt playlist": "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    }
    return {
        f"{why} as {ending}": ("mp4", {f"a.{ending}": text.encode()})
        for why, text in texts.items()
        for ending in ("mp4", "m3u8", "txt", "avi")
    }


def known_videos(samples: dict[str, Files]) -> dict[str, tuple[str, Files]]:
    secret = samples["mp4"]["a.mp4"]
    found: dict[str, tuple[str, Files]] = {}
    for why, (sample, files) in _references().items():
        found[why] = sample, {**files, "secret.mp4": secret}
    for ending in CONTAINERS:
        data = samples[ending][f"a.{ending}"]
        assert isinstance(data, bytes)
        for share in (0.5, 0.8, 0.95, 0.99):
            found[f"{ending} cut at {share}"] = ending, {f"a.{ending}": data[: int(share * len(data))]}
        other = samples["mkv" if ending != "mkv" else "avi"]
        found[f"other container as {ending}"] = ending, {f"a.{ending}": next(iter(other.values()))}
    return found


def cut_video(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """An end is lost. What is then accepted is wrong unless every frame is there, or the reader says that it cannot tell."""
    changes = sorted(CUTS)
    mutated = in_one_file(CUTS[changes[int(rng.integers(len(changes)))]])(rng, files, corpus)
    return mutated | {"cut": b""}


def boxes(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """The length or name of an MP4's box, or the fields behind a known one."""
    name = pick(rng, files)
    data = files[name]
    if not isinstance(data, bytes):
        return files
    marks = [
        b"moov",
        b"mdat",
        b"trak",
        b"mvhd",
        b"tkhd",
        b"elst",
        b"mdhd",
        b"stsd",
        b"stts",
        b"stsc",
        b"stsz",
        b"stco",
        b"avcC",
        b"ftyp",
    ]
    marks += [
        b"RIFF",
        b"LIST",
        b"idx1",
        b"strh",
        b"strf",
        b"avih",
        b"movi",
        b"00dc",
        b"\x1a\x45\xdf\xa3",
        b"\x18\x53\x80\x67",
    ]
    marks += [b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\x15\x49\xa9\x66", b"\xb0", b"\xba", b"\xa3"]
    present = [mark for mark in marks if mark in data]
    if not present:
        return files
    mark = present[int(rng.integers(len(present)))]
    at = data.index(mark) + int(
        rng.choice([-4, len(mark), len(mark) + 4, len(mark) + 8, len(mark) + 16, len(mark) + int(rng.integers(40))])
    )
    at = max(0, at)
    number = int(rng.choice([0, 1, 7, 8, 255, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1]))
    return files | {name: data[:at] + number.to_bytes(4, "big" if rng.random() < 0.7 else "little") + data[at + 4 :]}


def pipe_samples(folder: Path) -> dict[str, Files]:
    rng = np.random.default_rng(0)
    return {
        f"{count} frames": {"raw": rng.bytes(count * PIPE[0] * PIPE[1] * 3), "size.json": json.dumps(PIPE).encode()}
        for count in (1, 3)
    }


def _pipe(folder: Path) -> tuple[bytes, tuple[int, int]]:
    height, width = json.loads((folder / "size.json").read_bytes())
    return (folder / "raw").read_bytes(), (height, width)


def read_raw(folder: Path) -> Any:
    data, size = _pipe(folder)
    return np.stack(list(read_pipe(io.BytesIO(data), size).frames))


def raw_by_others(folder: Path) -> np.ndarray:
    data, size = _pipe(folder)
    return np.frombuffer(data, np.uint8).reshape(-1, *size, 3)


def other_size(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """What --pipe-size takes: positive numbers."""
    sides = [int(rng.choice([1, 2, 3, 5, 6, 8, 16, 4096, 65_535])) for _ in range(2)]
    return files | {"size.json": json.dumps(sides).encode()}


VIDEO: dict[str, Mutation] = {**any_bytes(), "cut video": cut_video, "boxes": boxes, "boxes 2": boxes, "boxes 3": boxes}
PIPES: dict[str, Mutation] = {
    **{
        name: change
        for name, change in any_bytes(lambda name: name == "raw").items()
        if name not in ("special file", "splice", "exchange", "other kind")
    },
    "other size": other_size,
}
READERS = [
    Reader("video", video_samples, read_video, video_by_others, VIDEO, 2.5, known_videos),
    Reader("pipe", pipe_samples, read_raw, raw_by_others, PIPES, 1),
]
