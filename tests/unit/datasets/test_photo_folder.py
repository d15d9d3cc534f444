"""Listing a folder of photographs, and reading its ground truth."""

from __future__ import annotations

import codecs
import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delfjax.datasets import photo_folder
from delfjax.datasets.photo_folder import (
    FolderError,
    RetrievalQuery,
    load_groundtruth,
    scan_folder,
)


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_images_are_listed_by_extension_sorted_with_forward_slashes(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "b.jpg",
        "a/z.PNG",
        "a/deep/er/y.tiff",
        "C.JPeG",
        "w.webp",
        "n.gif",
        "p.ppm",
        "q.bmp",
    )
    _touch(tmp_path, "notes.txt", "a/film.mp4", "raw.heic", "jpg")
    listed = scan_folder(tmp_path)
    assert listed.names == (
        "C.JPeG",
        "a/deep/er/y.tiff",
        "a/z.PNG",
        "b.jpg",
        "n.gif",
        "p.ppm",
        "q.bmp",
        "w.webp",
    )
    assert listed.ignored == 4


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, ".a.jpg", ".cache/b.jpg", "c.jpg", "d/._c.jpg", "e.txt")
    listed = scan_folder(tmp_path)
    assert listed.names == ("c.jpg",)
    assert (listed.ignored, listed.hidden) == (1, (".a.jpg", ".cache", "d/._c.jpg"))


@pytest.mark.parametrize(
    "folder",
    [
        *("@eaDir", "trip/@eaDir/c.jpg", "#recycle", "@Recycle", "$RECYCLE.BIN", "$Recycle.Bin"),
        *("System Volume Information", "__MACOSX/trip", "lost+found", ".thumbnails"),
    ],
)
def test_folders_that_systems_keep_are_left_out_and_counted(tmp_path: Path, folder: str) -> None:
    _touch(tmp_path, f"{folder}/SYNOPHOTO_THUMB_M.jpg", "trip/c.jpg", "@home/#1/$.jpg")
    listed = scan_folder(tmp_path)
    assert listed.names == ("@home/#1/$.jpg", "trip/c.jpg")
    assert listed.hidden == (folder.removesuffix("/c.jpg").removesuffix("/trip"),)
    assert repr(listed.hidden[0]) in listed.left_out


def test_what_is_left_out_is_told_in_words(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg")
    assert scan_folder(tmp_path).left_out == ""
    _touch(tmp_path, "a.txt", "b.mp4", *(f".{number}.jpg" for number in range(4)))
    assert scan_folder(tmp_path).left_out == (
        "2 other files ('.mp4', '.txt') and 4 hidden files and folders or folders of the system"
        " ('.0.jpg', '.1.jpg', '.2.jpg', …)"
    )


def test_photos_of_formats_that_are_not_read_are_told_by_their_frequent_endings(
    tmp_path: Path,
) -> None:
    _touch(tmp_path, "1.NEF", "2.nef", "3.avif", "trip/4.nef", "a.xmp", "README", "5.avif")
    listed = scan_folder(tmp_path)
    assert listed.ignored == 7 and listed.endings == (".nef", ".avif", "", ".xmp")
    assert listed.left_out == "7 other files ('.nef', '.avif', '', …)"


def test_unicode_names_are_kept(tmp_path: Path) -> None:
    names = [
        "Zürich/Grossmünster.jpg",
        "東京/タワー.png",
        "emoji 🗼.jpg",
        "with space & 'quote'.jpg",
    ]
    _touch(tmp_path, *names)
    assert list(scan_folder(tmp_path).names) == sorted(names)


def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    _touch(tmp_path, "good.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg")).write_bytes(b"x")
    listed = scan_folder(tmp_path)
    assert listed.names == ("good.jpg",)
    assert listed.problems == (("bad?.jpg", "file name is not valid UTF-8"),)


def test_a_loop_of_links_ends_and_images_are_listed_by_their_real_path(tmp_path: Path) -> None:
    _touch(tmp_path, "z/photo.jpg", "z/deep/photo.jpg")
    (tmp_path / "z/deep/up").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "itself").symlink_to("itself")
    assert list(scan_folder(tmp_path).names) == ["z/deep/photo.jpg", "z/photo.jpg"]


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/photo.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere")
    assert list(scan_folder(tmp_path / "photos").names) == ["link/photo.jpg"]


