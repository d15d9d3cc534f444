"""Decoding of image files: any file becomes upright RGB pixels, or one error with a short reason.

Value domain: ``uint8`` sRGB-like values as stored (colour profiles are not applied), rows × columns
× RGB, upright.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from delfjax.errors import DelfjaxError
from delfjax.ops.half_pixel import to_resized_px

# Formats that are tried, whatever the name of the file. Pillow's other formats stay disabled (EPS
# would start a program).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
# Larger images are refused as decompression bombs, pixels. It is twice the level at which Pillow
# warns, and the level at which Pillow itself refuses.
MAX_PIXELS = 178_956_970
# Larger files are refused, bytes: a file is read into memory once, to be both hashed and decoded.
MAX_BYTES = 1 << 30
# Larger images are decoded one at a time, pixels, so that threads do not multiply their memory.
_LARGE_PIXELS = 32_000_000
_ONE_LARGE_IMAGE = threading.Lock()
# A JPEG is decoded at a fraction of its size, and other images are first reduced by whole factors.
# At least this multiple of the requested size is left for the antialiased resize.
_REDUCING_GAP = 2.0
_DIGEST_BYTES = 16

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

# Errors that Pillow's parsers raise on damaged files, and those of its conversions.
_PARSING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_CONVERSION_ERRORS = (OSError, ValueError, MemoryError)
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


@dataclass(frozen=True)
class _Source:
    """A loaded image as stored, before it is turned upright.

    Attributes:
        image: the decoded image, possibly already reduced by the decoder.
        size: full width and height.
        box: the part of ``image`` that the full image covers; ``None`` for all of it.
        orientation: EXIF orientation.
    """

    image: ImageFile
    size: tuple[int, int]
    box: tuple[float, float, float, float] | None
    orientation: int


def decode_image(path: str | Path, *, max_side: int) -> DecodedImage:
    """Read an image file, reducing it if its longer side is above ``max_side``.

    * EXIF orientation is applied; an animation is read as its first frame.
    * Transparency is composited on white, as a viewer on a white page shows it.
    * 16-bit values keep their high byte. Values without a declared range (32-bit integers beyond 16
      bits, floats beyond 0 … 1) are stretched from their minimum … maximum to 0 … 255.
    * An image is never enlarged. A reduced side is ``max(1, round(side · max_side / longer
      side))``; the filter is Pillow's antialiased bilinear, after a coarser reduction (JPEG: inside
      the decoder) to no less than twice the final size.

    Args:
        path: the file; its format is identified by its content, not by its name.
        max_side: longest side of the result, pixels.

    Raises:
        ImageError: the file cannot be read, is not an image of :data:`FORMATS`, is damaged, or is
            above :data:`MAX_PIXELS` or :data:`MAX_BYTES`.
    """
    data = _read(Path(path))
    digest = _digest(data)
    with identifying(digest):
        pixels, original_size = _decode(path, data, max_side)
    return DecodedImage(pixels, original_size, digest)


def _decode(
    path: str | Path, data: bytes, max_side: int
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """Pixels of an image, and its original size."""
    _mute_pillow()
    try:
        image = _open(data)
    except UnidentifiedImageError:
        raise ImageError(
            path, f"not an image ({', '.join(FORMATS)}), or damaged at its start"
        ) from None
    except _PARSING_ERRORS as error:
        raise ImageError(path, _one_line(error)) from None
    large = image.width * image.height > _LARGE_PIXELS
    with image, _ONE_LARGE_IMAGE if large else nullcontext():
        try:
            source = _load(image, max_side)
        except _PARSING_ERRORS as error:
            raise ImageError(path, _one_line(error)) from None
        try:
            pixels = _upright_rgb(source, max_side)
        except _CONVERSION_ERRORS as error:
            raise ImageError(path, _one_line(error)) from None
    width, height = source.size
    sideways = source.orientation in _SIDEWAYS
    return pixels, (width, height) if sideways else (height, width)


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


def _open(data: bytes) -> ImageFile:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"image of {width}×{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"image of {width}×{height} pixels, expected at most {MAX_PIXELS}")
    return image


def _load(image: ImageFile, max_side: int) -> _Source:
    size = image.size
    target = reduced_size(size, max_side)
    drafted = None
    if target != size:
        drafted = image.draft(
            None, (int(target[0] * _REDUCING_GAP), int(target[1] * _REDUCING_GAP))
        )
    image.load()
    if drafted is None:
        # The size is taken after loading, because loading a TIFF file turns it upright.
        return _Source(image, image.size, None, _orientation(image))
    # The full image covers the last row and column of a drafted one only in part; the box is its
    # exact extent.
    x0, y0, x1, y1 = drafted[1]
    return _Source(image, size, (float(x0), float(y0), float(x1), float(y1)), _orientation(image))


def _upright_rgb(source: _Source, max_side: int) -> UInt8[np.ndarray, "h w 3"]:
    image = _continuous(source.image)
    size = reduced_size(source.size, max_side)
    if size != image.size:
        image = image.resize(
            size, Image.Resampling.BILINEAR, box=source.box, reducing_gap=_REDUCING_GAP
        )
    image = _on_white(image)
    if source.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[source.orientation])
    return np.array(image, np.uint8)


def _orientation(image: Image.Image) -> int:
    # Read after loading: a PNG may carry it after the pixels, and loading turns TIFF files upright.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _PARSING_ERRORS:
        # Damaged metadata does not make the image unusable; viewers, too, show it as stored.
        return 1


def _continuous(image: Image.Image) -> Image.Image:
    """The image in a mode whose values can be averaged: L or RGB, with transparency LA or RGBA."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, top = (known.min(), known.max()) if known.size else (0, 0)
    sixteen_bits = values.dtype.kind != "f" and low >= 0 and top <= 65535
    if sixteen_bits:
        return np.asarray(values >> 8, np.uint8)
    if low >= 0 and top <= 1:
        low, top = 0, 1
    # In float64: the full span of 32-bit integers does not fit 32 bits, and the span of float32
    # values may overflow float32.
    span = max(float(top) - float(low), 1e-12)
    shares = (np.nan_to_num(values, nan=low, posinf=top, neginf=low) - float(low)) / span
    return np.asarray(shares * 255.999, np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
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
    text = " ".join(str(error).split())[:160]
    return f"cannot be decoded: {text or type(error).__name__}"
