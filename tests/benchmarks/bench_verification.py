"""Geometric verification beside OpenCV, poselib and scikit-image: time, true inliers kept, chance
level, in one run.

    .venv/bin/python tests/benchmarks/bench_verification.py [--pairs 200] [--rounds 5]

Synthetic pairs of 1024×768 images: a random affine map (rotation up to 45°, scale 0.5–2, anisotropy
up to 1.5), inliers with 1–4 px of noise, the rest uniform. scikit-image runs as the DELF reference
code calls it (3 samples, 1000 trials).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import poselib
from jaxtyping import Bool, Float
from skimage.measure import ransac
from skimage.transform import AffineTransform

from delfjax.config import PYRAMID, VerificationConfig
from delfjax.retrieval.verification import verify
from delfjax.types import Matches

WIDTH, HEIGHT = 1024.0, 768.0
THRESHOLD_PX = VerificationConfig().threshold_px
Estimator = Callable[[Float[np.ndarray, "m 2"], Float[np.ndarray, "m 2"]], Bool[np.ndarray, " m"]]


@dataclass(frozen=True)
class Pair:
    """Putative matches between two synthetic images, and which of them are true.

    Attributes:
        source: query points, ``(x, y)`` pixels.
        target: database points, ``(x, y)`` pixels.
        source_scales: image scale of the query features.
        target_scales: image scale of the database features.
        similarity: uniform noise, that says nothing about truth.
        true: matches made by the map.
    """

    source: Float[np.ndarray, "m 2"]
    target: Float[np.ndarray, "m 2"]
    source_scales: Float[np.ndarray, " m"]
    target_scales: Float[np.ndarray, " m"]
    similarity: Float[np.ndarray, " m"]
    true: Bool[np.ndarray, " m"]


def random_affine(
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, " 2"], float]:
    """A map within the stated ranges that keeps the image centres within 60 px of each other; and
    its scale."""

    def turn(angle: float) -> Float[np.ndarray, "2 2"]:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    scale = float(np.exp(generator.uniform(np.log(0.5), np.log(2.0))))
    stretch = np.exp(generator.uniform(0.0, np.log(1.5)) / 2)
    axis = generator.uniform(0, np.pi)
    rotation = turn(generator.uniform(-np.pi / 4, np.pi / 4))
    linear = scale * rotation @ turn(axis) @ np.diag([stretch, 1 / stretch]) @ turn(-axis)
    middle = np.array([WIDTH, HEIGHT]) / 2
    offset = (
        middle + generator.uniform(-60, 60, 2) - linear @ (middle + generator.uniform(-60, 60, 2))
    )
    return linear, offset, scale


def random_pair(
    generator: np.random.Generator,
    *,
    count: int,
    ratio: float,
    shared: bool = False,
    informative_scales: bool = True,
) -> Pair:
    """``count`` matches of which a share ``ratio`` follows one random affine map.

    Args:
        generator: where chance comes from.
        count: matches.
        ratio: share of true ones.
        shared: false matches end on few database points, some of them true matches' own, as
            nearest-neighbour lists do.
        informative_scales: true matches have the scales of the map, half an octave of noise and the
            pyramid's ladder between; otherwise all features are of scale one.
    """
    linear, offset, scale = random_affine(generator)
    size = np.array([WIDTH, HEIGHT])
    inliers = round(ratio * count)
    source = np.zeros((0, 2))
    while len(source) < inliers:
        drawn = generator.uniform(0, 1, (400, 2)) * size
        mapped = drawn @ linear.T + offset
        source = np.concatenate([source, drawn[((mapped >= 0) & (mapped <= size)).all(axis=1)]])
    source = source[:inliers]
    target = (
        source @ linear.T + offset + generator.normal(size=(inliers, 2)) * generator.uniform(1, 4)
    )
    stray = generator.uniform(0, 1, (2, count - inliers, 2)) * size
    if shared:
        pool = np.concatenate(
            [generator.uniform(0, 1, (max(4, count // 8), 2)) * size, target[: inliers // 2]]
        )
        favour = generator.exponential(size=len(pool)) ** 2
        stray[1] = pool[generator.choice(len(pool), count - inliers, p=favour / favour.sum())]
    true = np.arange(count) < inliers
    octaves = np.log2(np.array(PYRAMID))
    here = generator.choice(octaves, count)
    there = np.where(
        true,
        here - np.log2(scale) + generator.normal(size=count) / 2,
        generator.choice(octaves, count),
    )
    there = octaves[np.abs(there[:, None] - octaves[None]).argmin(axis=1)]
    if not informative_scales:
        here, there = np.zeros(count), np.zeros(count)
    order = generator.permutation(count)
    return Pair(
        source=np.concatenate([source, stray[0]])[order].astype(np.float32),
        target=np.concatenate([target, stray[1]])[order].astype(np.float32),
        source_scales=np.exp2(here)[order].astype(np.float32),
        target_scales=np.exp2(there)[order].astype(np.float32),
        similarity=generator.uniform(0.5, 1, count).astype(np.float32),
        true=true[order],
    )


def random_pairs(
    number: int, *, count: int, low: float, high: float, **options: bool
) -> list[Pair]:
    """``number`` pairs of ``count`` matches with inlier ratios between ``low`` and ``high``, the
    same at every call."""
    pairs = []
    for index in range(number):
        generator = np.random.default_rng([count, index])
        pairs.append(
            random_pair(generator, count=count, ratio=generator.uniform(low, high), **options)
        )
    return pairs


def as_matches(pairs: list[Pair]) -> Matches:
    """Pairs with equally many matches as one shortlist."""
    return Matches(
        query_yx=np.stack([pair.source[:, ::-1] for pair in pairs]),
        database_yx=np.stack([pair.target[:, ::-1] for pair in pairs]),
        query_scales=np.stack([pair.source_scales for pair in pairs]),
        database_scales=np.stack([pair.target_scales for pair in pairs]),
        similarity=np.stack([pair.similarity for pair in pairs]),
        valid=np.ones((len(pairs), len(pairs[0].true)), bool),
    )


def opencv(
    source: Float[np.ndarray, "m 2"], target: Float[np.ndarray, "m 2"]
) -> Bool[np.ndarray, " m"]:
    """Inliers of OpenCV's affine RANSAC with its default effort (2000 iterations, confidence
    0.99)."""
    _, inside = cv2.estimateAffine2D(source, target, ransacReprojThreshold=THRESHOLD_PX)
    return np.asarray(inside[:, 0] > 0)


def poselib_homography(
    source: Float[np.ndarray, "m 2"], target: Float[np.ndarray, "m 2"]
) -> Bool[np.ndarray, " m"]:
    """Inliers of poselib's LO-RANSAC homography: it has no affine model."""
    _, report = poselib.estimate_homography(source, target, {"max_reproj_error": THRESHOLD_PX})
    return np.array(report["inliers"], bool)


