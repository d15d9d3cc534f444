"""Google Landmarks Dataset v2: mAP@100 of its retrieval task, GAP of its recognition task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from delfjax.evaluation.average_precision import EvaluationError
from delfjax.evaluation.protocol import ProtocolId, ProtocolResult

# Number of ranks that are scored. Source: Weyand et al. 2020, mAP@100.
CUTOFF = 100


def retrieval_mean_average_precision(
    predictions: Mapping[str, Sequence[str]],
    *,
    solution: Mapping[str, Collection[str]],
    cutoff: int = CUTOFF,
    benchmark: str = "gldv2-retrieval",
) -> ProtocolResult:
    """Average precision of each query over its first ``cutoff`` predictions (mean ``mAP@100``).

    It is the sum of the precisions at the ranks of the hits (no trapezoid), divided by the smaller
    of ``cutoff`` and the number of relevant images. An image predicted again takes up a rank but is
    not a second hit. Predictions beyond the cutoff are ignored. Anything that is not relevant is a
    miss, even if the index has no image of that name. A query without predictions scores 0.

    Args:
        predictions: query → images of the index, best first.
        solution: query → relevant images of the index. A query without any is not scored ("None"
            in the solution file, or usage "Ignored"): its score is NaN, whatever was predicted.
        cutoff: number of ranks, 1 or more.
        benchmark: name of the dataset and split.

    Returns:
        A score for each query of the solution, in its order.

    Raises:
        EvaluationError: there are predictions for something that is not a query of the solution,
            or the cutoff is below 1.

    Source: Weyand et al. 2020, "Google Landmarks Dataset v2", and the metrics published with the
        dataset.
    """
    if cutoff < 1:
        raise EvaluationError(f"cutoff: got {cutoff}, expected 1 or more")
    stranger = next((query for query in predictions if query not in solution), None)
    if stranger is not None:
        raise EvaluationError(f"predictions: {stranger!r} is not a query of the solution")
    scores = [
        _average_precision_at(predictions.get(query, ()), relevant, cutoff=cutoff)
        for query, relevant in solution.items()
    ]
    protocol = ProtocolId(benchmark, "full", "repeats-wrong", "stable-ties")
    return ProtocolResult(
        protocol, tuple(solution), {f"mAP@{cutoff}": np.asarray(scores, dtype=np.float64)}
    )


def global_average_precision(
    images: Sequence[str],
    *,
    classes: Int[np.ndarray, " predictions"],
    confidences: Float[np.ndarray, " predictions"],
    solution: Mapping[str, Collection[int]],
    ignore_non_landmark: bool = False,
    benchmark: str = "gldv2-recognition",
) -> ProtocolResult:
    """Global average precision (GAP, µAP): all predictions ranked in one list by confidence.

    Predictions are ordered by falling confidence, then by the name of their image, then by class.
    GAP is the sum of the precisions at the ranks of the right predictions, divided by the number of
    test images that show a landmark. One prediction per image is expected: only the first in that
    order may be right, any other takes up a rank and is wrong. A test image without a prediction
    adds nothing.

    Args:
        images: test image of each prediction.
        classes: landmark predicted.
        confidences: larger is more confident; comparable between images.
        solution: test image → its landmarks; empty for an image that shows none, for which every
            prediction is wrong.
        ignore_non_landmark: remove the predictions for such images instead.
        benchmark: name of the dataset and split.

    Returns:
        For each test image of the solution, in its order, the precision at its hit: 0 without a
        hit, NaN where it shows no landmark. Their mean is ``GAP``. Because the share of an image
        depends on the predictions for the others, an interval from resampled images is only
        approximate.

    Raises:
        EvaluationError: a prediction is for something that is not a test image; the numbers of
            images, classes and confidences differ; or a confidence is not finite.

    Source: Weyand et al. 2020; Perronnin, Liu and Renders 2009 for the pooled average precision.
    """
    if not len(images) == len(classes) == len(confidences):
        raise EvaluationError(
            f"predictions: {len(images)} images, {len(classes)} classes, "
            f"{len(confidences)} confidences; expected one of each per prediction"
        )
    if not np.isfinite(confidences).all():
        place = int(np.argmin(np.isfinite(confidences)))
        raise EvaluationError(
            f"prediction for {images[place]!r}: confidence {confidences[place]} is not finite"
        )
    # Sorted by name: the position of an image here breaks ties between equal confidences.
    index = pd.Index(sorted(solution), dtype=object)
    codes = np.asarray(index.get_indexer(np.asarray(images, dtype=object)), dtype=np.int64)
    if (codes < 0).any():
        raise EvaluationError(
            f"predictions: {images[int(np.argmin(codes))]!r} is not a test image of the solution"
        )
    shows = np.array([len(solution[image]) > 0 for image in index], dtype=bool)
    if ignore_non_landmark:
        kept = shows[codes]
        codes, classes, confidences = codes[kept], classes[kept], confidences[kept]
    order = np.lexsort((classes, codes, -confidences))
    ranked = codes[order]
    first = ~pd.Series(ranked).duplicated().to_numpy(dtype=bool)
    shares = np.where(shows, 0.0, np.nan)
    hits = first & _right(
        ranked, classes[order].astype(np.int64), [solution[image] for image in index]
    )
    shares[ranked[hits]] = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits]
    junk = "non-landmark-removed" if ignore_non_landmark else "non-landmark-wrong"
    scores = shares[
        np.asarray(index.get_indexer(np.asarray(list(solution), dtype=object)), dtype=np.int64)
    ]
    return ProtocolResult(
        ProtocolId(benchmark, "full", junk, "key-ties"), tuple(solution), {"GAP": scores}
    )


def _average_precision_at(
    predicted: Sequence[str], relevant: Collection[str], *, cutoff: int
) -> float:
    count = len(frozenset(relevant))
    if count == 0:
        return float("nan")
    ranked = pd.Series(list(predicted[:cutoff]), dtype=object)
    named_before = ranked.duplicated().to_numpy(dtype=bool)
    hits = ranked.isin(list(relevant)).to_numpy(dtype=bool) & ~named_before
    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(np.sum(precisions[hits]) / min(count, cutoff))


def _right(
    ranked: Int[np.ndarray, " predictions"],
    classes: Int[np.ndarray, " predictions"],
    landmarks: Sequence[Collection[int]],
) -> Bool[np.ndarray, " predictions"]:
    """Which predictions name one of their image's landmarks."""
    owner = np.repeat(np.arange(len(landmarks)), [len(known) for known in landmarks])
    shown = np.array([landmark for known in landmarks for landmark in known], dtype=np.int64)
    _, coded = np.unique(np.concatenate([classes, shown]), return_inverse=True)
    width = int(coded.max(initial=0)) + 1
    truth = owner * width + coded[len(classes) :]
    return np.isin(ranked * width + coded[: len(classes)], truth)
