"""What is particular to the formats of image files: opening them within limits of pixels, memory
and time, and two mishaps that viewers forgive.

A compressed file of one megabyte may hold 178 million pixels, or thousands of scans.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

# Formats that are tried, whatever the name of the file. Pillow's other formats stay disabled (EPS
# would start a program).
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
# Larger images are refused as decompression bombs, pixels. It is twice the level at which Pillow
# warns, and the level at which Pillow itself refuses.
MAX_PIXELS = 178_956_970
# Images that take more memory while they are decoded are refused, bytes.
MAX_MEMORY = 800 << 20
# A JPEG is refused if its scans visit more pixels in all, because each of them takes time. Ten
# scans are usual.
MAX_SCANNED_PIXELS = 2_000_000_000

# Bytes of a pixel in those modes of Pillow that do not take four.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Bytes of a pixel that a decoder takes in addition: WebP for three frames, BMP for its run lengths.
_DECODER_BYTES = {"WEBP": 12, "BMP": 2}
# Bytes of a coefficient of a JPEG; all coefficients are kept if there are several scans.
_COEFFICIENT_BYTES = 2
_COEFFICIENTS = 64
# TIFF's compression that is none.
_UNCOMPRESSED = 1
_START_OF_JPEG, _START_OF_SCAN, _END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
# Compressed bits that would change any picture that they are part of, also after a restart marker.
_BITS = hashlib.shake_128(b"filler").digest(512).replace(b"\xff", b"\x7f")
_FILLER = _BITS + b"".join(bytes((0xFF, marker)) + _BITS for marker in range(0xD0, 0xD8))
_START_OF_PNG = b"\x89PNG\r\n\x1a\n"
_COMPRESSED_TEXTS = frozenset({b"zTXt", b"iTXt", b"iCCP"})
# Longest text or colour profile of a PNG that is read, and longest of all together, bytes. Pillow
# would refuse the image because of longer ones.
_PNG_TEXT_BYTES, _PNG_TEXTS_BYTES = 1 << 20, 16 << 20

# Errors that Pillow's parsers raise on damaged files, and those of its conversions.
PARSING_ERRORS = (
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


def open_image(data: bytes) -> ImageFile:
    """Read the header of an image.

    Raises:
        UnidentifiedImageError: it is not an image of :data:`FORMATS`.
        Exception: one of :data:`PARSING_ERRORS`: it is damaged, or above :data:`MAX_PIXELS`.
    """
    image = Image.open(io.BytesIO(_without_long_texts(data)), formats=FORMATS)
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"image of {width}×{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"image of {width}×{height} pixels, expected at most {MAX_PIXELS}")
    return image


def require_memory(
    image: ImageFile, data: bytes, full_size: tuple[int, int], *, reduced: bool
) -> int:
    """Bytes of memory that decoding takes at most, approximately.

    Args:
        image: the opened image, which has the size at which it will be decoded.
        data: the file.
        full_size: full width and height.
        reduced: whether the decoded image is resized afterwards.

    Raises:
        ValueError: they are more than :data:`MAX_MEMORY`, or a JPEG's scans visit more than
            :data:`MAX_SCANNED_PIXELS`.
    """
    each = _MODE_BYTES.get(image.mode, 4) + _DECODER_BYTES.get(image.format or "", 0)
    each += _conversion_bytes(image) if reduced else 3
    memory = len(data) + image.width * image.height * each
    if image.format == "TIFF":
        memory += _strip_bytes(image)
    if isinstance(image, JpegImageFile):
        memory += _scan_bytes(image, data, full_size)
    if memory > MAX_MEMORY:
        width, height = full_size
        raise ValueError(
            f"image of {width}×{height} pixels takes {memory / 1e9:.2f} GB of memory, expected at"
            f" most {MAX_MEMORY / 1e9:.2f} GB"
        )
    return memory


def completed_jpeg(data: bytes, decode: Callable[[bytes], Any]) -> bytes | None:
    """A JPEG that lacks only its end mark, with one; ``None`` if more is missing.

    Its picture is complete if nothing that could follow would change it: all scans are there, and
    compressed bits added at the end change no pixel.

    Args:
        data: a file that could not be decoded.
        decode: decodes a file at its full size, to an array.
    """
    if not data.startswith(_START_OF_JPEG) or data.endswith(_END_OF_JPEG):
        return None
    # Half of the end mark may be there.
    bare = data.removesuffix(_END_OF_JPEG[:1])
    ends = [bare + _END_OF_JPEG, bare + _FILLER + _END_OF_JPEG]
    try:
        with open_image(ends[0]) as image:
            if not isinstance(image, JpegImageFile) or not _has_all_scans(image, bare):
                return None
        pictures = {hashlib.sha256(decode(end)).digest() for end in ends}
    except PARSING_ERRORS:
        return None
    return ends[0] if len(pictures) == 1 else None


def _conversion_bytes(image: ImageFile) -> int:
    """Bytes of a pixel that it takes to prepare an image for resizing."""
    if has_deep_values(image):
        return 1
    transparent = image.has_transparency_data
    ready = image.mode in (("LA", "RGBA") if transparent else ("L", "RGB"))
    # Transparency is multiplied into the colours before they are averaged.
    return 4 * (not ready) + 4 * transparent


def has_deep_values(image: Image.Image) -> bool:
    """Whether the values of an image are not bytes: integers of 16 or 32 bits, or floats."""
    return image.mode in ("F", "I") or image.mode.startswith("I;16")


def _strip_bytes(image: ImageFile) -> int:
    """Bytes of a strip or tile of a TIFF file, which is decompressed as a whole, and of a copy
    turned upright."""
    tags: Any = getattr(image, "tag_v2", {})
    copied = 0
    if tags.get(ExifTags.Base.Orientation, 1) != 1:
        copied = image.width * image.height * _MODE_BYTES.get(image.mode, 4)
    if tags.get(ExifTags.Base.Compression, _UNCOMPRESSED) == _UNCOMPRESSED:
        return copied
    width = tags.get(ExifTags.Base.TileWidth, image.width)
    rows = min(tags.get(ExifTags.Base.RowsPerStrip, image.height), image.height)
    rows = tags.get(ExifTags.Base.TileLength, rows)
    bits = tags.get(ExifTags.Base.BitsPerSample, (8,))
    return copied + int(width) * int(rows) * max(int(sum(bits)) // 8, 4)


def _scan_bytes(image: JpegImageFile, data: bytes, size: tuple[int, int]) -> int:
    """Bytes of the coefficients of a JPEG with several scans."""
    scans = 1 + data.count(_START_OF_SCAN, _first_scan(image))
    if scans * size[0] * size[1] > MAX_SCANNED_PIXELS:
        raise ValueError(
            f"{scans} scans of {size[0]}×{size[1]} pixels, expected at most {MAX_SCANNED_PIXELS}"
            " pixels in all scans"
        )
    if scans == 1:
        return 0
    samplings = [(across, down) for _, across, down, _ in image.layer]
    most = max(across for across, _ in samplings) * max(down for _, down in samplings)
    kept = sum(across * down for across, down in samplings) / max(most, 1)
    return int(size[0] * size[1] * kept * _COEFFICIENT_BYTES)


def _first_scan(image: JpegImageFile) -> int:
    """Position after the header of the first scan, up to which Pillow reads on opening."""
    return 0 if image.fp is None else image.fp.tell()


def _has_all_scans(image: JpegImageFile, data: bytes) -> bool:
    """Whether the scans of a JPEG hold all coefficients of all components to their last bit."""
    missing = {layer[0]: set(range(_COEFFICIENTS)) for layer in image.layer}
    at = data.rfind(_START_OF_SCAN, 0, _first_scan(image))
    while at >= 0:
        # Marker, length, number of components; two bytes for each; first and last coefficient,
        # and bit positions.
        count = data[at + 4] if at + 4 < len(data) else 0
        header = data[at + 5 : at + 8 + 2 * count]
        if len(header) == 2 * count + 3 and header[-1] & 0x0F == 0:
            for component in header[: 2 * count : 2]:
                missing.get(component, set()).difference_update(range(header[-3], header[-2] + 1))
        at = data.find(_START_OF_SCAN, at + 2)
    return not any(missing.values())


def _without_long_texts(data: bytes) -> bytes:
    """The file without texts that are too long, if it is a PNG."""
    if not data.startswith(_START_OF_PNG):
        return data
    kept = [_START_OF_PNG]
    total = 0
    at = len(_START_OF_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        length = _text_length(data[at + 4 : at + 8], data[at + 8 : end - 4])
        if max(length, total + length - (_PNG_TEXTS_BYTES - _PNG_TEXT_BYTES)) <= _PNG_TEXT_BYTES:
            kept.append(data[at:end])
            total += length
        at = end
    return b"".join(kept)


def _text_length(kind: bytes, content: bytes) -> int:
    """Bytes of the text in a chunk of a PNG, at most one more than are read."""
    if kind == b"tEXt":
        return len(content)
    if kind not in _COMPRESSED_TEXTS:
        return 0
    # A name ends with a zero. In an iTXt, a flag says whether the text is compressed, and a
    # language and another name precede it.
    _, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] == b"\0":
            return len(content)
        rest = rest[1:2] + rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(zlib.decompressobj().decompress(rest[1:], _PNG_TEXT_BYTES + 1))
    except zlib.error:
        return 0
