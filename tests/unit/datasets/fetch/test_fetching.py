"""Whole datasets, fetched in their published archives from a server or a folder, and opened."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import resource
import shutil
import signal
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from delfjax.datasets.benchmark import RetrievalDataset
from delfjax.datasets.catalogue import CATALOGUE, DatasetEntry, open_dataset
from delfjax.datasets.checking import verify_dataset
from delfjax.datasets.fetch import archives, downloading, fetching
from delfjax.datasets.fetch.archives import FileSet, RemoteFile, describe_checksums, files_of
from delfjax.datasets.fetch.downloading import FetchError, Patience
from delfjax.datasets.fetch.fetching import FetchPlan, FetchReport, fetch, plan_fetch
from tests.unit.datasets import miniatures
from tests.unit.datasets.fetch.file_server import Fault, FileServer, Served, serving

QUICK = Patience(timeout_s=5.0, attempts=2, backoff_s=0.001, block_bytes=4096)
Files = dict[str, bytes]


def tarred(members: Files, *, gzipped: bool) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    # Without the time of day: parallel workers have to collect the same tests.
    return gzip.compress(out.getvalue(), mtime=0) if gzipped else out.getvalue()


def contents(root: Path) -> Files:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def parts(members: Files, count: int, *, gzipped: bool) -> list[bytes]:
    """Archives that divide the members; one without any holds a file that is in no list."""
    names = sorted(members)
    shares = [{name: members[name] for name in names[start::count]} for start in range(count)]
    return [
        tarred(share or {f"spare/{number:03d}.txt": b"x"}, gzipped=gzipped)
        for number, share in enumerate(shares)
    ]


def oxford5k(root: Path) -> Files:
    miniatures.oxford5k(root)
    files = contents(root)
    images = {name: data for name, data in files.items() if name.endswith(".jpg")}
    texts = {Path(name).name: data for name, data in files.items() if name.endswith(".txt")}
    return {
        "oxbuild_images-v1.tgz": tarred(images, gzipped=True),
        "gt_files_170407.tgz": tarred(texts, gzipped=True),
    }


def paris6k(root: Path) -> Files:
    miniatures.paris6k(root)
    files = contents(root)
    first, second = parts(
        {name: data for name, data in files.items() if name.endswith(".jpg")}, 2, gzipped=True
    )
    texts = {Path(name).name: data for name, data in files.items() if name.endswith(".txt")}
    return {
        "paris_1-v1.tgz": first,
        "paris_2-v1.tgz": second,
        "paris_120310.tgz": tarred(texts, gzipped=True),
    }


def roxford5k(root: Path) -> Files:
    miniatures.roxford5k(root)
    files = contents(root)
    images = {Path(name).name: data for name, data in files.items() if name.endswith(".jpg")}
    return {
        "oxbuild_images-v1.tgz": tarred(images, gzipped=True),
        "gnd_roxford5k.pkl": files["gnd_roxford5k.pkl"],
    }


def roxford5k_r1m(root: Path) -> Files:
    miniatures.revisitop1m(root / "million")
    files = contents(root / "million")
    images = {
        name.removeprefix("jpg/"): data for name, data in files.items() if name.endswith(".jpg")
    }
    million = {
        f"jpg/revisitop1m.{number + 1}.tar.gz": part
        for number, part in enumerate(parts(images, 100, gzipped=True))
    }
    return {**roxford5k(root / "classic"), **million, "revisitop1m.txt": files["revisitop1m.txt"]}


def holidays(root: Path) -> Files:
    miniatures.holidays(root)
    first, second = parts(contents(root), 2, gzipped=True)
    return {"jpg1.tar.gz": first, "jpg2.tar.gz": second}


def google_landmarks_v2(root: Path) -> Files:
    """Index and test set: 120 archives, each with its MD5 beside it."""
    miniatures.google_landmarks_v2(root)
    files = contents(root)
    lists = {Path(name).name: data for name, data in files.items() if name.endswith(".csv")}
    made = {
        f"{'ground_truth' if 'solution' in name else 'metadata'}/{name}": data
        for name, data in lists.items()
    }
    for split, count in (("index", 100), ("test", 20)):
        own = {
            name: data
            for name, data in files.items()
            if name.startswith(split) and name.endswith(".jpg")
        }
        images = {name.removeprefix(f"{split}/"): data for name, data in own.items()}
        for number, part in enumerate(parts(images, count, gzipped=False)):
            made[f"{split}/images_{number:03d}.tar"] = part
            said = f"{hashlib.md5(part).hexdigest()}  images_{number:03d}.tar\n"
            made[f"md5sum/{split}/md5.images_{number:03d}.txt"] = said.encode()
    return made


PUBLISHED: dict[str, Callable[[Path], Files]] = {
    "oxford5k": oxford5k,
    "paris6k": paris6k,
    "roxford5k": roxford5k,
    "roxford5k_r1m": roxford5k_r1m,
    "holidays": holidays,
    "google_landmarks_v2": google_landmarks_v2,
}


def same(one: RetrievalDataset, other: RetrievalDataset) -> bool:
    """Whether two copies hold the same images and queries, in any folders."""
    names = [
        [Path(path).name for path in (*dataset.database, *dataset.queries.paths)]
        for dataset in (one, other)
    ]
    found = [
        {label: members.indices.tolist() for label, members in dataset.queries.sets.items()}
        for dataset in (one, other)
    ]
    return names[0] == names[1] and found[0] == found[1] and not verify_dataset(one, {}).problems


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_dataset_fetched_from_a_mirror_opens_and_is_complete(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name](tmp_path / "made")
    root = tmp_path / "copy" if name in miniatures.COMPOSITE else tmp_path / "copy" / name
    with serving(dict(published)) as server:
        plan = plan_fetch(name, root, source=f"{server.url}/", patience=QUICK)
        # Sizes are those of the mirror's files, not those of the real ones in the catalogue.
        checksums = {file for file in published if file.startswith("md5sum/")}
        assert plan.size == sum(
            len(data)
            for file, data in published.items()
            if file in {p.file.name for p in plan.files}
        )
        report = fetch(plan, patience=QUICK)
        asked = len(server.asked)
        assert report == FetchReport(len(plan.files), 0, (), 0, len(plan.files) - len(checksums))
        again = fetch(plan_fetch(name, root, source=server.url, patience=QUICK), patience=QUICK)
        assert again == FetchReport(0, len(plan.files), (), 0, 0) and len(server.asked) == asked
    assert same(
        open_dataset(name, root), open_dataset(name, miniatures.write(name, tmp_path / "plain"))
    )
    # No archives or parts are left.
    assert {path.suffix for path in (tmp_path / "copy").rglob(".fetch/**/*") if path.is_file()} <= {
        ".done",
        "",
    }


@pytest.mark.parametrize("name", ["oxford5k", "roxford5k", "holidays"])
def test_a_dataset_taken_from_a_folder_leaves_the_folder_as_it_is(
    name: str, tmp_path: Path
) -> None:
    copy = tmp_path / "archives"
    for file, data in PUBLISHED[name](tmp_path / "made").items():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes(data)
    before = contents(copy)
    report = fetch(plan_fetch(name, tmp_path / "copy" / name, source=str(copy)), patience=QUICK)
    assert (report.done, report.failed) == (len(before), ()) and contents(copy) == before
    assert same(
        open_dataset(name, tmp_path / "copy" / name),
        open_dataset(name, miniatures.write(name, tmp_path / "plain")),
    )


def test_images_of_the_classic_dataset_are_fetched_once_for_both(tmp_path: Path) -> None:
    published = oxford5k(tmp_path / "a") | roxford5k(tmp_path / "b")
    with serving(dict(published)) as server:
        fetch(
            plan_fetch("roxford5k", tmp_path / "x" / "roxford5k", source=server.url), patience=QUICK
        )
        plan = plan_fetch("oxford5k", tmp_path / "x" / "oxford5k", source=server.url)
    assert [planned.file.name for planned in plan.missing] == ["gt_files_170407.tgz"]


def entry(*files: RemoteFile) -> DatasetEntry:
    known = CATALOGUE["holidays"]
    return DatasetEntry(
        "test",
        known.load,
        ("test",),
        "here",
        "here",
        "none",
        "small",
        {},
        (FileSet("test", files, "" if files else "by hand"),),
    )


@pytest.fixture
def plan_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FetchPlan]:
    """Plans the fetching of some files, published at a server, into one folder."""

    def plan(server: FileServer, *files: RemoteFile) -> FetchPlan:
        published = tuple(
            RemoteFile(f.name, server.url, f.size, f.into, f.checksum, f.checksum_name)
            for f in files
        )
        monkeypatch.setitem(CATALOGUE, "test", entry(*published))  # type: ignore[arg-type]  # a dictionary is what it is
        return plan_fetch("test", tmp_path / "root")

    return plan


Plan = Callable[..., FetchPlan]
IMAGES = tarred({"100000.jpg": b"one", "100001.jpg": b"two"}, gzipped=True)
A = RemoteFile("a.tgz", None, 1000, "jpg")
B = RemoteFile("lists/b.csv", None, 1000, "metadata")


def files_in(root: Path) -> set[str]:
    return {
        name
        for name in contents(root)
        if not name.startswith(".fetch/") or not name.endswith((".done", "/lock"))
    }


def test_kept_archives_serve_a_second_time(tmp_path: Path, plan_of: Plan) -> None:
    with serving({"a.tgz": IMAGES, "lists/b.csv": b"id\n"}) as server:
        assert fetch(plan_of(server, A, B), keep_archives=True, patience=QUICK).done == 2
        assert files_in(tmp_path / "root") == {
            ".fetch/a.tgz",
            "jpg/100000.jpg",
            "jpg/100001.jpg",
            "metadata/b.csv",
        }
        shutil.rmtree(tmp_path / "root" / "jpg")
        assert fetch(plan_of(server, A, B), patience=QUICK).done == 1
        assert server.ranges("a.tgz") == [""]
    assert files_in(tmp_path / "root") == {"jpg/100000.jpg", "jpg/100001.jpg", "metadata/b.csv"}


def test_archives_that_were_kept_stay_when_the_next_run_has_nothing_to_do(
    tmp_path: Path, plan_of: Plan
) -> None:
    with serving({"a.tgz": IMAGES}) as server:
        fetch(plan_of(server, A), keep_archives=True, patience=QUICK)
        assert fetch(plan_of(server, A), patience=QUICK).skipped == 1
    assert ".fetch/a.tgz" in files_in(tmp_path / "root")


def test_a_half_made_copy_from_a_folder_is_not_taken_for_a_download(
    tmp_path: Path, plan_of: Plan
) -> None:
    """A copy killed by a limit on file sizes, as by a kill in the middle of it."""
    whole, copy, root = os.urandom(40_000), tmp_path / "copy" / "lists", tmp_path / "root"
    copy.mkdir(parents=True)
    (copy / "b.csv").write_bytes(whole)
    with serving({"lists/b.csv": whole}) as server:
        plan = plan_of(server, B)
        local = dataclasses.replace(plan.files[0], origin=copy / "b.csv")
        with warnings.catch_warnings():
            # The child uses nothing of what JAX may have started in another test.
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            fetch(dataclasses.replace(plan, files=(local,)), patience=QUICK)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGXFSZ
        assert fetch(plan_of(server, B), patience=QUICK).done == 1
    assert (root / "metadata" / "b.csv").read_bytes() == whole
    assert files_in(root) == {"metadata/b.csv"}


@pytest.mark.parametrize("kept", ["one of its files", "the folder alone"])
def test_an_archive_whose_files_were_deleted_is_fetched_again(
    tmp_path: Path, plan_of: Plan, kept: str
) -> None:
    with serving({"a.tgz": IMAGES}) as server:
        fetch(plan_of(server, A), patience=QUICK)
        (tmp_path / "root" / "jpg" / "100001.jpg").unlink()
        if kept == "the folder alone":
            (tmp_path / "root" / "jpg" / "100000.jpg").unlink()
        assert fetch(plan_of(server, A), patience=QUICK).done == 1
    assert files_in(tmp_path / "root") == {"jpg/100000.jpg", "jpg/100001.jpg"}


def test_of_two_archives_with_one_folder_neither_counts_as_complete_by_the_other(
    tmp_path: Path, plan_of: Plan
) -> None:
    """The folder of both was deleted, and the next run was killed after the first."""
    other = RemoteFile("c.tgz", None, 1000, "jpg")
    second = tarred({"200000.jpg": b"three"}, gzipped=True)
    with serving({"a.tgz": IMAGES, "c.tgz": second}) as server:
        fetch(plan_of(server, A, other), patience=QUICK)
        shutil.rmtree(tmp_path / "root" / "jpg")
        server.files["c.tgz"].faults = [Fault(404)]
        assert fetch(plan_of(server, A, other), patience=QUICK).failed
        assert fetch(plan_of(server, A, other), patience=QUICK).done == 1
    assert (tmp_path / "root" / "jpg" / "200000.jpg").read_bytes() == b"three"


def test_what_a_download_began_is_deleted_once_the_file_came_from_elsewhere(
    tmp_path: Path, plan_of: Plan
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.tgz").write_bytes(IMAGES)
    with serving({"a.tgz": Served(IMAGES, faults=[Fault(cut=40), Fault(503, times=9)])}) as server:
        plan = plan_of(server, A)
        assert fetch(plan, patience=QUICK).failed
    assert ".fetch/a.tgz.part" in files_in(tmp_path / "root")
    local = dataclasses.replace(plan.files[0], origin=copy / "a.tgz")
    assert fetch(dataclasses.replace(plan, files=(local,)), patience=QUICK).done == 1
    assert files_in(tmp_path / "root") == {"jpg/100000.jpg", "jpg/100001.jpg"}


def test_a_server_that_sends_more_than_the_file_may_have_is_refused(
    tmp_path: Path, plan_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "DOWNLOADED_FLOOR", 5_000)
    with serving({"lists/b.csv": Served(bytes(9_000_000), announced=False)}) as server:
        ((name, reason),) = fetch(plan_of(server, B), patience=QUICK).failed
    assert name == "lists/b.csv" and "or more, expected at most 5 kB" in reason
    assert not files_in(tmp_path / "root")


def test_a_list_that_was_truncated_later_is_fetched_again(tmp_path: Path, plan_of: Plan) -> None:
    with serving({"lists/b.csv": b"id\n1\n"}) as server:
        fetch(plan_of(server, B), patience=QUICK)
        (tmp_path / "root" / "metadata" / "b.csv").write_bytes(b"id\n")
        assert fetch(plan_of(server, B), patience=QUICK).done == 1
    assert (tmp_path / "root" / "metadata" / "b.csv").read_bytes() == b"id\n1\n"


def test_a_wrong_checksum_deletes_the_file_and_the_others_are_fetched(
    tmp_path: Path, plan_of: Plan
) -> None:
    wrong = RemoteFile("a.tgz", None, 1000, "jpg", checksum=f"sha256:{'0' * 64}")
    with serving({"a.tgz": IMAGES, "lists/b.csv": b"id\n"}) as server:
        report = fetch(plan_of(server, wrong, B), patience=QUICK)
        said = (
            f"{server.url}/a.tgz: sha256 is {hashlib.sha256(IMAGES).hexdigest()}, expected"
            f" {'0' * 64}"
        )
    assert report.done == 1 and len(report.failed) == 1 and report.failed[0][0] == "a.tgz"
    assert (
        report.failed[0][1].startswith(said)
        and "deleted, the same command fetches it again" in report.failed[0][1]
    )
    assert files_in(tmp_path / "root") == {"metadata/b.csv"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (hashlib.md5(IMAGES).hexdigest().encode(), None),
        (None, None),
        (b"0" * 32, f"md5 is {hashlib.md5(IMAGES).hexdigest()}, expected 0000"),
        (b"<html>", "md5.txt: begins with '<html>', expected md5"),
    ],
)
def test_a_checksum_published_beside_the_file_is_compared(
    text: bytes | None, said: str | None, tmp_path: Path, plan_of: Plan
) -> None:
    sums: dict[str, Served | bytes] = {} if text is None else {"sums/md5.txt": text}
    file = RemoteFile("deep/a.tgz", None, 1000, "jpg", checksum_name="sums/md5.txt")
    with serving({"deep/a.tgz": IMAGES, **sums}) as server:
        report = fetch(plan_of(server, file), patience=QUICK)
    if said is None:
        assert report == FetchReport(1, 0, (), 0, unchecked=int(text is None))
    else:
        assert said in report.failed[0][1] and not files_in(tmp_path / "root")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            tarred({"100000.jpg": b"one", "../evil.jpg": b"x"}, gzipped=True),
            "'../evil.jpg' would leave the folder",
        ),
        (IMAGES[:-20], "truncated or damaged archive"),
        (b"<html>not found</html>", "neither tar, gzip nor zip"),
    ],
    ids=["outside", "cut short", "web page"],
)
def test_an_archive_that_is_refused_leaves_nothing_and_is_fetched_again(
    data: bytes, said: str, tmp_path: Path, plan_of: Plan
) -> None:
    with serving({"a.tgz": data}) as server:
        report = fetch(plan_of(server, A), patience=QUICK)
        assert said in report.failed[0][1] and "\n" not in report.failed[0][1]
        assert not files_in(tmp_path / "root")
        server.files["a.tgz"] = Served(IMAGES, etag='"two"')
        assert fetch(plan_of(server, A), patience=QUICK).done == 1
    assert files_in(tmp_path / "root") == {"jpg/100000.jpg", "jpg/100001.jpg"}


def test_an_archive_may_unpack_to_a_multiple_of_its_listed_size(
    tmp_path: Path, plan_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delfjax.datasets.fetch.archives.UNPACKED_FLOOR", 0)
    with serving({"a.tgz": tarred({"zeros.jpg": bytes(4001)}, gzipped=True)}) as server:
        report = fetch(plan_of(server, A), patience=QUICK)
    assert "unpacks to more than 4000 bytes" in report.failed[0][1] and not files_in(
        tmp_path / "root"
    )


def test_a_failed_file_is_listed_and_does_not_stop_the_others(plan_of: Plan) -> None:
    files = [RemoteFile(f"{name}.csv", None, 10) for name in "abcd"]
    served: dict[str, Served | bytes] = {
        "a.csv": b"a",
        "c.csv": Served(b"c", faults=[Fault(403, times=9)]),
        "d.csv": b"d",
    }
    with serving(served) as server:
        report = fetch(plan_of(server, *files), patience=QUICK)
    assert (report.done, report.skipped, report.not_tried) == (2, 0, 0)
    assert [(name, reason.partition("; ")[0][-20:]) for name, reason in report.failed] == [
        ("b.csv", "b.csv: HTTP 404 Not Found"[-20:]),
        ("c.csv", "c.csv: HTTP 403 Forbidden"[-20:]),
    ]
    assert str(report) == "2 done, 0 skipped, 2 failed; 2 without a checksum to compare"


def test_a_server_that_is_gone_is_not_asked_for_hundreds_of_files(plan_of: Plan) -> None:
    files = [RemoteFile(f"{number}.csv", None, 10) for number in range(10)]
    with serving(
        {f"{number}.csv": Served(b"x", faults=[Fault(503, times=9)]) for number in range(10)}
    ) as server:
        report = fetch(plan_of(server, *files), patience=QUICK)
    assert (report.done, len(report.failed), report.not_tried) == (0, 3, 7)
    assert str(report) == "0 done, 0 skipped, 3 failed, 7 not tried"


def test_a_full_disk_stops_the_run_and_the_next_one_resumes(
    tmp_path: Path, plan_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving({"a.tgz": IMAGES, "lists/b.csv": b"id\n"}) as server:
        for place, name, held in (
            (downloading.os, "write", ".fetch/a.tgz.part"),
            (shutil, "copyfileobj", ".fetch/a.tgz"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, full)
                report = fetch(plan_of(server, A, B), patience=QUICK)
            assert (report.done, len(report.failed), report.not_tried) == (0, 1, 1)
            assert "the disk is full" in report.failed[0][1] and held in files_in(tmp_path / "root")
            assert not any(name.startswith("jpg/") for name in contents(tmp_path / "root"))
        assert fetch(plan_of(server, A, B), patience=QUICK).done == 2
    assert files_in(tmp_path / "root") == {"jpg/100000.jpg", "jpg/100001.jpg", "metadata/b.csv"}


def test_a_fetch_that_needs_more_room_than_there_is_does_not_begin(
    tmp_path: Path, plan_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2999))
    with serving({"a.tgz": IMAGES, "lists/b.csv": b"id\n"}) as server:
        # Both files, and the archive beside what comes out of it.
        with pytest.raises(
            FetchError,
            match="root: 3 kB needed, 3 kB free on this disk; make room, or choose another",
        ):
            fetch(plan_of(server, A, B), patience=QUICK)
        assert not server.asked and not (tmp_path / "root").exists()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3000))
        assert fetch(plan_of(server, A, B), patience=QUICK).done == 2


def test_an_interruption_during_the_renaming_is_repaired(
    tmp_path: Path, plan_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target.name == "100001.jpg":
            raise KeyboardInterrupt
        return replace(self, target)

    with serving({"a.tgz": IMAGES}) as server:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", interrupted)
            fetch(plan_of(server, A), patience=QUICK)
        assert files_in(tmp_path / "root") == {".fetch/a.tgz", "jpg/100000.jpg"}
        assert fetch(plan_of(server, A), patience=QUICK).done == 1
        assert server.ranges("a.tgz") == [""]
    assert files_in(tmp_path / "root") == {"jpg/100000.jpg", "jpg/100001.jpg"}


def test_what_was_unpacked_is_on_disk_before_it_is_recorded(
    tmp_path: Path, plan_of: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[set[str]] = []
    monkeypatch.setattr(os, "sync", lambda: there.append(files_in(tmp_path / "root")))
    with serving({"a.tgz": IMAGES}) as server:
        fetch(plan_of(server, A), patience=QUICK)
    assert there == [{".fetch/a.tgz", "jpg/100000.jpg", "jpg/100001.jpg"}]
    assert (tmp_path / "root" / ".fetch" / "a.tgz.done").is_file()


def test_two_runs_into_one_folder_do_not_mix(tmp_path: Path, plan_of: Plan) -> None:
    with serving({"a.tgz": IMAGES}) as server:
        plan = plan_of(server, A)
        with (
            fetching._locked(tmp_path / "root" / ".fetch"),
            pytest.raises(FetchError, match="another run is fetching into this folder"),
        ):
            fetch(plan, patience=QUICK)
        assert fetch(plan, patience=QUICK).done == 1


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        (
            "google_landmarks_v1",
            "",
            "nothing to fetch: VANISHED: .*; unpack a copy into .*, or name its folder: .*--root",
        ),
        ("google_landmarks_v1_train", "", "VANISHED"),
        ("landmarks_full", "", "PARTLY VANISHED: lists of URLs"),
        ("landmarks_clean", "", "PARTLY VANISHED"),
        ("holidays_rotated", "", "nothing to fetch: unknown"),
        ("folder", "", "nothing to fetch: yours"),
        ("holidays", "", "served over FTP alone.*ftp://.*jpg1.tar.gz.*--from"),
        (
            "oxford5k",
            "ftp://127.0.0.1/",
            "--from ftp://127.0.0.1/: expected a folder, or an address",
        ),
        (
            "oxford5k",
            "nowhere",
            "--from nowhere: expected a folder, or an address that begins with http",
        ),
    ],
)
def test_a_dataset_that_cannot_be_fetched_is_refused_with_a_remedy(
    name: str, source: str, said: str
) -> None:
    with pytest.raises(FetchError, match=said) as refused:
        plan_fetch(name, source=source)
    assert "\n" not in str(refused.value)


def test_a_local_folder_without_the_files_is_named(tmp_path: Path) -> None:
    report = fetch(plan_fetch("oxford5k", tmp_path / "root", source=str(tmp_path)), patience=QUICK)
    assert [name for name, _ in report.failed] == ["oxbuild_images-v1.tgz", "gt_files_170407.tgz"]
    assert (
        "oxbuild_images-v1.tgz: no such file; --from expects a folder with the files"
        in report.failed[0][1]
    )


def test_distractors_published_as_rar_are_named_until_they_are_there(
    tmp_path: Path,
) -> None:
    plan = plan_fetch("oxford105k", tmp_path)
    assert [planned.root.name for planned in plan.files] == ["oxford5k", "oxford5k"]
    assert len(plan.remedies) == 1 and "RAR archive in 40 parts" in plan.remedies[0]
    (tmp_path / "flickr100k").mkdir()
    assert not plan_fetch("oxford105k", tmp_path).remedies


def test_a_copy_taken_from_a_folder_counts_as_complete(
    tmp_path: Path,
) -> None:
    (tmp_path / "archives").mkdir()
    for file, data in holidays(tmp_path / "made").items():
        (tmp_path / "archives" / file).write_bytes(data)
    fetch(
        plan_fetch("holidays", tmp_path / "holidays", source=str(tmp_path / "archives")),
        patience=QUICK,
    )
    plan = plan_fetch("holidays", tmp_path / "holidays")
    assert (
        not plan.missing and not plan.remedies and str(plan) == "holidays: 2 of 2 files are there"
    )
    (tmp_path / "holidays" / ".fetch" / "jpg2.tar.gz.done").unlink()
    assert "served over FTP alone" in plan_fetch("holidays", tmp_path / "holidays").remedies[0]


@pytest.mark.parametrize(
    ("name", "archives", "size"),
    [
        ("google_landmarks_v2", 120, 95e9),
        ("google_landmarks_v2_recognition", 520, 510e9),
        ("google_landmarks_v2_train", 500, 500e9),
        ("google_landmarks_v2_clean", 500, 500e9),
        ("roxford5k_r1m", 101, 152e9),
        ("paris6k", 3, 2.57e9),
    ],
)
def test_lists_of_hundreds_of_archives_are_complete(name: str, archives: int, size: float) -> None:
    files = files_of(CATALOGUE[name].published)
    assert sum(file.is_archive for file in files) == archives and len(
        {file.name for file in files}
    ) == len(files)
    assert sum(file.size for file in files) == pytest.approx(size, rel=0.01)
    assert all(
        file.base is not None and file.base.startswith(("http://", "https://")) for file in files
    )


def test_the_archives_of_google_landmarks_have_their_published_addresses() -> None:
    urls = {
        f"{file.base}/{file.name}": file
        for file in files_of(CATALOGUE["google_landmarks_v2"].published)
    }
    base = "https://s3.amazonaws.com/google-landmark"
    assert {
        f"{base}/index/images_000.tar",
        f"{base}/index/images_099.tar",
        f"{base}/test/images_019.tar",
    } < urls.keys()
    assert (
        f"{base}/index/images_100.tar" not in urls
        and f"{base}/ground_truth/retrieval_solution_v2.1.csv" in urls
    )
    assert urls[f"{base}/index/images_007.tar"].checksum_name == "md5sum/index/md5.images_007.txt"
    said = describe_checksums(CATALOGUE["google_landmarks_v2"].published)
    assert said == "published for 120 of 124 files, none known for the other 4"
