"""Real photographs that need no download: those scikit-image ships, each under known changes.

Every object (a photograph of the package) is written unchanged and as five views, each of which is
a query answered by all other images of the object: ``homography`` (turned and tilted), ``crop``
(part of it, enlarged), ``occlusion`` (a third of it hidden), ``lighting`` (gamma, a shadow, a
colour cast, noise) and ``scale`` (much smaller). The motorcycle adds ``stereo``, the right
photograph of a real stereo pair. Photographs of other things are distractors, which answer no
query.

The homography between any two images of an object is known exactly, in ``(x, y)`` pixels with pixel
centres at integers. The same seed and package versions give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from skimage.filters import gaussian
from skimage.transform import ProjectiveTransform, resize, warp

from delfjax.errors import DelfjaxError
from delfjax.files import read_json_object, replacing, write_json
from delfjax.rng import named_generator


class PhotoSetError(DelfjaxError):
    """A photograph or homography that the embedded photo set does not have."""


# Photograph → file inside the package scikit-image, and the part of it that is used: first and last
# row, first and last column, as fractions.
_WHOLE = (0.0, 1.0, 0.0, 1.0)
_FILES: dict[str, tuple[str, tuple[float, float, float, float]]] = {
    "astronaut": ("astronaut.png", _WHOLE),
    "camera": ("camera.png", _WHOLE),
    "chelsea": ("chelsea.png", _WHOLE),
    "coffee": ("coffee.png", _WHOLE),
    "coins": ("coins.png", _WHOLE),
    "hubble": ("hubble_deep_field.jpg", (0.0, 1.0, 0.0, 0.5)),
    "immunohistochemistry": ("ihc.png", _WHOLE),
    "motorcycle": ("motorcycle_left.png", _WHOLE),
    "page": ("page.png", _WHOLE),
    "retina": ("retina.jpg", _WHOLE),
    "rocket": ("rocket.jpg", _WHOLE),
    "brick": ("brick.png", _WHOLE),
    "motorcycle_right": ("motorcycle_right.png", _WHOLE),
    # Distractors that look like one of the objects: the other half of the sky, and a text like the
    # page.
    "hubble_other_half": ("hubble_deep_field.jpg", (0.0, 1.0, 0.5, 1.0)),
    "text": ("text.png", _WHOLE),
    "cell": ("cell.png", _WHOLE),
    "clock": ("clock_motion.png", _WHOLE),
    "grass": ("grass.png", _WHOLE),
    "gravel": ("gravel.png", _WHOLE),
    "moon": ("moon.png", _WHOLE),
}
OBJECTS = tuple(_FILES)[:12]
DISTRACTORS = tuple(_FILES)[13:]

# JPEG quality; its artefacts are just visible, as in photographs found on the web.
_QUALITY = 90
# Least share of a view that ``occlusion`` hides.
_HIDDEN = 0.35
# Magnification of ``scale``.
_REDUCTION = 0.4
# Shorter side below which ``scale`` does not reduce a photograph, pixels.
_SMALLEST = 96


@dataclass(frozen=True)
class View:
    """A photograph after a known change.

    Attributes:
        image: RGB.
        homography: maps ``(x, y, 1)`` of the unchanged photograph to the view, pixels.
    """

    image: UInt8[np.ndarray, "h w 3"]
    homography: Float[np.ndarray, "3 3"]


@dataclass(frozen=True)
class PhotoSet:
    """A photo set on disk.

    Attributes:
        folder: its root; ``groundtruth.json`` and ``homographies.json`` lie there.
        images: paths of all images, relative to the root with forward slashes, in the order of the
            ground truth.
        homographies: for each image of an object except the stereo view, the homography from the
            object's ``source.jpg`` to it.
    """

    folder: Path
    images: tuple[str, ...]
    homographies: Mapping[str, Float[np.ndarray, "3 3"]]


def source_photo(name: str, *, max_side: int = 512) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph of the package scikit-image, RGB.

    Args:
        name: one of :data:`OBJECTS`, :data:`DISTRACTORS` or ``"motorcycle_right"``.
        max_side: longest side of the result, pixels; a larger photograph is reduced.

    Raises:
        PhotoSetError: there is no such photograph, or the installed scikit-image does not hold it.
    """
    if name not in _FILES:
        raise PhotoSetError(f"photograph {name!r} is unknown; there are: {', '.join(_FILES)}")
    file, (top, bottom, left, right) = _FILES[name]
    resource = resources.files("skimage.data") / file
    if not resource.is_file():
        raise PhotoSetError(
            f"photograph {name!r}: the installed scikit-image lacks {file}, "
            "which its wheels contain"
        )
    with resource.open("rb") as stream, Image.open(stream) as opened:
        photo = np.asarray(opened.convert("RGB"))
    height, width = photo.shape[:2]
    photo = photo[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    factor = max_side / max(photo.shape[:2])
    if factor >= 1:
        return photo
    shape = (round(photo.shape[0] * factor), round(photo.shape[1] * factor))
    return _to_uint8(resize(photo, shape, order=1, anti_aliasing=True, preserve_range=True))


def view_through(
    photo: UInt8[np.ndarray, "h w 3"],
    homography: Float[np.ndarray, "3 3"],
    *,
    height: int,
    width: int,
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """``photo`` seen through ``homography``, without aliasing.

    Where the view leaves the photo, its border pixels are repeated.

    Args:
        photo: RGB.
        homography: maps ``(x, y, 1)`` of the photo to the view, pixels.
        height: rows of the view.
        width: columns of the view.
    """
    factor = _magnification(homography, height=height, width=width)
    # The blur that scikit-image's own resize applies before a reduction by `factor`.
    sigma = max(0.0, (1 / factor - 1) / 2)
    smooth = (
        gaussian(photo, sigma=sigma, channel_axis=-1, preserve_range=True)
        if sigma
        else photo.astype(np.float64)
    )
    to_photo = ProjectiveTransform(homography).inverse
    return _to_uint8(
        warp(
            smooth,
            to_photo,
            output_shape=(height, width),
            order=3,
            mode="edge",
            preserve_range=True,
        )
    )


def map_points_yx(
    homography: Float[np.ndarray, "3 3"], points_yx: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Map ``(y, x)`` points, in pixels, through a homography that acts on ``(x, y, 1)``."""
    return np.asarray(
        ProjectiveTransform(homography)(points_yx[:, ::-1])[:, ::-1], dtype=np.float64
    )


def homography_between(
    homographies: Mapping[str, Float[np.ndarray, "3 3"]], image1: str, image2: str
) -> Float[np.ndarray, "3 3"]:
    """The true homography from one image to another of the same object.

    It acts on ``(x, y, 1)``, and its lower right entry is 1.

    Args:
        homographies: as in :class:`PhotoSet` or from :func:`load_homographies`.
        image1: path of the first image, relative to the root.
        image2: path of the second image.

    Raises:
        PhotoSetError: no homography is known between the two.
    """
    for path in (image1, image2):
        if path not in homographies:
            raise PhotoSetError(f"homographies: none is known for {path!r}")
    if Path(image1).parent != Path(image2).parent:
        raise PhotoSetError(f"homographies: {image1!r} and {image2!r} show different objects")
    product = homographies[image2] @ np.linalg.inv(homographies[image1])
    return np.asarray(product / product[2, 2])


def load_homographies(folder: Path) -> dict[str, Float[np.ndarray, "3 3"]]:
    """Read ``homographies.json``: image path → homography from its object's ``source.jpg``."""
    plain = read_json_object(folder / "homographies.json", error=PhotoSetError)
    return {path: np.asarray(matrix, dtype=np.float64) for path, matrix in plain.items()}


def write_photo_set(
    folder: Path,
    *,
    seed: int = 0,
    objects: Sequence[str] = OBJECTS,
    distractors: Sequence[str] = DISTRACTORS,
    max_side: int = 512,
) -> PhotoSet:
    """Write images, ``homographies.json`` and, last, ``groundtruth.json`` under ``folder``.

    A view depends only on the seed, its object and its own name, so a smaller set is a subset of
    the full one.

    Args:
        folder: created if missing; files of the same names are replaced.
        seed: seed of every random choice.
        objects: which of :data:`OBJECTS`.
        distractors: which of :data:`DISTRACTORS`.
        max_side: longest side of any image, pixels.

    Raises:
        PhotoSetError: a name is unknown, or the installed scikit-image lacks a photograph.
    """
    for name, known in [(n, OBJECTS) for n in objects] + [(n, DISTRACTORS) for n in distractors]:
        if name not in known:
            raise PhotoSetError(f"photo set: {name!r} is not one of {', '.join(known)}")
    homographies: dict[str, Float[np.ndarray, "3 3"]] = {}
    groups: list[list[str]] = []
    for name in objects:
        views = object_views(name, seed=seed, max_side=max_side)
        homographies |= {
            f"images/{name}/{tier}.jpg": view.homography for tier, view in views.items()
        }
        pictures = {tier: view.image for tier, view in views.items()}
        if name == "motorcycle":
            pictures["stereo"] = source_photo("motorcycle_right", max_side=max_side)
        groups.append(
            [
                _write_jpeg(folder, f"images/{name}/{tier}.jpg", image)
                for tier, image in pictures.items()
            ]
        )
    for name in distractors:
        groups.append(
            [_write_jpeg(folder, f"distractors/{name}.jpg", source_photo(name, max_side=max_side))]
        )
    plain = {path: matrix.tolist() for path, matrix in homographies.items()}
    write_json(folder / "homographies.json", plain, indent=1)
    truth = _groundtruth(groups)
    write_json(folder / "groundtruth.json", truth, indent=1)
    return PhotoSet(folder=folder, images=tuple(truth["imlist"]), homographies=homographies)


def object_views(name: str, *, seed: int = 0, max_side: int = 512) -> dict[str, View]:
    """Tier → view, for ``source`` and the five views of an object with a known homography.

    Raises:
        PhotoSetError: as :func:`source_photo`.
    """
    photo = source_photo(name, max_side=max_side)
    views = {
        tier: change(photo, named_generator(seed, f"{name}/{tier}"))
        for tier, change in _CHANGES.items()
    }
    return {"source": View(photo, np.eye(3))} | views


def _turned_and_tilted(photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> View:
    angle = math.radians(rng.uniform(8, 20)) * rng.choice((-1, 1))
    return _through_window(photo, _window(photo, rng, share=0.85, angle=angle, jitter=0.08))


def _cropped(photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> View:
    height, width = photo.shape[:2]
    share = rng.uniform(0.5, 0.65)
    top, left = rng.uniform(0, 1 - share, 2) * (height, width) - 0.5
    bottom, right = top + share * height, left + share * width
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return _through_window(photo, corners, magnification=1.25)


def _occluded(photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> View:
    """A slightly moved view, at least ``_HIDDEN`` of it behind out-of-focus occluders.

    Every occluder has its own colour and blur: two occluded views share nothing but their object.
    """
    view = _moved(photo, rng)
    height, width = view.image.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    image, hidden = view.image.astype(np.float64), np.zeros((height, width), dtype=bool)
    while hidden.mean() < _HIDDEN:
        centre_y, centre_x = rng.uniform(0, 1, 2) * (height, width)
        radius_y, radius_x = rng.uniform(0.12, 0.24, 2) * (height, width)
        inside = ((rows - centre_y) / radius_y) ** 2 + ((columns - centre_x) / radius_x) ** 2 < 1
        clouds = gaussian(rng.normal(size=inside.shape), sigma=rng.uniform(8, 16))
        colour = rng.uniform(50, 205) + rng.uniform(-25, 25, 3)
        image[inside] = colour + 18 * (clouds / clouds.std())[inside, None]
        hidden |= inside
    return View(_to_uint8(image), view.homography)


def _relit(photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> View:
    """A slightly moved view in another light: gamma, a shadow, a colour cast, and noise."""
    view = _moved(photo, rng)
    height, width = view.image.shape[:2]
    gamma = rng.choice((0.55, 1.8)) * rng.uniform(0.9, 1.1)
    direction = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    across = (rows * math.sin(direction) + columns * math.cos(direction)) / math.sqrt(2)
    shadow = 0.3 + 0.7 / (1 + np.exp(-6 * across))
    cast = rng.uniform(0.8, 1.15, 3)
    light = (view.image / 255.0) ** gamma * shadow[..., None] * cast
    return View(_to_uint8(255 * light + rng.normal(0, 5, light.shape)), view.homography)


def _reduced(photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> View:
    magnification = max(_REDUCTION, _SMALLEST / min(photo.shape[:2]))
    return _through_window(
        photo, _window(photo, rng, share=0.95, angle=0.0, jitter=0.02), magnification=magnification
    )


# Tier → function that makes its view; all randomness comes from the generator.
_CHANGES: dict[str, Callable[[UInt8[np.ndarray, "h w 3"], np.random.Generator], View]] = {
    "homography": _turned_and_tilted,
    "crop": _cropped,
    "occlusion": _occluded,
    "lighting": _relit,
    "scale": _reduced,
}


def _moved(photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> View:
    angle = math.radians(rng.uniform(-5, 5))
    return _through_window(photo, _window(photo, rng, share=0.92, angle=angle, jitter=0.03))


def _window(
    photo: UInt8[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    *,
    share: float,
    angle: float,
    jitter: float,
) -> Float[np.ndarray, "4 2"]:
    """Corners ``(x, y)`` of a random quadrilateral inside the photo, pixels, clockwise.

    The first is the upper left one.

    Args:
        photo: its outer edges are at −0.5 and size − 0.5.
        rng: source of the displacement of each corner.
        share: sides as a share of the photo's, before the quadrilateral is shrunk to fit inside.
        angle: rotation, radians.
        jitter: largest displacement of a corner as a share of the photo's sides.
    """
    half = np.array([photo.shape[1], photo.shape[0]]) / 2
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    corners = square * half * share + rng.uniform(-jitter, jitter, (4, 2)) * 2 * half
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = corners @ np.array([[cosine, sine], [-sine, cosine]])
    return np.asarray(turned / max(1.0, float(np.max(np.abs(turned) / half))) + half - 0.5)


def _through_window(
    photo: UInt8[np.ndarray, "h w 3"],
    corners: Float[np.ndarray, "4 2"],
    *,
    magnification: float = 1.0,
) -> View:
    """The view that shows the part of the photo between ``corners``, to its own outer corners."""
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    width = round(float(sides[0] + sides[2]) / 2 * magnification)
    height = round(float(sides[1] + sides[3]) / 2 * magnification)
    seen = np.array([(0, 0), (width, 0), (width, height), (0, height)]) - 0.5
    homography = np.asarray(
        ProjectiveTransform.from_estimate(corners, seen).params, dtype=np.float64
    )
    homography = homography / homography[2, 2]
    return View(view_through(photo, homography, height=height, width=width), homography)


def _magnification(homography: Float[np.ndarray, "3 3"], *, height: int, width: int) -> float:
    """Length in the view of one pixel of the photo, measured at the centre of the view."""
    inverse = np.linalg.inv(homography)
    x, y, w = inverse @ ((width - 1) / 2, (height - 1) / 2, 1.0)
    # The Jacobian of a homography has the determinant det H / (third coordinate)³.
    third = homography[2] @ (x / w, y / w, 1.0)
    return math.sqrt(abs(float(np.linalg.det(homography) / third**3)))


def _groundtruth(groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The ground truth of groups of images of one object; the first of each is not a query."""
    imlist = [path for group in groups for path in group]
    index = {path: number for number, path in enumerate(imlist)}
    queries = [
        {
            "query": index[path],
            "path": path,
            "landmark": Path(path).parent.name,
            "tier": Path(path).stem,
            "ok": [index[other] for other in group if other != path],
            "junk": [index[path]],
        }
        for group in groups
        for path in group[1:]
    ]
    return {"imlist": imlist, "gnd": queries}


def _write_jpeg(folder: Path, name: str, image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Write ``folder/name`` and return ``name``."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as stream:
        Image.fromarray(image).save(stream, "JPEG", quality=_QUALITY)
    return name


def _to_uint8(values: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
