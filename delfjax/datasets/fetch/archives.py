"""The files each dataset is published as: where they lie, how large they are, and where they go.

Addresses are those of the datasets' own pages and download scripts; lists of hundreds of archives
follow their rule. Sizes are approximate: they decide what is asked beforehand, not what is
accepted.

Source: github.com/cvdfoundation/google-landmark (README), github.com/filipradenovic/revisitop
    (download.py), the pages of Oxford5k and Paris6k (robots.ox.ac.uk/~vgg/data), and that of
    Holidays (lear.inrialpes.fr/people/jegou/data.php).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

KB, MB, GB = 1_000, 1_000_000, 1_000_000_000
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".zip")
# Photographs hardly compress: an archive that unpacks to more than this many times its listed size
# is none of theirs.
UNPACKED_RATIO = 4
# What even a small archive may unpack to, bytes: text compresses well.
UNPACKED_FLOOR = 64 << 20

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
_PARIS = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_MILLION = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
_LANDMARKS_V2 = "https://s3.amazonaws.com/google-landmark"
_HOLIDAYS = "ftp://ftp.inrialpes.fr/pub/lear/douze/data"
# Split of Google-Landmarks v2 → how many archives, of about how many bytes each.
_V2_ARCHIVES = {"train": (500, 1 * GB), "index": (100, 850 * MB), "test": (20, 500 * MB)}


@dataclass(frozen=True)
class RemoteFile:
    """One file a dataset is published as.

    Attributes:
        name: its path below ``base``, and below any mirror or local copy.
        base: address of the folder it lies in; ``None`` where it cannot be had over HTTP.
        size: bytes, approximately.
        into: folder under the dataset's own that it is unpacked into, or put into when it is no
            archive.
        checksum: ``md5:…`` or ``sha256:…``; ``None`` where none is known beforehand.
        checksum_name: path below ``base`` of a file with its MD5, as ``md5sum`` writes it; empty
            where there is none.
    """

    name: str
    base: str | None
    size: int
    into: str = ""
    checksum: str | None = None
    checksum_name: str = ""

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked."""
        return self.name.endswith(ARCHIVE_SUFFIXES)

    @property
    def unpacked_limit(self) -> int:
        """What it may unpack to, bytes."""
        return max(UNPACKED_RATIO * self.size, UNPACKED_FLOOR)

    @property
    def placed(self) -> str:
        """Path under the dataset's folder of the file itself, where it is no archive."""
        return (PurePosixPath(self.into) / PurePosixPath(self.name).name).as_posix()


@dataclass(frozen=True)
class FileSet:
    """The files that fill one folder.

    Attributes:
        folder: its name beside the other datasets.
        files: what is published; empty where nothing is.
        remedy: why it cannot simply be fetched, and what to do instead; empty where it can.
    """

    folder: str
    files: tuple[RemoteFile, ...] = ()
    remedy: str = ""


OXFORD_IMAGES = FileSet(
    "oxford5k", (RemoteFile("oxbuild_images-v1.tgz", _OXFORD, 1_938 * MB, "jpg"),)
)
OXFORD_TRUTH = FileSet(
    "oxford5k", (RemoteFile("gt_files_170407.tgz", _OXFORD, 300 * KB, "gt_files_170407"),)
)
PARIS_IMAGES = FileSet(
    "paris6k",
    (
        RemoteFile("paris_1-v1.tgz", _PARIS, 1_270 * MB, "jpg"),
        RemoteFile("paris_2-v1.tgz", _PARIS, 1_300 * MB, "jpg"),
    ),
)
PARIS_TRUTH = FileSet(
    "paris6k", (RemoteFile("paris_120310.tgz", _PARIS, 300 * KB, "paris_120310"),)
)
ROXFORD_TRUTH = FileSet(
    "roxford5k", (RemoteFile("gnd_roxford5k.pkl", f"{_REVISITED}/roxford5k", 1 * MB),)
)
RPARIS_TRUTH = FileSet(
    "rparis6k", (RemoteFile("gnd_rparis6k.pkl", f"{_REVISITED}/rparis6k", 1 * MB),)
)
# The size of the archives is published nowhere: a hundredth of a million photographs, at 150 kB
# each.
MILLION = FileSet(
    "revisitop1m",
    (
        RemoteFile("revisitop1m.txt", _MILLION, 20 * MB),
        *(
            RemoteFile(f"jpg/revisitop1m.{number}.tar.gz", _MILLION, 1_500 * MB, "jpg")
            for number in range(1, 101)
        ),
    ),
)
FLICKR = FileSet(
    "flickr100k",
    remedy=(
        "flickr100k is published as one RAR archive in 40 parts"
        f" ({_OXFORD}/ox100k/oxc1_100k.part01.rar …), which is not unpacked here: unpack it with"
        " unrar into the folder flickr100k"
    ),
)
HOLIDAYS = FileSet(
    "holidays",
    (RemoteFile("jpg1.tar.gz", None, 1_142 * MB), RemoteFile("jpg2.tar.gz", None, 1_701 * MB)),
    remedy=(
        f"it is served over FTP alone, which is not spoken here: get {_HOLIDAYS}/jpg1.tar.gz and"
        " jpg2.tar.gz (curl -C - -O ADDRESS resumes), then say --from and their folder"
    ),
)


def google_landmarks_v2(*splits: str, lists: Sequence[str]) -> FileSet:
    """Archives of the splits ``train``, ``index`` and ``test``, with their MD5 files, and the named
    lists."""
    sizes = {
        "train.csv": 530 * MB,
        "train_clean.csv": 30 * MB,
        "index_image_to_landmark.csv": 20 * MB,
        "index.csv": 13 * MB,
    }
    listed = [
        RemoteFile(
            f"{'ground_truth' if 'solution' in name else 'metadata'}/{name}",
            _LANDMARKS_V2,
            sizes.get(name, 5 * MB),
            "metadata",
        )
        for name in lists
    ]
    archives = [
        RemoteFile(
            f"{split}/images_{number:03d}.tar",
            _LANDMARKS_V2,
            _V2_ARCHIVES[split][1],
            split,
            checksum_name=f"md5sum/{split}/md5.images_{number:03d}.txt",
        )
        for split in splits
        for number in range(_V2_ARCHIVES[split][0])
    ]
    return FileSet("google_landmarks_v2", (*listed, *archives))


def files_of(sets: Iterable[FileSet]) -> tuple[RemoteFile, ...]:
    """All files of some folders."""
    return tuple(file for files in sets for file in files.files)


def describe_size(sets: Iterable[FileSet]) -> str:
    """How much there is to download, in words."""
    files = files_of(sets)
    total = sum(file.size for file in files)
    return f"≈ {total / GB:.3g} GB in {len(files)} files" if files else "unknown"


def describe_checksums(sets: Iterable[FileSet]) -> str:
    """For how many of the files a checksum is known or published, in words."""
    files = files_of(sets)
    known = sum(file.checksum is not None or bool(file.checksum_name) for file in files)
    if not known:
        return "none known"
    rest = "" if known == len(files) else f", none known for the other {len(files) - known}"
    return f"published for {known} of {len(files)} files{rest}"
