"""The fingerprint of videos: a digest of all their bytes. Unchanged files are recognised by size, times and inode and not read again.

Names and sizes are not enough: other masks may have equal sizes. Contents are read once. A small file per video in the user's private
cache folder then records which files (size, times of change, inode) had which digest. If a file changed so recently that a second change
could have the same time, it is read again, as git does.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from vos.data.mixtures import Mixture
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.json_files import checked, read_json_file
from vos.files.whole import code_cache, open_regular, write_atomic

FORM = "c1-"
"""Prefix of a fingerprint of contents. Older fingerprints have no prefix and cover names and sizes only."""
RACY_S = 2.0
"""A file system may store times in whole seconds."""
CHUNK_BYTES = 1 << 20


class Known(TypedDict):
    """The cache entry of a video: state of its files when they were read, digest of their contents, and a digest of both."""

    files: str
    content: str
    check: str


def fingerprint(videos: Sequence[Video], on_read: Callable[[int, int], None] | None = None) -> str:
    """Return `c1-` and 64 hex digits of names, sizes, meaning and contents of all frames and masks, without absolute paths.

    For a mixture, the names and weights of its sources too.

    on_read  called with (videos read, videos to read) while contents are read
    Raises InputError if a file is missing.
    """
    kept = code_cache("contents") if any(video.files() for video in videos) else ""
    contents: dict[int, str] = {}
    unknown: list[tuple[int, str]] = []
    for number, video in enumerate(videos):
        state = state_of(video)
        if (found := _recalled(video, state, kept)) is not None:
            contents[number] = found
        else:
            unknown.append((number, state))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        read = pool.map(lambda item: _read(videos[item[0]], item[1], kept), unknown)
        for done, ((number, _), content) in enumerate(zip(unknown, read, strict=True), 1):
            contents[number] = content
            if on_read is not None:
                on_read(done, len(unknown))
    digest = hashlib.sha256()
    if isinstance(videos, Mixture):
        parts = [(source.name, source.weight, len(source.videos)) for source in videos.sources]
        digest.update(f"{json.dumps(parts)}\n".encode())
    for number, video in enumerate(videos):
        digest.update(f"{video.signature()} {contents[number]}\n".encode())
    return FORM + digest.hexdigest()


def index_fingerprint(videos: Sequence[Video]) -> str:
    """Return 64 hex digits of names, sizes and meaning only: the fingerprint of caches and records older than `fingerprint`."""
    digest = hashlib.sha256()
    for video in videos:
        digest.update(video.signature().encode() + b"\n")
    return digest.hexdigest()


def same_videos(videos: Sequence[Video], known: str) -> bool:
    """Return whether these are the videos of a fingerprint: by contents, or for an old fingerprint by names and sizes."""
    return known == (fingerprint(videos) if known.startswith(FORM) else index_fingerprint(videos))


def state_of(video: Video) -> str:
    """Return a digest of path, size, times and inode of a video's files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in video.files():
        try:
            found = os.stat(path)
        except OSError as error:
            raise InputError(
                f"{path}: {(error.strerror or 'unreadable').lower()}; restore it, or index again"
            ) from None
        place = f"{path} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}\n"
        digest.update(place.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read(video: Video, state: str, kept: str) -> str:
    """Return the digest of a video's contents, and store it unless a file may have changed meanwhile."""
    began, newest = time.time(), 0.0
    digest = hashlib.blake2b(digest_size=32)
    for path in video.files():
        one = hashlib.blake2b(digest_size=32)
        with open_regular(path, "restore it, or index again") as file:
            found = os.fstat(file.fileno())
            newest = max(newest, found.st_mtime, found.st_ctime)
            while chunk := file.read(CHUNK_BYTES):
                one.update(chunk)
        digest.update(one.digest())
    content = digest.hexdigest()
    if video.files() and newest < began - RACY_S and state_of(video) == state:
        known = Known(files=state, content=content, check=_check(state, content))
        write_atomic(_place(video, kept), json.dumps(known).encode(), sync=False)
    return content


def _recalled(video: Video, state: str, kept: str) -> str | None:
    """Return the cached digest of a video's contents; None if the cache has no entry for these files in this state."""
    if not video.files():
        return hashlib.blake2b(digest_size=32).hexdigest()
    try:
        known = checked(read_json_file(_place(video, kept), ""), Known, "", "")
    except InputError:
        return None
    intact = known["check"] == _check(known["files"], known["content"])
    return known["content"] if intact and known["files"] == state else None


def _check(files: str, content: str) -> str:
    return hashlib.blake2b(f"{files} {content}".encode(), digest_size=16).hexdigest()


def _place(video: Video, kept: str) -> str:
    name = hashlib.blake2b(video.files()[0].encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return os.path.join(kept, f"{name}.json")
