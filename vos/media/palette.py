"""Fast reader of mask files as label indices.

Masks are PNG files whose pixels are indices (into a palette, or plain grey). Nearly all have 8 bits, no interlacing and
no row filters, so inflating them is enough: 0.65 ms at 480p, where Pillow takes 1.1. Every other PNG is read by Pillow,
with the same result.

Editors and optimisers change what a mask says without changing what it shows, so three things beside the values count:

  colours      a palette of DAVIS's colours in another order: a label is the place of its colour in DAVIS's own palette.
               Black at another index than 0, in a palette of other colours: refused
  opacity      where it varies, transparent pixels are background; an object painted in one colour has the opacity's edges
  orientation  the mask is turned as its EXIF orientation says, as frames are
"""

import zlib
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from vos.errors import InputError
from vos.files.whole import read_regular
from vos.media.exif import turned
from vos.media.png import COLOUR, GREY, PALETTE, SIGNATURE, Parts, for_decoder, take_apart

# Pillow multiplies grey values of 2 and 4 bits by these factors; it leaves 1-bit values and palette indices unchanged.
_GREY_STEPS = {2: 85, 4: 17}
_BAND_BYTES = 100_000
_ONE_COLOUR = 2
"""Editors round the colours of half transparent pixels by up to this."""
Tell = Callable[[str], None]


@lru_cache(maxsize=1)
def davis_palette() -> np.ndarray:
    """Return the DAVIS (and PASCAL VOC) palette, (256, 3) uint8 RGB; it interleaves the bits of the index."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    palette.flags.writeable = False  # one array for all callers
    return palette


def read_indices(
    path: str, out: np.ndarray | None = None, tell: Tell | None = None, as_stored: bool = False
) -> np.ndarray:
    """Return the label indices of one PNG mask, (H, W) uint8, contiguous and writable.

    Palette and grey files give their stored values (a 0/255 mask stays 0/255, a 1-bit one is 0/1, a 4-bit one 0 to 15).
    A colour file is accepted if its channels are equal: a grey mask saved as colour. See above for colours, opacity and
    orientation.

    out        an earlier result that is no longer needed; its memory is reused if the size is the same. This saves a sixth
               of the time for many files on a busy machine.
    tell       called with a note of one line, which names the file, if the labels are not the stored values
    as_stored  take palette indices as they are, whatever their colours

    Raises InputError, naming the file, if it is absent, not a PNG, truncated, damaged, too large, or not a mask.
    """
    data = read_regular(path, "image_bytes", "give an existing PNG file")
    if not data.startswith(SIGNATURE):
        raise InputError(f"{path}: not a PNG file; masks are palette or grey PNG files")
    parts = take_apart(data, path)
    labels = _inflate(path, parts, out)
    if labels is None:
        labels = _read_with_pillow(path, parts, tell)
    if parts.header.colour == PALETTE and not as_stored and not davis_palette().tobytes().startswith(parts.palette):
        labels = _by_colour(labels, parts.palette, path, tell)
    return turned(labels, parts.orientation)


def _by_colour(labels: np.ndarray, palette: bytes, path: str, tell: Tell | None) -> np.ndarray:
    """Return the labels of a mask whose palette is not DAVIS's: its indices, or the places of DAVIS's colours.

    What is returned depends on the palette alone, so masks with one palette are read alike whatever they show.
    """
    places = {colour.tobytes(): place for place, colour in enumerate(davis_palette())}
    colours = [palette[at : at + 3] for at in range(0, len(palette), 3)]
    black = bytes(3)
    while len(colours) > 1 and colours[-1] == black and black in colours[:-1]:  # filled up
        colours.pop()
    known = [places.get(colour, -1) for colour in colours]
    if min(known) >= 0 and len(set(known)) == len(known) and (0 in known or len(known) == 1):
        if known == list(range(len(known))):
            return labels
        table = np.zeros(256, np.uint8)
        table[: len(known)] = known
        if tell is not None and (table[labels] != labels).any():
            tell(f"{path}: its palette has DAVIS's colours in another order, so objects are told apart by colour")
        return table[labels]
    if colours[0] != black and black in colours:
        index = colours.index(black)
        if (labels == index).any():
            raise InputError(
                f"{path}: index {index} is black and index 0 is not, so the palette was changed on saving and the background "
                "is unclear; save the mask as a grey PNG with the values 0 (background), 1, 2, …"
            )
    return labels


def _inflate(path: str, parts: Parts, out: np.ndarray | None) -> np.ndarray | None:
    """Return the (H, W) labels of the common kind of file, None for every other kind."""
    width, height, depth, colour, interlaced = parts.header
    if depth != 8 or colour not in (GREY, PALETTE) or interlaced or (colour == GREY and parts.transparency):
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


def _read_with_pillow(path: str, parts: Parts, tell: Tell | None) -> np.ndarray:
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
    colours = values if values.ndim == 3 else values[..., None]
    opacity = None
    if colours.shape[2] in (2, 4):
        colours, opacity = colours[..., :-1], colours[..., -1]
    elif len(parts.transparency) == 2 * colours.shape[2] and colour in (GREY, COLOUR):  # one colour is transparent
        opacity = np.where((colours == np.frombuffer(parts.transparency, ">u2")).all(axis=2), 0, 255).astype(np.uint8)
    if opacity is not None and opacity.min() != opacity.max():
        colours = _shown(colours, opacity, path, tell)
    if (colours != colours[..., :1]).any():
        raise InputError(f"{path}: a colour picture, not a mask; save label indices as a palette or grey PNG file")
    values = colours[..., 0]
    if values.size and values.max() > 255:
        raise InputError(f"{path}: holds the value {values.max()}; labels are 0 to 255")
    return np.ascontiguousarray(values, dtype=np.uint8).copy()


def _shown(colours: np.ndarray, opacity: np.ndarray, path: str, tell: Tell | None) -> np.ndarray:
    """Return what a picture with transparent parts shows as a mask, (H, W, 1 or 3): there its background is 0.

    Raises InputError if colours and opacity both vary, and only one of them can be the mask.
    """
    opaque = opacity > opacity.max() // 2
    seen = colours[opaque].astype(np.int32)
    one_colour = bool((np.ptp(seen, axis=0) <= _ONE_COLOUR).all())
    hard = set(np.unique(opacity)) == {0, opacity.max()}
    grey = not (seen != seen[:, :1]).any()
    if hard and grey and seen.any():
        note, shown = "its transparent pixels are background", np.where(opaque[..., None], colours, 0)
    elif one_colour:
        note, shown = "painted in one colour, so its opacity is the mask", opacity[..., None]
    else:
        raise InputError(
            f"{path}: its colours and its opacity both vary, so the mask is unclear; flatten it onto black, or keep its opacity alone: "
            "magick IN.png -alpha extract OUT.png"
        )
    if tell is not None:
        tell(f"{path}: {note}")
    return shown