def scikit_image(
    source: Float[np.ndarray, "m 2"], target: Float[np.ndarray, "m 2"]
) -> Bool[np.ndarray, " m"]:
    """Inliers of scikit-image's RANSAC, called as the DELF reference code does."""
    _, inside = ransac(
        (source, target),
        AffineTransform,
        min_samples=3,
        residual_threshold=THRESHOLD_PX,
        max_trials=1000,
        rng=0,
    )
    return np.zeros(len(source), bool) if inside is None else inside


OTHERS: dict[str, Estimator] = {"OpenCV": opencv, "poselib (homography)": poselib_homography}


def ours(
    pairs: list[Pair], config: VerificationConfig | None = None
) -> Bool[np.ndarray, "pairs m"]:
    """Inliers of every pair, by this library; by default as configured by default."""
    return np.asarray(verify(as_matches(pairs), config=config or VerificationConfig()).inlier_mask)


def one_by_one(estimator: Estimator, pairs: list[Pair]) -> Bool[np.ndarray, "pairs m"]:
    """Inliers of every pair, by an estimator of one pair."""
    return np.stack([estimator(pair.source, pair.target) for pair in pairs])


def kept(inside: Bool[np.ndarray, "pairs m"], pairs: list[Pair]) -> Float[np.ndarray, " pairs"]:
    """Share of each pair's true matches that are inliers."""
    true = np.stack([pair.true for pair in pairs])
    share: Float[np.ndarray, " pairs"] = (inside & true).sum(axis=1) / true.sum(axis=1)
    return share


