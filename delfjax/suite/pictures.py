"""Pictures of what a system answers."""

from __future__ import annotations

from delfjax import plots
from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.images import decode_image
from delfjax.datasets.query_images import read_query
from delfjax.evaluation.dataset_protocols import query_names
from delfjax.pipeline.scoring import DatasetScores


def picture_answers(
    benchmark: RetrievalDataset,
    found: DatasetScores,
    name: str,
    *,
    title: str,
    count: int = 5,
    max_side: int = 512,
) -> plots.Plot:
    """A query and the first images that a system ranks for it; the colour of a frame marks a right
    one. The query's own image and junk are left out, as they are when the list is scored.

    Args:
        benchmark: the dataset.
        found: scores of the system.
        name: name of the query.
        title: headline.
        count: images shown.
        max_side: longest side of an image that is read, pixels.

    Raises:
        ImageError: an image cannot be read.
    """
    query = benchmark.queries[query_names(benchmark).index(name)]
    right = {benchmark.database[int(image)] for image in query.answers}
    labelled = {benchmark.database[int(image)] for of in query.sets.values() for image in of}
    ignored = (labelled - right) | {query.path}
    listed = [image for image in found.rankings[name] if image not in ignored][:count]
    results = [
        plots.RankedImage(
            decode_image(benchmark.root / image, max_side=max_side).pixels,
            title=image,
            score="",
            verdict=image in right,
        )
        for image in listed
    ]
    shown = read_query(benchmark, query.number, max_side=max_side)
    return plots.plot_ranked_list(shown.pixels, results, title=title)