def test_a_dangling_link_is_listed_so_that_it_fails_by_name(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    assert list(scan_folder(tmp_path).names) == ["gone.jpg"]


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder with an unreadable subfolder, as an ordinary user: root can read anything."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "closed").mkdir()
        _touch(Path(name), "closed/unseen.jpg", "seen.jpg")
        os.chmod(Path(name) / "closed", 0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)
            os.chmod(Path(name) / "closed", 0o700)


def test_an_unreadable_subfolder_is_reported_and_the_rest_listed(unprivileged_folder: Path) -> None:
    listed = scan_folder(unprivileged_folder)
    assert listed.names == ("seen.jpg",)
    assert listed.problems == (("closed", "folder cannot be listed: Permission denied"),)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_path_that_is_not_a_folder_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photos"
    if kind == "file":
        path.write_bytes(b"x")
    with pytest.raises(FolderError, match=re.escape(str(path))):
        scan_folder(path)


def _query(**changes: Any) -> dict[str, Any]:
    query = {
        "query": 2,
        "path": "c.jpg",
        "landmark": "tower",
        "tier": "photo",
        "ok": [0],
        "junk": [2],
    }
    return {key: value for key, value in {**query, **changes}.items() if value is not None}


def _write(folder: Path, content: Any) -> None:
    (folder / "groundtruth.json").write_text(json.dumps(content), encoding="utf-8")


_IMLIST = ["a.jpg", "ü/b.jpg", "c.jpg"]


def test_a_valid_ground_truth_is_read_even_if_no_image_exists(tmp_path: Path) -> None:
    _write(tmp_path, {"imlist": _IMLIST, "gnd": [_query(ok=[0, 1], note="extra keys do no harm")]})
    groundtruth = load_groundtruth(tmp_path)
    assert groundtruth.imlist == tuple(_IMLIST)
    assert groundtruth.queries == (RetrievalQuery(2, "c.jpg", "tower", "photo", (0, 1), (2,)),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the top level is [], expected an object"),
        ({"gnd": []}, "the top level has no 'imlist'; it has: 'gnd'"),
        ({"imlist": _IMLIST}, "the top level has no 'gnd'"),
        ({"imlist": [], "gnd": []}, "imlist is [], expected a non-empty list"),
        ({"imlist": [3], "gnd": []}, "imlist[0] is 3, expected a path"),
        ({"imlist": ["/etc/a.jpg"], "gnd": []}, "imlist[0] is '/etc/a.jpg'"),
        ({"imlist": ["x/../../a.jpg"], "gnd": []}, "imlist[0] is 'x/../../a.jpg'"),
        (
            {"imlist": ["a.jpg", "a.jpg"], "gnd": []},
            "imlist[1] is 'a.jpg', expected each path once",
        ),
        ({"imlist": _IMLIST, "gnd": []}, "gnd is [], expected a non-empty list of queries"),
        ({"imlist": _IMLIST, "gnd": ["c.jpg"]}, "gnd[0] is 'c.jpg', expected an object"),
        ({"imlist": _IMLIST, "gnd": [_query(tier=None)]}, "gnd[0] has no 'tier'"),
        ({"imlist": _IMLIST, "gnd": [_query(landmark="")]}, "gnd[0].landmark is ''"),
        (
            {"imlist": _IMLIST, "gnd": [_query(query=3)]},
            "gnd[0].query is 3, expected an index into imlist, 0 to 2",
        ),
        ({"imlist": _IMLIST, "gnd": [_query(query=True)]}, "gnd[0].query is True"),
        (
            {"imlist": _IMLIST, "gnd": [_query(path="a.jpg")]},
            "gnd[0].path is 'a.jpg', expected imlist[2], 'c.jpg'",
        ),
        ({"imlist": _IMLIST, "gnd": [_query(ok=[0, -1])]}, "gnd[0].ok[1] is -1"),
        (
            {"imlist": _IMLIST, "gnd": [_query(ok=[0, 0])]},
            "gnd[0].ok is [0, 0], expected each index once",
        ),
        (
            {"imlist": _IMLIST, "gnd": [_query(ok=[])]},
            "gnd[0].ok is [], expected at least one positive",
        ),
        (
            {"imlist": _IMLIST, "gnd": [_query(junk="2")]},
            "gnd[0].junk is '2', expected a list of indices",
        ),
        (
            {"imlist": _IMLIST, "gnd": [_query(junk=[0, 2])]},
            "gnd[0]: overlap of ok and junk is [0], expected no image in both",
        ),
        (
            {"imlist": _IMLIST, "gnd": [_query(junk=[1])]},
            "gnd[0].junk is [1], expected the query itself (2)",
        ),
        (
            {"imlist": _IMLIST, "gnd": [_query(), _query()]},
            "repeated query in gnd is 2, expected each query once",
        ),
    ],
)
def test_a_malformed_ground_truth_is_refused_in_one_line(
    tmp_path: Path, content: Any, message: str
) -> None:
    _write(tmp_path, content)
    with pytest.raises(
        FolderError, match=re.escape(f"{tmp_path / 'groundtruth.json'}: {message}")
    ) as caught:
        load_groundtruth(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE], ids=["UTF-8", "UTF-16"])
