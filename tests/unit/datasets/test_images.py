"""Decoding: every kind of image file is upright RGB, or one short reason; nothing warns."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from delfjax.datasets import image_formats, images
from delfjax.datasets.images import (
    ImageError,
    decode_image,
    file_digest,
    hash_file,
    reduced_size,
)

# Four quadrants whose values survive JPEG: their arrangement tells an orientation.
_QUADRANTS = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 20]]], np.uint8)


def _pattern(height: int = 48, width: int = 64) -> np.ndarray:
    return np.repeat(np.repeat(_QUADRANTS, height // 2, axis=0), width // 2, axis=1)


def _save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An upright scene as a camera stores it with an EXIF orientation.

    Source: EXIF 2.3, tag 0x0112.
    """
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(stored[orientation])


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif"])
def test_lossless_pixels_come_back_unchanged(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    image = decode_image(_save(tmp_path / f"a.{suffix}", pixels), max_side=64)
    assert np.array_equal(image.pixels, pixels)
    assert image.original_size == (13, 17)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = _turned(_pattern(), orientation)
    path = _save(tmp_path / f"a.{suffix}", stored, exif=_exif(orientation), quality=95)
    image = decode_image(path, max_side=64)
    assert image.original_size == (48, 64)
    assert image.pixels.shape == (48, 64, 3)
    # Away from the edges of the quadrants a lossy format stays within a few grey values.
    difference = np.abs(image.pixels[4::8, 4::8].astype(int) - _pattern()[4::8, 4::8])
    assert difference.max() <= (0 if suffix == "png" else 12)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_tiff_is_turned_once(
    tmp_path: Path, orientation: int, compression: str | None
) -> None:
    stored = _turned(_pattern(), orientation)
    path = _save(
        tmp_path / "a.tif", stored, tiffinfo={0x0112: orientation}, compression=compression
    )
    image = decode_image(path, max_side=64)
    assert image.original_size == (48, 64)
    assert np.array_equal(image.pixels, _pattern())


def test_a_turned_jpeg_that_is_reduced_keeps_the_size_of_the_upright_original(
    tmp_path: Path,
) -> None:
    path = _save(tmp_path / "a.jpg", _turned(_pattern(480, 642), 6), exif=_exif(6))
    image = decode_image(path, max_side=100)
    assert image.original_size == (480, 642)
    assert image.pixels.shape == (75, 100, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_reduced_image_is_not_shifted(tmp_path: Path, suffix: str) -> None:
    """A reduced horizontal ramp has the ramp's values at half-pixel positions, in any format."""
    width = 1003
    ramp = np.broadcast_to(np.linspace(20, 230, width)[None, :, None], (333, width, 3))
    # `quality` is JPEG's; PNG does not look at it.
    path = _save(tmp_path / f"ramp.{suffix}", np.round(ramp).astype(np.uint8), quality=98)
    image = decode_image(path, max_side=100)
    assert image.pixels.shape == (33, 100, 3)
    columns = (np.arange(100) + 0.5) * (width / 100) - 0.5
    expected = 20 + 210 * columns / (width - 1)
    # One reduced pixel is 2.1 grey values wide: within 1 means within half a pixel, rounding to
    # uint8 included. The outermost pixels are left out: the filter has support on one side only.
    assert np.abs(image.pixels[:, 2:-2, 0].mean(axis=0) - expected[2:-2]).max() < 1.0


def test_images_are_never_enlarged(tmp_path: Path) -> None:
    assert decode_image(_save(tmp_path / "a.png", _pattern()), max_side=1024).pixels.shape == (
        48,
        64,
        3,
    )


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((100, 50), 100, (100, 50)),
        ((100, 50), 60, (60, 30)),
        ((1, 5000), 1000, (1, 1000)),
        ((3, 7), 2, (1, 2)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_sides_are_reduced_by_one_factor_and_never_vanish(
    size: tuple[int, int], max_side: int, expected: tuple[int, int]
) -> None:
    assert reduced_size(size, max_side) == expected


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_thinnest_images_are_decoded(
    tmp_path: Path, height: int, width: int, suffix: str
) -> None:
    path = _save(tmp_path / f"thin.{suffix}", np.full((height, width, 3), 77, np.uint8))
    image = decode_image(path, max_side=1024)
    assert image.original_size == (height, width)
    assert image.pixels.shape == (min(height, 1024), min(width, 1024), 3)
    assert np.abs(image.pixels.astype(int) - 77).max() <= 2  # JPEG rounding


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_12000_by_9000_image_is_decoded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"large.{suffix}"
    Image.new("L", (12_000, 9_000), 90).save(path)
    image = decode_image(path, max_side=512)
    assert image.original_size == (9_000, 12_000)
    assert image.pixels.shape == (384, 512, 3)
    assert np.all(image.pixels == 90)


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(
        decode_image(_save(tmp_path / "a.png", grey), max_side=64).pixels, np.dstack([grey] * 3)
    )


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_values_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    image = decode_image(_save(tmp_path / f"a.{suffix}", deep), max_side=64)
    assert np.array_equal(image.pixels[..., 1], np.arange(256).reshape(16, 16))


def test_16_bit_images_are_reduced_like_others(tmp_path: Path) -> None:
    deep = np.repeat(np.repeat(np.array([[0, 65535], [65535, 0]], np.uint16), 64, 0), 64, 1)
    image = decode_image(_save(tmp_path / "a.png", deep), max_side=16)
    assert image.pixels[4, 4].tolist() == [0, 0, 0]
    assert image.pixels[4, 12].tolist() == [255, 255, 255]


def test_floats_from_0_to_1_fill_the_range_and_others_are_stretched(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    far = unit * 900 - 400
    far[0, 0] = np.nan
    expected = np.floor(unit * 255.999).astype(int)
    shown = decode_image(_save(tmp_path / "unit.tif", unit), max_side=64).pixels[..., 0]
    assert np.array_equal(shown, expected)
    stretched = decode_image(_save(tmp_path / "far.tif", far), max_side=64).pixels[..., 0]
    assert stretched[0, 0] == 0 and stretched[0, 1] == 0 and stretched[-1, -1] == 255


def test_a_palette_image_shows_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(_pattern()).quantize(4).save(path)
    assert np.array_equal(decode_image(path, max_side=64).pixels, _pattern())


def test_cmyk_shows_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(_pattern()).convert("CMYK").save(path, quality=95)
    difference = np.abs(
        decode_image(path, max_side=64).pixels[4::8, 4::8].astype(int) - _pattern()[4::8, 4::8]
    )
    assert difference.max() <= 12  # lossy


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparent_parts_are_white(tmp_path: Path, mode: str) -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:4] = 255
    path = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        colour = Image.fromarray(np.full((8, 8, 3), 40, np.uint8)).convert(mode)
        colour.putalpha(Image.fromarray(alpha))
        colour.save(path)
    else:
        # One palette entry, or one grey value, stands for transparency.
        Image.fromarray(np.where(alpha > 0, 40, 99).astype(np.uint8)).convert(mode).save(
            path, transparency=99
        )
    pixels = decode_image(path, max_side=64).pixels
    assert np.all(pixels[:4] == pixels[0, 0]) and pixels[0, 0, 0] < 100
    assert np.all(pixels[4:] == 255)


def test_half_transparent_colour_does_not_bleed_when_reduced(tmp_path: Path) -> None:
    """Red hidden under full transparency must not tint the reduced image."""
    hidden = np.zeros((64, 64, 4), np.uint8)
    hidden[..., 0] = 255
    hidden[:, ::2] = (0, 0, 0, 255)
    pixels = decode_image(_save(tmp_path / "a.png", hidden), max_side=8).pixels
    assert np.ptp(pixels.astype(int), axis=-1).max() <= 1  # grey, up to rounding


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_is_decoded_as_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "green")]
    path = tmp_path / f"a.{suffix}"
    # `lossless` is an option of WebP, which the others ignore.
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert np.all(decode_image(path, max_side=64).pixels == (255, 0, 0))


def test_the_format_is_identified_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(_pattern()).save(path, format="PNG")
    assert np.array_equal(decode_image(path, max_side=64).pixels, _pattern())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif", "ppm"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = _save(tmp_path / f"whole.{suffix}", pixels).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match="decoded|not an image"):
        decode_image(path, max_side=64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"these are words, not pixels\n", "not an image"),
        (b"\0" * 1000, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
    ids=["empty", "text", "zeros", "postscript"],
)
def test_a_file_that_is_not_an_image_is_an_error_with_a_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(path, max_side=64)
    assert str(path) in str(caught.value)
    assert str(path) not in caught.value.reason


def test_a_path_that_is_not_a_regular_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    reasons = {}
    for name in ("pipe.jpg", "folder.jpg", "loop.jpg", "nothing.jpg"):
        with pytest.raises(ImageError) as caught:
            decode_image(tmp_path / name, max_side=64)
        reasons[name] = caught.value.reason
    assert reasons["pipe.jpg"] == reasons["folder.jpg"] == "not a regular file"
    assert "Too many levels" in reasons["loop.jpg"]
    assert "No such file" in reasons["nothing.jpg"]


def _png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    return start + struct.pack(">I", 1000) + b"IDAT"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(60_000, 60_000))
    with pytest.raises(ImageError, match="3600000000 pixels"):
        decode_image(path, max_side=64)


