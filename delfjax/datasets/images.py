"""Decoding of image files: any file becomes upright RGB pixels, or one error with a short reason.

Value domain: ``uint8`` sRGB-like values as stored (colour profiles are not applied), rows × columns
× RGB, upright.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from delfjax.datasets.image_formats import (
    FORMATS,
    PARSING_ERRORS,
    completed_jpeg,
    has_deep_values,
    open_image,
    require_memory,
)
from delfjax.errors import DelfjaxError, quoted
from delfjax.ops.half_pixel import to_resized_px

# Larger files are refused, bytes: a file is read into memory once, to be both hashed and decoded.
MAX_BYTES = 1 << 29
# Images that take more memory are decoded one at a time, bytes, so that threads do not multiply it.
_LARGE = 200 << 20
_ONE_LARGE_IMAGE = threading.Lock()
# Pixels that are converted at a time, so that intermediate values take little memory.
_BAND_PIXELS = 1_000_000
# Longer than any image that can be decoded: nothing is reduced.
_NO_REDUCTION = 1 << 30
# A JPEG is decoded at a fraction of its size, and other images are first reduced by whole factors.
# At least this multiple of the requested size is left for the antialiased resize.
_REDUCING_GAP = 2.0
_DIGEST_BYTES = 16

# EXIF orientation → the pixels of an upright image in the order in which they are stored, a view.
_AS_STORED: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.swapaxes(np.rot90(upright, 2), 0, 1),
    8: lambda upright: np.rot90(upright, 3),
}
_SIDEWAYS = (5, 6, 7, 8)
_PILLOW_MODULES = r"PIL\."
_FILTERS_LOCK = threading.Lock()


class ImageError(DelfjaxError):
    """A file that cannot be used as an image.

    Attributes:
        reason: why, without the path, so the same file gives the same words in any folder.
        content_hash: digest of the file's bytes; empty if they could not be read.
    """

    def __init__(self, path: Path | str, reason: str, content_hash: str = "") -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason
        self.content_hash = content_hash


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image, reduced if it was larger than requested.

    Attributes:
        pixels: RGB values.
        original_size: rows and columns of the upright image in the file, before any reduction.
        content_hash: digest of the file's bytes.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    original_size: tuple[int, int]
    content_hash: str

    def shown_yx(self, points_yx: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Points of the original image, in pixels, as points of ``pixels``."""
        factors = np.array(self.pixels.shape[:2]) / np.array(self.original_size)
        return np.asarray(to_resized_px(points_yx, factors), np.float32)


def decode_image(path: str | Path, *, max_side: int) -> DecodedImage:
    """Read an image file, reducing it if its longer side is above ``max_side``.

    * EXIF orientation is applied; an animation is read as its first frame.
    * Transparency is composited on white, as a viewer on a white page shows it.
    * 16-bit values keep their high byte. Values without a declared range (32-bit integers beyond 16
      bits, floats beyond 0 … 1) are stretched from their minimum … maximum to 0 … 255.
    * A JPEG without its end mark is read if its picture is complete. Any other image that was cut
      short is an error.
    * An image is never enlarged. A reduced side is ``max(1, round(side · max_side / longer
      side))``; the filter is Pillow's antialiased bilinear, after a coarser reduction (JPEG: inside
      the decoder) to no less than twice the final size.

    Args:
        path: the file; its format is identified by its content, not by its name.
        max_side: longest side of the result, pixels.

    Raises:
        ImageError: the file cannot be read, is not an image of
            :data:`~delfjax.datasets.image_formats.FORMATS`, is damaged, or is too large:
            :data:`MAX_BYTES`, and the limits of :mod:`~delfjax.datasets.image_formats`.
    """
    data = _read(Path(path))
    digest = _digest(data)
    _mute_pillow()
    with identifying(digest):
        try:
            pixels, size = _decode_whole(data, max_side)
        except UnidentifiedImageError:
            raise ImageError(
                path, f"not an image ({', '.join(FORMATS)}), or damaged at its start"
            ) from None
        except PARSING_ERRORS as error:
            raise ImageError(path, _one_line(error)) from None
    return DecodedImage(pixels, size, digest)


@contextmanager
def identifying(content_hash: str) -> Iterator[None]:
    """Let an :class:`ImageError` in the block tell which bytes could not be used."""
    try:
        yield
    except ImageError as error:
        error.content_hash = content_hash
        raise


def central_square(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """The central square of an image, as large as its shorter side."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def resized(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image resized to ``size`` (rows, columns) by Pillow's antialiased bilinear filter."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def hash_file(path: Path) -> str:
    """Digest of a file's bytes, the same as the ``content_hash`` of the image decoded from it."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)
        ).hexdigest()


def file_digest(path: Path) -> str:
    """Digest of a file's bytes; empty if :func:`decode_image` could not read them."""
    try:
        _require_readable(path)
        return hash_file(path)
    except (OSError, ImageError):
        return ""


