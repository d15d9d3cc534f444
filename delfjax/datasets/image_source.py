"""Images to extract: files of a folder, or parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from delfjax.datasets.images import DecodedImage


@runtime_checkable
class ImageSource(Protocol):
    """Images by name, such as those of a :class:`~delfjax.datasets.photo_folder.PhotoFolder`."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the images in the store."""

    @property
    def root(self) -> Path:
        """Folder of the files."""

    @property
    def scanned(self) -> bool:
        """Whether ``names`` are all images that were found under ``root``."""

    @property
    def whole(self) -> bool:
        """Whether each image is a whole file, so that equal files have equal features."""

    def path(self, name: str) -> Path:
        """The file that an image is read from."""

    def is_gone(self, name: str) -> bool:
        """Whether an image that is not among ``names`` has left the folder."""

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """Pixels of one image, reduced to a longest side of at most ``max_side`` pixels.

        Raises:
            ImageError: the image cannot be read or decoded.
        """