_JPEG_KINDS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 92},
    "progressive": {"progressive": True, "subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("kind", _JPEG_KINDS)
@pytest.mark.parametrize("max_side", [40, 1000])
def test_a_jpeg_without_its_end_mark_shows_its_whole_picture(
    tmp_path: Path, textured_image: np.ndarray, kind: str, missing: int, max_side: int
) -> None:
    whole = _save(tmp_path / "whole.jpg", textured_image, **_JPEG_KINDS[kind])
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-missing])
    shown = decode_image(cut, max_side=max_side)
    assert np.array_equal(shown.pixels, decode_image(whole, max_side=max_side).pixels)
    assert shown.content_hash == hash_file(cut)


@pytest.mark.parametrize("kind", _JPEG_KINDS)
def test_a_jpeg_that_lacks_any_part_of_its_picture_is_an_error(tmp_path: Path, kind: str) -> None:
    """Cut at every byte, among them the ends of scans and of restart intervals."""
    smooth = np.add.outer(np.arange(48), np.arange(64))[..., None] * (1.0, 0.6, 2.0)
    whole = _save(tmp_path / "whole.jpg", smooth.astype(np.uint8), **_JPEG_KINDS[kind])
    pixels = decode_image(whole, max_side=64).pixels
    data = whole.read_bytes()
    cut = tmp_path / "cut.jpg"
    shown = []
    for length in range(600, len(data) - 2):
        cut.write_bytes(data[:length])
        try:
            shown.append((length, np.array_equal(decode_image(cut, max_side=64).pixels, pixels)))
        except ImageError:
            continue
    # The last byte of compressed data may hold nothing but padding.
    assert all(complete and length >= len(data) - 4 for length, complete in shown), shown


