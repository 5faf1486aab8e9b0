"""Fast reader of mask files as label indices.

Masks are PNG files whose pixels are indices (into a palette, or plain grey). Nearly all have 8 bits, no interlacing and
no row filters, so inflating them is enough: 0.65 ms at 480p, where Pillow takes 1.1. Every other PNG is read by Pillow,
with the same result.
"""

import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from vos.errors import InputError
from vos.files.whole import read_regular
from vos.media.png import GREY, PALETTE, SIGNATURE, Parts, for_decoder, take_apart

# Pillow multiplies grey values of 2 and 4 bits by these factors; it leaves 1-bit values and palette indices unchanged.
_GREY_STEPS = {2: 85, 4: 17}
_BAND_BYTES = 100_000


def read_indices(path: str, out: np.ndarray | None = None) -> np.ndarray:
    """Return the label indices of one PNG mask, (H, W) uint8, contiguous and writable.

    Palette and grey files give their stored values (a 0/255 mask stays 0/255, a 1-bit one is 0/1, a 4-bit one 0 to 15).
    A colour file is accepted if its channels are equal: a grey mask saved as colour.

    out   an earlier result that is no longer needed; its memory is reused if the size is the same. This saves a sixth
          of the time for many files on a busy machine.

    Raises InputError, naming the file, if it is absent, not a PNG, truncated, damaged, too large, or not a mask.
    """
    data = read_regular(path, "image_bytes", "give an existing PNG file")
    if not data.startswith(SIGNATURE):
        raise InputError(f"{path}: not a PNG file; masks are palette or grey PNG files")
    parts = take_apart(data, path)
    labels = _inflate(path, parts, out)
    return _read_with_pillow(path, parts) if labels is None else labels


def _inflate(path: str, parts: Parts, out: np.ndarray | None) -> np.ndarray | None:
    """Return the (H, W) labels of the common kind of file, None for every other kind."""
    width, height, depth, colour, interlaced = parts.header
    if depth != 8 or colour not in (GREY, PALETTE) or interlaced:
        return None
    row_bytes = 1 + width  # each row begins with the number of its filter
    labels = out if out is not None and out.shape == (height, width) else np.empty((height, width), np.uint8)
    # zlib's own checksum over the pixels (a sixth of the time) also finds a changed stream whose chunk checksum was recomputed.
    # In bands, because allocating a whole picture adds a third to the time.
    inflater = zlib.decompressobj()
    # zlib copies the input that a band leaves unread, so a long file is read in few bands.
    band_rows = max(1, max(_BAND_BYTES, len(parts.pixels) // 8) // row_bytes)
    rest = parts.pixels
    for y in range(0, height, band_rows):
        band = labels[y : y + band_rows]
        try:
            raw = inflater.decompress(rest, len(band) * row_bytes)
        except zlib.error as error:
            raise InputError(f"{path}: this PNG file is damaged ({error}); write or copy it again") from None
        if len(raw) != len(band) * row_bytes:
            raise InputError(f"{path}: this PNG file is damaged (too few pixels); write or copy it again")
        rest = inflater.unconsumed_tail
        rows = np.frombuffer(raw, np.uint8).reshape(len(band), row_bytes)
        if rows[:, 0].any():
            return None
        band[:] = rows[:, 1:]
    try:
        inflater.decompress(rest, 1)  # the checksum follows the last pixel
    except zlib.error as error:
        raise InputError(f"{path}: this PNG file is damaged ({error}); write or copy it again") from None
    return labels


def _read_with_pillow(path: str, parts: Parts) -> np.ndarray:
    depth, colour = parts.header.depth, parts.header.colour
    if depth == 16 and colour != GREY:  # Pillow would drop the low byte of each value, which holds the label
        raise InputError(f"{path}: a colour picture of 16 bits; save label indices as a palette or grey PNG file")
    try:
        with Image.open(BytesIO(for_decoder(parts, path)), formats=("PNG",)) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: this PNG file is damaged ({error}); write or copy it again") from None
    if colour == GREY and depth in _GREY_STEPS:
        values = values // _GREY_STEPS[depth]
    if values.ndim == 3:
        colours = values[..., : 3 if values.shape[2] >= 3 else 1]  # a fourth or second channel is opacity
        if (colours != colours[..., :1]).any():
            raise InputError(f"{path}: a colour picture, not a mask; save label indices as a palette or grey PNG file")
        values = colours[..., 0]
    if values.size and values.max() > 255:
        raise InputError(f"{path}: holds the value {values.max()}; labels are 0 to 255")
    return np.ascontiguousarray(values, dtype=np.uint8).copy()