def test_a_ground_truth_may_begin_with_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    encoding = "utf-8" if mark == codecs.BOM_UTF8 else "utf-16-le"
    text = json.dumps({"imlist": _IMLIST, "gnd": [_query()]}, ensure_ascii=False)
    (tmp_path / "groundtruth.json").write_bytes(mark + text.encode(encoding))
    assert load_groundtruth(tmp_path).imlist == tuple(_IMLIST)


@pytest.mark.parametrize("key", ["landmark", "tier"])
def test_half_a_character_is_refused_by_name(tmp_path: Path, key: str) -> None:
    _write(tmp_path, {"imlist": _IMLIST, "gnd": [_query(**{key: "tower \udc80"})]})
    with pytest.raises(FolderError, match=re.escape(f"gnd[0].{key} is 'tower \\udc80'")):
        load_groundtruth(tmp_path)


@pytest.mark.parametrize(("form", "other"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_normalisation_are_those_of_the_files(
    tmp_path: Path, form: Any, other: Any
) -> None:
    names = ["Ångström/é.jpg", "plain.jpg", "ガ.png"]
    _touch(tmp_path, *(unicodedata.normalize(form, name) for name in names))
    listed = [unicodedata.normalize(other, name) for name in [*names, "gone é.jpg"]]
    query = _query(path=unicodedata.normalize(form, names[2]))
    _write(tmp_path, {"imlist": listed, "gnd": [query]})
    groundtruth = load_groundtruth(tmp_path)
    on_disk = [unicodedata.normalize(form, name) for name in names]
    assert groundtruth.imlist == (*on_disk, listed[3])
    assert groundtruth.queries[0].path == on_disk[2]


def test_files_that_differ_in_normalisation_alone_stay_apart(tmp_path: Path) -> None:
    both = [unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")]
    _touch(tmp_path, both[1])
    _write(tmp_path, {"imlist": [*both, "c.jpg"], "gnd": [_query()]})
    assert load_groundtruth(tmp_path).imlist == (*both, "c.jpg")


@pytest.mark.slow
def test_a_ground_truth_of_many_queries_is_read_in_linear_time(tmp_path: Path) -> None:
    """One or two seconds of processor time; comparing all queries with each other took fifteen.

    It is read in a process without checks of types, which take longer than the reading.
    """
    count = 40_000
    names = [f"{number}.jpg" for number in range(count)]
    queries = [
        _query(query=number, path=name, landmark=name, ok=[(number + 1) % count], junk=[number])
        for number, name in enumerate(names)
    ]
    _write(tmp_path, {"imlist": names, "gnd": queries})
    _touch(tmp_path, "0.jpg")
    script = (
        "import sys, time; from pathlib import Path\n"
        "from delfjax.datasets.folder_benchmark import load_folder\n"
        "started = time.process_time(); dataset = load_folder(Path(sys.argv[1]))\n"
        "print(len(dataset.queries), time.process_time() - started)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    read, seconds = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(read) == count and float(seconds) < 6


def test_a_ground_truth_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_folder, "MAX_GROUNDTRUTH_BYTES", 40)
    _write(tmp_path, {"imlist": _IMLIST, "gnd": [_query()]})
    with pytest.raises(FolderError, match="bytes, expected at most 40"):
        load_groundtruth(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_ground_truth_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "groundtruth.json").write_bytes(content)
    with pytest.raises(FolderError, match="not JSON"):
        load_groundtruth(tmp_path)


def test_a_folder_without_ground_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="No such file"):
        load_groundtruth(tmp_path)