def _chunk(kind: bytes, content: bytes) -> bytes:
    summed = kind + content
    return struct.pack(">I", len(content)) + summed + struct.pack(">I", zlib.crc32(summed))


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_700_000))),
        _chunk(b"iTXt", b"XML\0\1\0en\0\0" + zlib.compress(b"x" * 3_000_000)),
        _chunk(b"iTXt", b"XML\0\0\0en\0\0" + b"x" * 1_500_000),
        _chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000))),
        _chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000),
        _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000))) * 80,
    ],
    ids=["zTXt", "iTXt", "plain iTXt", "iCCP", "tEXt", "80 of them"],
)
@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_a_png_is_read_whatever_the_length_of_its_texts(
    tmp_path: Path, chunk: bytes, place: str
) -> None:
    stored = _turned(_pattern(), 8)
    path = _save(tmp_path / "a.png", stored, exif=_exif(8))
    data = path.read_bytes()
    # The pixels begin after the header, and end before the end mark of twelve bytes.
    at = 33 if place == "before the pixels" else len(data) - 12
    path.write_bytes(data[:at] + chunk + data[at:])
    assert np.array_equal(decode_image(path, max_side=64).pixels, _pattern())


def _tiff_with_a_huge_tile(path: Path) -> None:
    """A TIFF of 16×16 pixels, whose only tile is said to be 60,000 pixels wide and high."""
    _save(path, np.zeros((16, 16), np.uint8), compression="tiff_adobe_deflate")
    with Image.open(path) as image:
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]  # a TIFF has them
    fields = [
        (256, 16),
        (257, 16),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 60_000),
        (323, 60_000),
        (324, tags[273][0]),
        (325, tags[279][0]),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    data = path.read_bytes()
    directory = struct.pack("<H", len(fields)) + directory + bytes(4)
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + directory)