def reduced_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Both sides scaled by one factor so that the longer is at most ``max_side``, pixels.

    Sides are never enlarged, and never reduced below one pixel.
    """
    ratio = max_side / max(size)
    if ratio >= 1:
        return size
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _read(path: Path) -> bytes:
    try:
        _require_readable(path)
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror or error}") from None
    if not data:
        raise ImageError(path, "empty file (0 bytes)", _digest(data))
    return data


def _require_readable(path: Path) -> None:
    status = os.stat(path)
    # Opening a pipe or a device could block for ever.
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not a regular file")
    if status.st_size > MAX_BYTES:
        raise ImageError(path, f"file of {status.st_size} bytes, expected at most {MAX_BYTES}")


def _decode_whole(data: bytes, max_side: int) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """What :func:`_decode` returns, of a JPEG without its end mark too."""
    try:
        return _decode(data, max_side)
    except PARSING_ERRORS:
        completed = completed_jpeg(data, lambda whole: _decode(whole, _NO_REDUCTION)[0])
        if completed is None:
            raise
    return _decode(completed, max_side)


def _decode(data: bytes, max_side: int) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """Pixels of an upright image, and rows and columns of the whole image in the file."""
    with open_image(data) as image:
        size = image.size
        target = reduced_size(size, max_side)
        drafted = None
        if target != size:
            asked = int(target[0] * _REDUCING_GAP), int(target[1] * _REDUCING_GAP)
            drafted = image.draft(None, asked)
        memory = require_memory(image, data, size, reduced=target != image.size)
        with _ONE_LARGE_IMAGE if memory > _LARGE else nullcontext():
            image.load()
            box = None
            if drafted is None:
                # Loading a TIFF file turns it upright.
                size = image.size
            else:
                # The full image covers the last row and column of a drafted one only in part; the
                # box is its exact extent.
                x0, y0, x1, y1 = drafted[1]
                box = (float(x0), float(y0), float(x1), float(y1))
            reduced = _reduced(image, reduced_size(size, max_side), box)
            orientation = _orientation(image)
            pixels = _upright_rgb(reduced, orientation)
    width, height = size
    return pixels, (width, height) if orientation in _SIDEWAYS else (height, width)


def _reduced(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> Image.Image:
    """The image resized to a width and height; ``box`` is the part that the result shows."""
    if has_deep_values(image):
        image = _eight_bits(image)
    if size == image.size:
        return image
    return _continuous(image).resize(
        size, Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP
    )


def _upright_rgb(image: Image.Image, orientation: int) -> UInt8[np.ndarray, "h w 3"]:
    width, height = image.size
    shape = (width, height) if orientation in _SIDEWAYS else (height, width)
    pixels = np.empty((*shape, 3), np.uint8)
    stored = _AS_STORED.get(orientation, np.asarray)(pixels)
    for top, band in _bands(image):
        stored[top : top + band.height] = np.asarray(_on_white(_continuous(band)))
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The first row of each horizontal band of an image, and the band."""
    rows = max(_BAND_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _orientation(image: Image.Image) -> int:
    # Read after loading: a PNG may carry it after the pixels, and loading turns TIFF files upright.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except PARSING_ERRORS:
        # Damaged metadata does not make the image unusable; viewers, too, show it as stored.
        return 1


def _continuous(image: Image.Image) -> Image.Image:
    """The image in a mode whose values can be averaged: L or RGB, with transparency LA or RGBA."""
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of integers of 16 or 32 bits, or of floats, in mode L."""
    extremes = [_extremes(np.asarray(band)) for _, band in _bands(image)]
    low, top = min(low for low, _ in extremes), max(top for _, top in extremes)
    made = Image.new("L", image.size)
    for row, band in _bands(image):
        made.paste(Image.fromarray(_scaled(np.asarray(band), low, top)), (0, row))
    return made


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Least and greatest finite value."""
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(known.min()), float(known.max())) if known.size else (math.inf, -math.inf)


def _scaled(values: np.ndarray, low: float, top: float) -> UInt8[np.ndarray, "h w"]:
    """Values as bytes; ``low`` and ``top`` are the extremes of the whole image."""
    if values.dtype.kind != "f" and low >= 0 and top <= 65535:
        return np.asarray(values >> 8, np.uint8)
    if (low >= 0 and top <= 1) or low > top:
        low, top = 0.0, 1.0
    # In float64: the full span of 32-bit integers does not fit 32 bits, and the span of float32
    # values may overflow float32.
    span = max(top - low, 1e-12)
    shares = (np.nan_to_num(values, nan=low, posinf=top, neginf=low) - low) / span
    return np.asarray(shares * 255.999, np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _mute_pillow() -> None:
    # Pillow warns of damaged metadata and of large images, which this module handles itself. The
    # filter is process-wide because `warnings.catch_warnings` is not thread-safe; it covers only
    # warnings raised inside Pillow.
    with _FILTERS_LOCK:
        first = warnings.filters[0] if warnings.filters else None
        if (
            first is None
            or first[0] != "ignore"
            or getattr(first[3], "pattern", None) != _PILLOW_MODULES
        ):
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _one_line(error: BaseException) -> str:
    return f"cannot be decoded: {quoted(error) or type(error).__name__}"
