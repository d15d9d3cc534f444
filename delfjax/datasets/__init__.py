"""Images and benchmarks: everything between files on a disk and pixels with their ground truth.

- :mod:`~delfjax.datasets.catalogue`: every dataset by name; start here to open one.
- :mod:`~delfjax.datasets.benchmark`, :mod:`~delfjax.datasets.columns`,
  :mod:`~delfjax.datasets.query_images`: the one shape all of them have.
- :mod:`~delfjax.datasets.images`: decoding of image files.
- :mod:`~delfjax.datasets.photo_folder`, :mod:`~delfjax.datasets.folder_benchmark`: anybody's folder
  of photographs, and the same as a benchmark.
- :mod:`~delfjax.datasets.skimage_photos`, :mod:`~delfjax.datasets.world_benchmark`: photographs
  that need no download, embedded or rendered.
- :mod:`~delfjax.datasets.published`: readers of the published benchmarks;
  :mod:`~delfjax.datasets.fetch` downloads them, :mod:`~delfjax.datasets.checking` verifies a copy.
- :mod:`~delfjax.datasets.geography`: distances and clusters of positions on the globe.

``__init__.pyi`` lists the names that notebooks import from here; each is loaded when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