def _jpeg_with_many_scans(path: Path) -> None:
    """A progressive JPEG of 400,000 pixels whose last scan comes 6,000 times."""
    Image.new("L", (800, 500), 90).save(path, progressive=True)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * 6000 + data[-2:])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_tiff_with_a_huge_tile, "16×16 pixels takes 14.40 GB of memory, expected at most 0.84 GB"),
        (_jpeg_with_many_scans, "scans of 800×500 pixels, expected at most 2000000000 pixels"),
    ],
)
def test_a_small_file_that_takes_much_memory_or_time_is_refused(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / ("bomb.tif" if "tile" in write.__name__ else "bomb.jpg")
    write(path)
    with pytest.raises(ImageError, match=reason):
        decode_image(path, max_side=64)


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGB", "webp", {"lossless": True}),
        ("RGB", "jpg", {"progressive": True, "subsampling": 0}),
        ("RGBA", "png", {}),
        ("F", "tif", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_an_image_that_takes_too_much_memory_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mode: str,
    suffix: str,
    options: dict[str, Any],
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (1000, 600)).save(path, **options)
    assert decode_image(path, max_side=100).original_size == (600, 1000)
    monkeypatch.setattr(image_formats, "MAX_MEMORY", 2_000_000)
    with pytest.raises(ImageError, match=r"1000×600 pixels takes \d.*expected at most 0.00 GB"):
        decode_image(path, max_side=100)


def test_a_large_jpeg_takes_the_memory_of_the_size_it_is_decoded_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = _save(tmp_path / "a.jpg", _pattern(1600, 2400))
    monkeypatch.setattr(image_formats, "MAX_MEMORY", 2_000_000)
    assert decode_image(path, max_side=300).pixels.shape == (200, 300, 3)
    with pytest.raises(ImageError, match="2400×1600 pixels takes"):
        decode_image(path, max_side=2400)


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
@pytest.mark.parametrize("mode", ["RGBA", "I;16", "L", "P"])
def test_a_large_image_is_converted_in_bands_without_a_seam(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str, orientation: int
) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (37, 53), np.uint8)
    made = Image.fromarray(grey.astype(np.uint16) * 250 if mode == "I;16" else grey)
    made = made if mode == "I;16" else made.convert(mode)
    path = tmp_path / "a.png"
    made.save(path, exif=_exif(orientation))
    whole = decode_image(path, max_side=64).pixels
    monkeypatch.setattr(images, "_BAND_PIXELS", 200)
    assert np.array_equal(decode_image(path, max_side=64).pixels, whole)


def test_an_image_with_damaged_metadata_is_decoded_without_a_warning(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.fromarray(_pattern()).save(image, "JPEG", quality=95, exif=_exif(6))
    content = bytearray(image.getvalue())
    # The first tag claims a value far beyond the end of the metadata.
    at = content.index(b"Exif\0\0") + 6 + 8 + 2
    content[at : at + 12] = struct.pack(
        "<HHII" if content[at - 10 : at - 8] == b"II" else ">HHII", 0x010F, 2, 9999, 70
    )
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode_image(path, max_side=64).original_size == (48, 64)
    assert not caught


def test_random_damage_gives_an_image_or_an_image_error(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "damaged"
    outcomes = {"decoded": 0, "refused": 0}
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "ppm"):
        whole = _save(
            tmp_path / f"a.{suffix}", rng.integers(0, 256, (24, 24, 3), np.uint8)
        ).read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for place in rng.integers(0, len(content), 4):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            try:
                pixels = decode_image(path, max_side=16).pixels
            except ImageError:
                outcomes["refused"] += 1
            else:
                assert max(pixels.shape[:2]) <= 16
                outcomes["decoded"] += 1
    assert min(outcomes.values()) > 30, outcomes


def test_the_hash_depends_on_the_bytes_alone(tmp_path: Path) -> None:
    first = _save(tmp_path / "a.png", _pattern())
    copy = tmp_path / "b.png"
    copy.write_bytes(first.read_bytes())
    other = _save(tmp_path / "c.png", _pattern()[::-1])
    hashes = [decode_image(path, max_side=64).content_hash for path in (first, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert [hash_file(path) for path in (first, copy, other)] == hashes


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 cut"])
def test_an_error_tells_the_digest_of_the_bytes_that_failed(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    with pytest.raises(ImageError) as failed:
        decode_image(file, max_side=64)
    assert failed.value.content_hash == file_digest(file) == hash_file(file)


def test_what_cannot_be_read_has_an_empty_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for file in (tmp_path / "pipe.jpg", tmp_path, tmp_path / "missing.jpg"):
        with pytest.raises(ImageError) as failed:
            decode_image(file, max_side=64)
        assert failed.value.content_hash == file_digest(file) == ""
