"""How the photos on disk differ from what a store holds of them.

A photo is identified by the digest of its file. So a photo whose file changed is extracted again, a
failure is tried again when its file has healed, and a photo with another name keeps its features.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from delfjax.datasets.image_source import ImageSource
from delfjax.datasets.images import file_digest
from delfjax.datasets.photo_folder import FolderError, scan_folder
from delfjax.errors import DelfjaxWarning
from delfjax.features.store import FeatureStore, StoreError

# Files checked between two updates of the progress bar.
_CHECKED_TOGETHER = 4096


@dataclass(frozen=True)
class FolderChanges:
    """What an extraction has to record besides extracting the images that are new.

    Attributes:
        again: images to extract again: their file has changed, or it failed and has healed since.
        known: image → digest of its file, for images whose features the store holds under another
            name.
        gone: images of the store whose file was deleted or renamed.
    """

    again: Sequence[str] = ()
    known: dict[str, str] = field(default_factory=dict)
    gone: Sequence[str] = ()


def find_changes(
    store: FeatureStore,
    photos: ImageSource,
    *,
    readers: Executor,
    retry_failed: bool = False,
    progress: bool = False,
) -> FolderChanges:
    """Compare the files of ``photos`` with what ``store`` holds.

    A file that cannot be read has not changed.

    Args:
        store: what was extracted so far.
        photos: the images to extract.
        readers: threads that read the files.
        retry_failed: extract images with a recorded failure again, whether or not their file has
            changed.
        progress: show a progress bar if this takes long.

    Raises:
        StoreError: the store holds the images of another folder, or none of its images is left.
    """
    earlier = _earlier_folder(store, photos)
    digests = _digests(store, photos, readers=readers, progress=progress)
    if earlier:
        _require_moved(store, photos.root, earlier, digests)
    failures = store.failures()
    changed = [
        name
        for name, digest in digests.items()
        if (name in store and digest not in ("", store.content_hash(name)))
        or (name in failures and (retry_failed or digest != store.failed_hash(name)))
    ]
    unknown = [name for name in digests if name not in store and name not in failures]
    known = {
        name: digests[name]
        for name in (*changed, *unknown)
        if photos.whole and store.holds_content(digests[name])
    }
    unlisted = (store.done() | frozenset(store.pending())) - frozenset(photos.names)
    gone = [name for name in sorted(unlisted) if photos.is_gone(name)]
    emptied = len(store) > 0 and not known and frozenset(store.names) <= frozenset(gone)
    # A list of photos may change as a whole: it uses its part of a store alone.
    if photos.scanned and emptied:
        raise StoreError(
            f"{store.path}: none of its {len(store)} photos is left in {photos.root}; mount the"
            " disk that they are on, or name another store"
        )
    return FolderChanges([name for name in changed if name not in known], known, gone)


def warn_unfinished(store: FeatureStore) -> None:
    """Warn of photos in the folder of a store that have no features, and of those that have left
    the folder: whoever uses the store does so without them, or with them."""
    source = store.source
    pending, gone = set(store.pending()), 0
    command = "delfjax extract"
    if source is not None and source.scanned:
        command = shlex.join(["delfjax", "extract", source.root, "--store", str(store.path)])
        # A store can be used without its photos: then only its own plans tell what is missing.
        with suppress(FolderError):
            photos = scan_folder(Path(source.root))
            listed = frozenset(photos.names)
            listed = listed if store.wanted is None else listed & store.wanted
            pending = (pending | (listed - store.done())) & listed
            gone = sum(photos.is_gone(name) for name in store.names if name not in listed)
    said = []
    if pending:
        total = len(pending | frozenset(store.names))
        said.append(f"{len(pending):,} of {total:,} photos are not extracted yet")
    if gone:
        said.append(f"{gone:,} of its {len(store):,} photos have left the folder")
    if said:
        warnings.warn(
            f"{store.path}: {', and '.join(said)}; run `{command}` again with its settings",
            DelfjaxWarning,
            stacklevel=3,
        )


def _digests(
    store: FeatureStore, photos: ImageSource, *, readers: Executor, progress: bool
) -> dict[str, str]:
    """Digest of the file of each image that the store may know, by its name or by its content."""
    done, pending = store.done(), frozenset(store.pending())
    names = [
        name
        for name in photos.names
        if name in done or (done and photos.whole and name not in pending)
    ]
    found: dict[str, str] = {}
    # Hashing is fast, so the bar appears for large folders only.
    with tqdm(total=len(names), desc="check", unit="image", delay=2, disable=not progress) as bar:
        for at in range(0, len(names), _CHECKED_TOGETHER):
            part = names[at : at + _CHECKED_TOGETHER]
            digests = readers.map(file_digest, map(photos.path, part))
            found.update(zip(part, digests, strict=True))
            bar.update(len(part))
    return found


def _earlier_folder(store: FeatureStore, photos: ImageSource) -> str:
    """The folder that the images of a store were in and are in no longer; empty if it is that of
    ``photos``."""
    source = store.source
    if source is None or not len(store) or _are_same(Path(source.root), photos.root):
        return ""
    if any(os.path.lexists(Path(source.root, name)) for name in store.names):
        raise StoreError(
            f"{store.path}: holds the photos of {source.root}, not those of {photos.root}; name"
            " another store for this folder"
        )
    return source.root


def _require_moved(store: FeatureStore, root: Path, earlier: str, digests: dict[str, str]) -> None:
    same = sum(digests.get(name) == store.content_hash(name) for name in store.names)
    if 2 * same < len(store):
        raise StoreError(
            f"{store.path}: holds the photos of {earlier}, which are no longer there, but only"
            f" {same} of these {len(store)} are in {root}; name another store for this folder"
        )


def _are_same(one: Path, other: Path) -> bool:
    try:
        return one == other.resolve() or one.samefile(other)
    except OSError:
        return False
