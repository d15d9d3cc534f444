"""Folders of photographs, and the ground truth some of them carry in ``groundtruth.json``."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from delfjax.datasets.images import DecodedImage, decode_image
from delfjax.errors import DelfjaxError
from delfjax.files import read_json

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm")
)
GROUNDTRUTH = "groundtruth.json"
# Larger ground truth is refused, bytes; that of a million images has some hundred megabytes.
MAX_GROUNDTRUTH_BYTES = 256 << 20
# Folders that systems keep for themselves, with thumbnails, deleted files and the like: those of
# Synology and QNAP, of Windows, and of macOS and Linux. Their case differs between versions.
SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information"),
        *("__macosx", "network trash folder", "temporary items", "lost+found"),
    )
)
# Names of things left out that are shown.
_SHOWN = 3


class FolderError(DelfjaxError):
    """A folder, or its ground truth, that cannot be used."""


@dataclass(frozen=True)
class PhotoFolder:
    """The images of a folder.

    Attributes:
        root: the folder.
        names: paths of the images under ``root``, with forward slashes, sorted.
        ignored: number of files without the extension of an image.
        endings: extensions of those files, the most frequent first.
        hidden: hidden files and folders, and folders of the system, which are not entered; paths
            under ``root``.
        problems: files and folders that could not be listed, as (path under ``root``, reason).
        scanned: whether ``names`` are all images that were found.
    """

    root: Path
    names: tuple[str, ...]
    ignored: int = 0
    hidden: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    scanned: bool = False
    endings: tuple[str, ...] = ()
    whole = True

    @property
    def left_out(self) -> str:
        """What is not among the images, in words; empty if everything is."""
        hidden, shown = len(self.hidden), _listed(self.hidden)
        endings = f" ({_listed(self.endings)})" if self.endings else ""
        parts = {
            f"{self.ignored} other files{endings}": self.ignored,
            f"{hidden} hidden files and folders or folders of the system ({shown})": hidden,
            f"{len(self.problems)} files or folders that cannot be listed": len(self.problems),
        }
        return " and ".join(words for words, count in parts.items() if count)

    def read(self, name: str, *, max_side: int) -> DecodedImage:
        """Pixels of one image; see :func:`~delfjax.datasets.images.decode_image`."""
        return decode_image(self.root / name, max_side=max_side)

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.root / name

    def is_gone(self, name: str) -> bool:
        """Whether an image that is not among ``names`` has left the folder.

        It has not if it is below a folder that cannot be listed, or below a link to a folder that
        is not there now, such as one on a disk that is not mounted.
        """
        above = [str(parent) for parent in PurePosixPath(name).parents][:-1]
        unlisted = {place for place, _ in self.problems}
        if not unlisted.isdisjoint(above):
            return False
        if any(_is_dangling(self.root / parent) for parent in above):
            return False
        return self.scanned or not os.path.lexists(self.root / name)


@dataclass(frozen=True)
class RetrievalQuery:
    """One query of a folder's ground truth; all indices point into ``imlist``.

    Attributes:
        index: the query image.
        path: its path under the folder.
        landmark: the landmark it shows; scores are averaged over the queries of a landmark first.
        tier: difficulty under which it is reported.
        ok: the positives.
        junk: images ignored in the ranking, among them the query itself.
    """

    index: int
    path: str
    landmark: str
    tier: str
    ok: tuple[int, ...]
    junk: tuple[int, ...]


@dataclass(frozen=True)
class RetrievalGroundtruth:
    """The ground truth of a folder: the paths of the database, and the queries among them."""

    imlist: tuple[str, ...]
    queries: tuple[RetrievalQuery, ...]


def scan_folder(folder: Path) -> PhotoFolder:
    """Find every image under a folder, by extension, leaving out hidden files and folders and
    :data:`SYSTEM_FOLDERS`.

    Symbolic links to folders are followed after all real folders, and no folder is entered twice:
    loops end, and an image is listed by its real path. A dangling link with the extension of an
    image is listed too; reading it fails later with the reason.

    Raises:
        FolderError: ``folder`` itself is missing, unreadable, or not a folder.
    """
    entered: set[tuple[int, int]] = set()
    names: list[str] = []
    problems: list[tuple[str, str]] = []
    hidden: list[str] = []
    endings = Counter[str]()
    real, linked = deque([""]), deque[str]()
    while real or linked:
        place = real.popleft() if real else linked.popleft()
        try:
            entries = _enter(folder / place, entered)
        except OSError as error:
            if not place:
                raise FolderError(
                    f"folder {str(folder)!r} cannot be listed: {error.strerror}"
                ) from None
            problems.append((as_utf8(place), f"folder cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            name = f"{place}/{entry.name}" if place else entry.name
            is_folder = _is_folder(entry)
            if entry.name.startswith(".") or (is_folder and entry.name.lower() in SYSTEM_FOLDERS):
                hidden.append(as_utf8(name))
            elif is_folder:
                (linked if entry.is_symlink() else real).append(name)
            elif (ending := PurePosixPath(entry.name).suffix.lower()) not in EXTENSIONS:
                endings[as_utf8(ending)] += 1
            elif as_utf8(name) != name:
                problems.append((as_utf8(name), "file name is not valid UTF-8"))
            else:
                names.append(name)
    return PhotoFolder(
        folder,
        tuple(sorted(names)),
        endings.total(),
        tuple(sorted(hidden)),
        tuple(sorted(problems)),
        scanned=True,
        endings=tuple(
            ending for ending, _ in sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))
        ),
    )


def load_groundtruth(folder: Path) -> RetrievalGroundtruth:
    """Read and check ``groundtruth.json`` of a folder.

    Its form is ``{"imlist": [path, …], "gnd": [query, …]}`` where a query is
    ``{"query": i, "path": …, "landmark": …, "tier": …, "ok": [i, …], "junk": [i, …]}``; other keys
    are ignored. The images need not exist: extraction records a missing one as a failure. A name in
    another Unicode normalisation than that of its file (macOS decomposes ``é``) becomes the name of
    the file.

    Raises:
        FolderError: the file is missing, is not JSON, or does not have that form; the message names
            the entry and its value.
    """
    path = folder / GROUNDTRUTH
    if path.is_file() and path.stat().st_size > MAX_GROUNDTRUTH_BYTES:
        raise FolderError(
            f"{path}: has {path.stat().st_size} bytes, expected at most {MAX_GROUNDTRUTH_BYTES}"
        )
    content = read_json(path, error=FolderError)
    try:
        _expect(
            isinstance(content, dict), "the top level", content, "an object with 'imlist' and 'gnd'"
        )
        imlist = _as_on_disk(folder, _imlist(_key(content, "imlist", "the top level")))
        entries = _key(content, "gnd", "the top level")
        _expect(
            isinstance(entries, list) and bool(entries),
            "gnd",
            entries,
            "a non-empty list of queries",
        )
        queries = tuple(
            _query(entry, f"gnd[{number}]", imlist) for number, entry in enumerate(entries)
        )
        times = Counter(query.index for query in queries)
        repeated = next((index for index, count in times.items() if count > 1), None)
        _expect(repeated is None, "repeated query in gnd", repeated, "each query once")
    except _MalformedError as error:
        raise FolderError(f"{path}: {error}") from None
    return RetrievalGroundtruth(imlist, queries)


def as_utf8(name: str) -> str:
    """The name of a file, with a question mark for each byte of it that is not valid UTF-8.

    Python stands surrogates for such bytes, which JSON and Arrow cannot hold.
    """
    return name.encode("utf-8", "replace").decode("utf-8")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + ", …" * (len(names) > _SHOWN)


def _enter(folder: Path, entered: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """Entries of a folder, sorted by name; empty if the folder was entered before.

    The folder is added to ``entered``, by device and inode because it may have several names.
    """
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in entered:
        return []
    entered.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)


def _is_dangling(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself cannot be resolved. Listed as a file, it fails later with the reason.
        return False


class _MalformedError(Exception):
    """A malformed part of the ground truth; the public function adds which file."""


def _expect(condition: bool, where: str, value: Any, accepted: str) -> None:
    if not condition:
        shown = repr(value)
        raise _MalformedError(
            f"{where} is {shown if len(shown) <= 80 else shown[:77] + '...'}, expected {accepted}"
        )


def _key(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise _MalformedError(
            f"{where} has no {key!r}; it has: {', '.join(map(repr, entry))[:80] or 'nothing'}"
        )
    return entry[key]


def _imlist(values: Any) -> tuple[str, ...]:
    _expect(
        isinstance(values, list) and bool(values), "imlist", values, "a non-empty list of paths"
    )
    seen: set[str] = set()
    for number, name in enumerate(values):
        where = f"imlist[{number}]"
        _expect(isinstance(name, str) and bool(name), where, name, "a path")
        _expect(
            as_utf8(name) == name and "\0" not in name,
            where,
            name,
            "a path that is valid UTF-8 without a null character",
        )
        pure = PurePosixPath(name)
        inside = not pure.is_absolute() and ".." not in pure.parts and str(pure) == name
        _expect(
            inside,
            where,
            name,
            "a path under the folder, with forward slashes, in its shortest form",
        )
        _expect(name not in seen, where, name, "each path once")
        seen.add(name)
    return tuple(values)


def _as_on_disk(folder: Path, imlist: tuple[str, ...]) -> tuple[str, ...]:
    """The paths, each as the folder spells it, where the two differ in normalisation alone."""
    if all(name.isascii() or os.path.lexists(folder / name) for name in imlist):
        return imlist
    spelled = {_composed(name): name for name in scan_folder(folder).names if not name.isascii()}
    listed = set(imlist)
    found = []
    for name in imlist:
        other = spelled.get(_composed(name), name)
        # Files may differ in normalisation alone, and then each has an entry of its own.
        found.append(name if other in listed else other)
        listed.add(found[-1])
    return tuple(found)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _query(entry: Any, where: str, imlist: tuple[str, ...]) -> RetrievalQuery:
    _expect(isinstance(entry, dict), where, entry, "an object")
    index = _index(_key(entry, "query", where), f"{where}.query", len(imlist))
    texts = {key: _key(entry, key, where) for key in ("path", "landmark", "tier")}
    for key, text in texts.items():
        _expect(isinstance(text, str) and bool(text), f"{where}.{key}", text, "a non-empty string")
        _expect(as_utf8(text) == text, f"{where}.{key}", text, "text that is valid UTF-8")
    _expect(
        _composed(texts["path"]) == _composed(imlist[index]),
        f"{where}.path",
        texts["path"],
        f"imlist[{index}], {imlist[index]!r:.80}",
    )
    ok, junk = (
        _indices(_key(entry, key, where), f"{where}.{key}", len(imlist)) for key in ("ok", "junk")
    )
    _expect(bool(ok), f"{where}.ok", list(ok), "at least one positive")
    both = sorted(set(ok).intersection(junk))
    _expect(not both, f"{where}: overlap of ok and junk", both, "no image in both")
    _expect(
        index in junk, f"{where}.junk", list(junk), f"the query itself ({index}) among the junk"
    )
    return RetrievalQuery(
        index=index,
        path=imlist[index],
        landmark=texts["landmark"],
        tier=texts["tier"],
        ok=ok,
        junk=junk,
    )


def _indices(values: Any, where: str, count: int) -> tuple[int, ...]:
    _expect(isinstance(values, list), where, values, "a list of indices")
    indices = tuple(
        _index(value, f"{where}[{number}]", count) for number, value in enumerate(values)
    )
    _expect(len(set(indices)) == len(indices), where, values, "each index once")
    return indices


def _index(value: Any, where: str, count: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _expect(whole and 0 <= value < count, where, value, f"an index into imlist, 0 to {count - 1}")
    return int(value)