def _seconds(action: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def print_times(rounds: int) -> None:
    """Seconds for one shortlist of 100, after compilation."""
    for count in (200, 1000):
        pairs = random_pairs(100, count=count, low=0.1, high=0.5)
        matches = as_matches(pairs)
        print(
            f"100 candidates × {count} matches, seconds (best of {rounds}; scikit-image: 10"
            " candidates, times ten)"
        )
        for model in ("affine", "homography"):
            check = partial(verify, matches, config=VerificationConfig(model=model))
            check()
            print(f"  ours, {model:23} {_seconds(check, rounds):8.3f}")
        for name, estimator in OTHERS.items():
            print(f"  {name:29} {_seconds(partial(one_by_one, estimator, pairs), rounds):8.3f}")
        slow = 10 * _seconds(partial(one_by_one, scikit_image, pairs[:10]), 1)
        print(f"  {'scikit-image (1000 trials)':29} {slow:8.3f}")


def print_kept(number: int) -> None:
    """Share of the true inliers kept, and failures, over random affine pairs."""
    print(f"true inliers kept over {number} affine pairs, mean (pairs that keep less than half)")
    settings = [
        ("10–50 %", 0.1, 0.5, {}),
        ("10–50 %, no scales", 0.1, 0.5, {"informative_scales": False}),
        ("10–50 %, shared points", 0.1, 0.5, {"shared": True}),
        ("3–8 %", 0.03, 0.08, {}),
    ]
    for count in (1000, 300, 60):
        for label, low, high, options in settings:
            if low * count < 6 and low < 0.1:
                continue
            pairs = random_pairs(number, count=count, low=low, high=high, **options)
            found = {"ours": ours(pairs)} | {
                name: one_by_one(one, pairs) for name, one in OTHERS.items()
            }
            shares = {name: kept(inside, pairs) for name, inside in found.items()}
            columns = "  ".join(
                f"{name} {s.mean():.4f} ({np.sum(s < 0.5)})" for name, s in shares.items()
            )
            print(f"  {count:4} matches, {label:23} {columns}")


def print_chance(number: int) -> None:
    """Inliers of lists without any true match: what the score of a non-matching image is."""
    print(f"inliers of {number} random lists, mean / 99th percentile")
    variants = {
        "ours": VerificationConfig(),
        "ours, homography": VerificationConfig(model="homography"),
        "ours, any rotation": VerificationConfig(max_rotation_deg=180.0),
        "ours, anisotropy to 10": VerificationConfig(max_anisotropy=10.0),
        "ours, scale to 30": VerificationConfig(max_scale_change=30.0),
        "ours, scale to 2": VerificationConfig(max_scale_change=2.0),
    }
    for shared in (False, True):
        for count in (60, 200, 1000):
            pairs = random_pairs(number, count=count, low=0.0, high=0.0, shared=shared)
            found = {name: ours(pairs, config) for name, config in variants.items()}
            found |= {name: one_by_one(one, pairs) for name, one in OTHERS.items()}
            print(f"  {count} matches{', shared points' if shared else ''}")
            for name, inside in found.items():
                inliers = inside.sum(axis=1)
                print(f"    {name:24} {inliers.mean():6.1f} / {np.percentile(inliers, 99):.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=200, help="pairs or lists per measured figure")
    parser.add_argument(
        "--rounds", type=int, default=5, help="repetitions of a timing, of which the best counts"
    )
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print_times(options.rounds)
    print_kept(options.pairs)
    print_chance(options.pairs)


if __name__ == "__main__":
    main()
