"""The command line: help everywhere, and one line with exit code 1 for whatever cannot be done."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import delfjax
from delfjax import config
from delfjax.cli import main
from delfjax.cli.commands import COMMANDS as ALL
from delfjax.cli.groups import Command, Group, parse
from delfjax.config import TRAINING_PRESETS, config_hash, override, preset
from delfjax.datasets.catalogue import CATALOGUE
from delfjax.features.store import FeatureStore, StoreWriter
from delfjax.mining.mine import MinedLandmarks
from delfjax.mining.mined_files import adding, require_replaceable, save_landmarks
from delfjax.models.weights import save_weights
from delfjax.retrieval.local_index import build_index
from delfjax.retrieval.system_index import open_index
from delfjax.suite import settings
from delfjax.types import ImageFeatures, LocalFeatures
from delfjax.world import knobs
from tests.unit.datasets import miniatures
from tests.unit.datasets.fetch.file_server import serving
from tests.unit.mining.test_mined_files import mined

ROOT = Path(__file__).resolve().parents[2]
# Words after `delfjax`, in the order of its help.
COMMANDS = [
    "",
    "extract",
    "index",
    "search",
    "match",
    "evaluate",
    "mine",
    "datasets",
    "datasets list",
    "datasets render",
    "datasets fetch",
    "datasets verify",
    "datasets summary",
    "train",
    "weights",
    "weights inspect",
    "weights convert",
    "weights export",
    "weights record",
    "weights card",
    "run",
    "sweep",
    "compare",
    "report",
    "reproduce",
    "regression",
    "regression check",
    "regression accept",
    "notebooks",
    "notebooks check",
    "notebooks fix",
]
# Imported before a command runs, each would cost the help a tenth of a second or seconds.
HEAVY = {
    *("jax", "flax", "optax", "tensorstore", "faiss", "numpy", "scipy", "pandas", "pyarrow", "PIL"),
    *("skimage", "matplotlib", "pydantic", "yaml", "nbformat", "papermill", "dask"),
    "typeguard",
}


def leaves(group: Group = ALL, words: str = "") -> Iterator[tuple[str, type[Command]]]:
    """Every command that is no group, with its words after `delfjax`."""
    for name, member in group.members.items():
        if isinstance(member, Group):
            yield from leaves(member, f"{words}{name} ")
        else:
            yield f"{words}{name}", member


def test_the_list_of_commands_is_whole() -> None:
    groups = {"", "datasets", "weights", "regression", "notebooks"}
    assert [name for name, _ in leaves()] == [name for name in COMMANDS if name not in groups]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([*command.split(), "--help"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"usage: delfjax {command}".strip())
    # Commands that take a config name the option that changes it.
    takes_config = command in {
        "extract",
        "index",
        "search",
        "match",
        "evaluate",
        "mine",
        "train",
        "weights convert",
        "weights export",
    }
    assert ("--set FIELD=VALUE" in said.out) == takes_config
    assert ("--set NAME=VALUE" in said.out) == (command == "run")


def test_the_examples_in_the_help_are_command_lines_that_exist() -> None:
    for words, command in leaves():
        (line,) = re.findall(r"^ *Example: delfjax (.*)$", command.__doc__ or "", re.MULTILINE)
        assert isinstance(parse(line.split(), ALL, prog="delfjax"), command), words
        # Paragraphs are shown as they are: each must fit a terminal of 80 columns.
        paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
        assert all(len(text) < 80 and "\n" not in text for text in paragraphs), words


def test_help_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    """Written out there, since reading them would mean importing what they configure."""
    named = {
        "evaluate": config.PRESETS,
        "train": TRAINING_PRESETS,
        "datasets render": knobs.PRESETS,
        "run": settings.PRESETS,
        "reproduce": settings.PRESETS,
    }
    for command, presets in named.items():
        assert main([*command.split(), "--help"]) == 0
        said = set(re.findall(r"\w+", capsys.readouterr().out))
        assert presets and set(presets) <= said, command


def test_help_waits_for_nothing_that_a_command_imports_when_it_runs() -> None:
    script = f"""
import contextlib, io, pkgutil, sys
import delfjax.cli
for module in pkgutil.iter_modules(delfjax.cli.__path__, "delfjax.cli."):
    __import__(module.name)
for command in {COMMANDS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        delfjax.cli.main([*command.split(), "--help"])
    assert said.getvalue().startswith("usage: delfjax"), command
print({HEAVY!r} & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"delfjax {delfjax.__version__}\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `delfjax extract --preset ci` makes it, but for its descriptors, which are
    random."""
    path = tmp_path_factory.mktemp("cli") / "store"
    rng = np.random.default_rng(0)
    with StoreWriter(path, preset("ci").extraction()) as writer:
        for group in writer.plan(["a.jpg", "b.jpg"]):
            writer.commit(group, {name: features(rng) for name in group.names}, {})
    return path


def features(rng: np.random.Generator) -> ImageFeatures:
    ones = np.ones(50, np.float32)
    rows = rng.normal(size=(50, 112)).astype(np.float32)
    keypoints = rng.uniform(0, 200, (50, 2)).astype(np.float32)
    return ImageFeatures(
        LocalFeatures(keypoints, ones, ones, rows, np.ones(50, bool)), None, (200, 200), "0"
    )


@pytest.fixture(scope="module")
def index(store: Path) -> Path:
    path = store.with_name("index")
    assert main(["index", str(store), "--out", str(path), "--set", "reduction.dim=12"]) == 0
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        said.err.startswith("delfjax: ") and said.err.endswith("\n") and said.err.count("\n") == 1
    )
    assert not set(said.err) & set("─│╭╮╰╯\x1b") and "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "",
            (
                "no command given; there are: extract, index, search, match, evaluate, mine,"
                " datasets, train, weights, run, sweep, compare, report, reproduce, regression,"
                " notebooks$"
            ),
        ),
        ("weights record w.safetensors", "no scores: give a file written by"),
        ("look", "command 'look' is unknown; .*there are: extract, index"),
        ("serch", "command 'serch' is unknown; did you mean 'search'"),
        ("weights", "no command given; there are: inspect, convert"),
        ("train world_train --out a.pth", "--out a.pth: the file name must end in .safetensors"),
        (
            "train world_train --out a.safetensors --preset quick",
            "training preset 'quick' is unknown; did you mean 'quick_",
        ),
        (
            "train world_train --out a.safetensors --set step=3",
            "config field 'step' does not exist; did you mean 'steps'",
        ),
        ("weights look", "command 'look' is unknown; there are: inspect"),
        ("datasets", "no command given; there are: list, render, fetch, verify, summary"),
        ("regression chek", "command 'chek' is unknown; did you mean 'check'"),
        ("regression check 47", "no notebook is called '47'; there are: 00_start_here"),
        ("reproduce --preset quik", "preset 'quik' is unknown; did you mean 'quick'"),
        ("run 30 --set seed", "--set seed: expected NAME=VALUE"),
        ("sweep training --workers 0", "--workers 0: expected at least 1"),
        ("datasets render --workers -1", "--workers -1: expected at least 0"),
        ("search index query.jpg --top 0", "--top 0: expected at least 1"),
        ("search index query.jpg --top -3", "--top -3: expected at least 1"),
        ("datasets render --set seed=3", "--set seed=3: use --seed"),
        ("run 30 --seed 1 --set seed=2", "--set seed=2: seed is given twice, as 1 too"),
        ("run 30 --set search.neighbours=1;2", "'search.neighbours': .* valid integer"),
        ("run 30 --set overrides=seeds=1 --set search.neighbours=2", "field 'seeds' does not"),
        ("run 12 --set seed=1", "parameter 'seed' is unknown; there are: none"),
        ("run 30 --seed -1", "'seed': Input should be greater than or equal to 0, got -1"),
        ("match a b --set seed=4294967296", "'seed': Input should be less than 4294967296"),
        ("train world_train --out a.safetensors --seed -7", "'seed': .*got -7"),
        ("extract photos --store=", "--store= is empty"),
        (
            "train world_train --out a.safetensors --set backbone.weight=a",
            "'backbone.weight' does not exist; did you mean 'backbone.weights'",
        ),
        (
            "train world_train --out a.safetensors --set search.neighbours=3",
            "'search.neighbours' is not used here; sections that are: backbone, attention",
        ),
        ("datasets summary oxfrod5k", "dataset 'oxfrod5k' is unknown; did you mean"),
        (
            "datasets verify oxford5k --root nowhere",
            "nowhere: no such folder; oxford5k comes from robots.ox.ac.uk",
        ),
        ("datasets render --preset quik", "world preset 'quik' is unknown; did you mean 'quick'"),
        (
            "datasets render --set cluter=1",
            "world field 'cluter' is unknown; did you mean 'clutter'",
        ),
        ("datasets render --set landmarks=2.5", "landmarks is 2.5, expected a whole number"),
        ("datasets render --set clutter=2", "clutter is 2.0, expected a number from 0 to 1"),
        ("datasets render --set clutter", "--set clutter: expected KNOB=NUMBER, for instance"),
        ("datasets render --set clutter=much", "--set clutter=much: expected KNOB=NUMBER"),
        ("datasets verify folder", "'folder' has no default folder; say which folder"),
        ("datasets fetch oxfrod5k", "dataset 'oxfrod5k' is unknown; did you mean"),
        (
            "datasets fetch google_landmarks_v1",
            "nothing to fetch: VANISHED: .*; unpack a copy into .*landmarks_v1, or name",
        ),
        ("datasets fetch holidays", "served over FTP alone"),
        (
            "datasets fetch oxford5k --from nowhere",
            "--from nowhere: expected a folder, or an address",
        ),
        ("datasets summary --root here", "--root here: name the dataset in this folder"),
        (
            "extract",
            "no input: give a folder of photos, or a dataset with --dataset NAME",
        ),
        ("extract photos", "photos: --store is missing"),
        (
            "extract photos --dataset oxford5k",
            "photos and --dataset oxford5k: give a folder of photos or a dataset, not both",
        ),
        (
            "extract photos --store s --root r",
            "--root r: name the dataset in this folder with --dataset NAME",
        ),
        ("extract --dataset oxfrod5k", "dataset 'oxfrod5k' is unknown; did you mean"),
        ("index store", "--out"),
        ("index --out i", "no input: give a feature store, or a dataset"),
        (
            "index store --dataset paris6k --out i",
            "store and --dataset paris6k: give a feature store or a dataset, not both",
        ),
        ("evaluate", "no input: give a labelled folder, or a dataset"),
        (
            "evaluate photos --dataset paris6k",
            "photos and --dataset paris6k: give a labelled folder or a dataset, not both",
        ),
        (
            "evaluate --dataset oxford5k --root nowhere",
            "nowhere: no such folder; oxford5k comes from",
        ),
        ("evaluate --dataset folder", "'folder' has no default folder; say which folder"),
        (
            "match one.jpg",
            r"Missing from delfjax match: .*second photo.*; see `delfjax match --help`",
        ),
        ("match one.jpg two.jpg --colour", "Unrecognized options: --colour; see"),
        ("extract --sotre s", "--sotre.*did you mean --store"),
        ("search index query.jpg --top many", "--top: expected a whole number, got 'many'"),
        (
            "match one.jpg two.jpg --preset slow",
            "preset 'slow' is unknown; there are: default, fast, ci, paper2017",
        ),
        (
            "match a b --set features.max_feature=3",
            "'features.max_feature' does not exist; did you mean '.*max_features'",
        ),
        (
            "match a b --set features.max_features=few",
            "'features.max_features': .*integer.*, got 'few'",
        ),
        ("match a b --set max_features", "'max_features' is not of the form path.to.field=value"),
        ("extract photos --store s --set seeds=1", "'seeds' does not exist; did you mean 'seed'"),
        ("evaluate photos --set search.top=1", "'search.top' does not exist"),
        (
            "evaluate photos --set model=nowhere.safetensors",
            "model=nowhere.safetensors: nowhere.safetensors: no such file",
        ),
        (
            "run 30 --set model=nowhere.safetensors",
            "model=nowhere.safetensors: nowhere.safetensors: no such file",
        ),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_one(
    capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    message = refused(capsys, *arguments.split())
    assert re.search(said, message), message


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    commands: list[list[str | Path]] = [
        ["extract", nothing, "--store", tmp_path / "s"],
        ["index", nothing, "--out", tmp_path / "i"],
        ["search", nothing, tmp_path / "query.jpg"],
        ["evaluate", nothing],
        ["weights", "inspect", nothing],
        ["weights", "convert", nothing, "--out", tmp_path / "w.safetensors"],
    ]
    for command in commands:
        assert str(nothing) in refused(capsys, *command)
    assert not list(tmp_path.iterdir())


def test_what_a_command_reads_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    photos = tmp_path / "photos" / "gate"
    photos.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(b"a photo")
    photo, truth = photos / "a.png", photos.parent / "groundtruth.json"
    opened = build_index(FeatureStore.open(store), config=preset("ci"), photos=str(photos))
    replace(opened, names=["a.png", "b.png"]).save(tmp_path / "index")
    weights = tmp_path / "w.safetensors"
    save_weights(weights, {"w": np.ones(2)}, {"name": "attention"})
    scorer = f"scorer.weights={weights}"
    before = {file: file.read_bytes() for file in (photo, weights)}
    commands: list[tuple[Path, list[str | Path]]] = [
        (photo, ["match", photos / "b.png", photo, "--figure", photo]),
        (photo, ["search", tmp_path / "index", photo, "--figure", photo]),
        (photo, ["search", tmp_path / "index", photos / "b.png", "--figure", photo]),
        (photo, ["evaluate", photos.parent, "--json", photo]),
        (weights, ["weights", "convert", weights, "--out", weights]),
        (weights, ["weights", "export", weights, "--set", scorer]),
    ]
    for output, command in commands:
        said = refused(capsys, *command)
        assert f"{output}: is what the command reads, so it is not overwritten" in said
    truth.write_text(
        json.dumps(
            {
                "imlist": ["gate/a.png", "gate/b.png"],
                "gnd": [
                    {
                        "query": 0,
                        "path": "gate/a.png",
                        "landmark": "gate",
                        "tier": "all",
                        "ok": [1],
                        "junk": [0],
                    }
                ],
            }
        )
    )
    assert f"{truth}: is what" in refused(capsys, "evaluate", photos.parent, "--json", truth)
    assert before == {file: file.read_bytes() for file in before}


def test_a_folder_without_photos_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("x")
    message = refused(capsys, "extract", tmp_path / "photos", "--store", tmp_path / "store")
    assert "no photos in this folder (1 other files ('.txt'))" in message
    assert not (tmp_path / "store").exists()


def test_an_index_knows_the_config_of_its_store(index: Path) -> None:
    config = open_index(index).config
    assert config.features == preset("ci").features and config.reduction.dim == 12
    assert config_hash(config) == config_hash(override(preset("ci"), ["reduction.dim=12"]))


@pytest.mark.parametrize(
    "assignment", ["features.max_side=512", "backbone.output=conv5", "scorer.kind=norm"]
)
def test_what_an_extraction_decided_cannot_be_changed_afterwards(
    capsys: pytest.CaptureFixture[str], store: Path, index: Path, assignment: str
) -> None:
    room = assignment.split(".", maxsplit=1)[0]
    message = refused(capsys, "index", store, "--out", index, "--set", assignment)
    assert f"--set {assignment}: {room} was fixed when the store {store} was made" in message
    message = refused(capsys, "search", index, "query.jpg", "--set", assignment)
    assert f"--set {assignment}: {room} was fixed when the index {index} was made" in message


@pytest.mark.parametrize("assignment", ["reduction.dim=8", "index.kind=ivf", "seed=1"])
def test_what_an_index_decided_cannot_be_changed_by_a_search(
    capsys: pytest.CaptureFixture[str], index: Path, assignment: str
) -> None:
    assert "was fixed when the index" in refused(
        capsys, "search", index, "query.jpg", "--set", assignment
    )


def test_a_store_too_small_for_the_reduction_names_the_setting(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    message = refused(capsys, "index", store, "--out", tmp_path / "i", "--set", "reduction.dim=112")
    assert "reduction.dim is 112, but there are 100 descriptors" in message


def test_of_two_that_add_to_landmarks_the_second_waits_and_adds_to_what_the_first_wrote(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "landmarks"
    (tmp_path / "positions.csv").write_text("path,latitude,longitude\na.jpg,1,2\n")
    save_landmarks(mined("a.jpg", "b.jpg"), out)
    found: list[object] = []

    def mine(*_: object, known: MinedLandmarks, **__: object) -> MinedLandmarks:
        found.append(known.names)
        return known

    monkeypatch.setattr("delfjax.mining.mine.mine_landmarks", mine)
    words = ["mine", str(store), "--positions", str(tmp_path / "positions.csv"), "--add"]
    second = threading.Thread(target=main, args=([*words, "--out", str(out)],))
    capsys.readouterr()
    with adding(out, on_wait=len):
        second.start()
        said = ""
        while second.is_alive() and not said:
            time.sleep(0.05)
            said = capsys.readouterr().err
        assert said.startswith(f"{out}: process {os.getpid()} on ")
        assert said.endswith(" is mining there; waiting for it\n")
        save_landmarks(mined("a.jpg", "b.jpg", "new.jpg"), out)
        assert not found
    second.join()
    assert found == [("a.jpg", "b.jpg", "new.jpg")]
    require_replaceable(out)


def test_help_without_docstrings_says_why_it_explains_little() -> None:
    for words in ([], ["weights", "card"]):
        done = subprocess.run(
            [sys.executable, "-OO", "-m", "delfjax.cli", *words, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        said = " ".join(done.stdout.split())
        assert "-OO or PYTHONOPTIMIZE=2, which strips the explanations of commands" in said
        assert ("weight file, or the name of" if words else " search match ") in said
        assert "Annotated" not in said and "Example" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("weights card STORE", "STORE: is a folder, expected a weight file (.safetensors)"),
        ("weights record STORE s.json", "STORE: is a folder, expected a weight file"),
        ("match a b --set model=STORE", "STORE: is a folder, expected a weight file"),
        ("weights card photo.jpg", "the suffix is '.jpg', expected '.safetensors'"),
        ("weights card moon", "moon: neither a weight file (.safetensors) nor the name of one"),
    ],
)
def test_what_is_no_weight_file_is_named_as_what_it_is(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("STORE").mkdir()
    Path("photo.jpg").write_bytes(b"pixels")
    line = refused(capsys, *words.split())
    assert said in line and "scorer.weights" not in line


def test_an_index_is_never_written_over_photos(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    (tmp_path / "dear.jpg").write_bytes(b"x")
    assert "exists and is not an index" in refused(capsys, "index", store, "--out", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["dear.jpg"]


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, index: Path
) -> None:
    away = tmp_path / "nowhere" / "ranked.png"
    for command in (
        ["search", index, "q.jpg", "--figure"],
        ["match", "a.jpg", "b.jpg", "--figure"],
    ):
        assert "its folder does not exist" in refused(capsys, *command, away)
        assert "must end in .png or .pdf or .svg" in refused(
            capsys, *command, tmp_path / "ranked.txt"
        )
    assert "its folder does not exist" in refused(
        capsys, "evaluate", tmp_path, "--json", tmp_path / "x" / "e.json"
    )
    assert "is a folder" in refused(capsys, "evaluate", tmp_path, "--json", tmp_path)


def test_a_file_that_is_no_weight_file_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    assert str(tmp_path / "w.pth") in refused(capsys, "weights", "inspect", tmp_path / "w.pth")


def test_an_evaluation_without_ground_truth_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "groundtruth.json" in refused(capsys, "evaluate", tmp_path)


def test_the_list_of_datasets_says_what_has_vanished_and_what_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["datasets", "list"]) == 0
    blocks = re.split(r"^(?=\w+: )", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    said = {block.partition(":")[0]: block for block in blocks}
    assert tuple(said) == tuple(CATALOGUE)
    assert "VANISHED: no longer available" in said["google_landmarks_v1"]
    assert "PARTLY VANISHED: lists of URLs" in said["landmarks_clean"]
    assert "licence   unknown; size ≈ 1.94 GB in 2 files; checksums none known" in said["oxford5k"]
    assert (
        "checksums published for 120 of 124 files, none known for the other 4"
        in said["google_landmarks_v2"]
    )
    assert "licence   unknown; size unknown\n" in said["google_landmarks_v1"]
    assert "by hand   it is served over FTP alone" in said["holidays"]
    assert "database  4,993 (counted in the ground-truth pickle)" in said["roxford5k"]
    assert "100,071 (remembered, not confirmed)" in said["oxford105k"]


PICKLE = "gnd_roxford5k.pkl"


def packed(tmp_path: Path) -> dict[str, bytes]:
    """The files a miniature of the revisited dataset is published as."""
    root = miniatures.write("roxford5k", tmp_path / "made")
    with tarfile.open(tmp_path / "images.tgz", "w:gz") as tar:
        for image in sorted((root / "jpg").iterdir()):
            tar.add(image, image.name)
    return {
        "oxbuild_images-v1.tgz": (tmp_path / "images.tgz").read_bytes(),
        PICKLE: (root / PICKLE).read_bytes(),
    }


def test_a_dataset_is_fetched_and_a_second_time_there_is_nothing_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path / "data"))
    with serving(dict(packed(tmp_path))) as server:
        command = ["datasets", "fetch", "roxford5k", "--from", server.url]
        assert main(command) == 0
        said = capsys.readouterr()
        assert re.match(
            r"roxford5k: 0 of 2 files are there; 2 to fetch, ≈ .* kB, into .*oxford5k,"
            r" .*roxford5k\n$",
            said.out,
        )
        assert said.err.endswith("2 done, 0 skipped, 0 failed; 2 without a checksum to compare\n")
        assert main(command) == 0
        said = capsys.readouterr()
        assert (
            said.out == "roxford5k: 2 of 2 files are there\n"
            and said.err == "0 done, 2 skipped, 0 failed\n"
        )
    assert main(["datasets", "summary", "roxford5k"]) == 0
    assert re.search(r"database +5 ", capsys.readouterr().out)


def test_files_that_could_not_be_fetched_are_listed_and_the_others_are_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tmp_path / "roxford5k"
    with serving({PICKLE: packed(tmp_path)[PICKLE]}) as server:
        assert (
            main(["datasets", "fetch", "roxford5k", "--root", str(root), "--from", server.url]) == 1
        )
    said = capsys.readouterr()
    reason = f"oxbuild_images-v1.tgz: {server.url}/oxbuild_images-v1.tgz: HTTP 404 Not Found"
    assert reason in said.out and f"delfjax: roxford5k: {reason}" in said.err
    assert "1 done, 0 skipped, 1 failed" in said.err and (root / PICKLE).is_file()


@pytest.mark.parametrize(
    ("answer", "said"), [(None, "--yes confirms the download"), ("n", "nothing was downloaded")]
)
def test_tens_of_gigabytes_are_not_fetched_without_being_agreed_to(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    said: str,
) -> None:
    terminal = io.StringIO("" if answer is None else f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: answer is not None)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["datasets", "fetch", "google_landmarks_v2", "--root", str(tmp_path / "v2")]) == 1
    message = capsys.readouterr()
    assert (
        said in message.err
        and "124 to fetch, ≈ 95 GB" in message.out
        and not (tmp_path / "v2").exists()
    )
    # Agreed to, it is refused for another reason.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1}))
    assert (
        main(["datasets", "fetch", "google_landmarks_v2", "--root", str(tmp_path / "v2"), "--yes"])
        == 1
    )
    assert (
        "v2: 95.9 GB needed, 1 bytes free on this disk" in capsys.readouterr().err
        and not (tmp_path / "v2").exists()
    )


def test_verifying_a_copy_names_what_is_missing_and_what_differs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = miniatures.write("roxford5k", tmp_path)
    (root / "jpg" / "oxford_000317.jpg").unlink()
    assert main(["datasets", "verify", "roxford5k", "--root", str(root)]) == 1
    said = capsys.readouterr()
    assert "jpg/oxford_000317.jpg: missing" in said.out
    assert re.search(
        r"^easy +2   expected 3,029 \(counted in the ground-truth pickle\)   DIFFERS$",
        said.out,
        re.MULTILINE,
    )
    assert re.search(
        r"not a complete copy of roxford5k; unusable images: 1; counts that differ: database,"
        r" queries, easy",
        said.err,
    )


def test_a_folder_of_photos_verifies_when_all_its_images_open(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = miniatures.write("folder", tmp_path)
    assert main(["datasets", "verify", "folder", "--root", str(root), "--decode"]) == 0
    assert "11 images checked, 0 unusable" in capsys.readouterr().err
    (root / "bridge" / "a.jpg").write_bytes(miniatures.WEB_PAGE)
    assert main(["datasets", "verify", "folder", "--root", str(root), "--decode"]) == 1
    assert "bridge/a.jpg: not an image" in capsys.readouterr().out


def test_the_summary_counts_whatever_is_present(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELFJAX_DATA", str(tmp_path))
    miniatures.write("oxford105k", tmp_path / "external")
    (tmp_path / "external" / "holidays").mkdir()
    assert main(["datasets", "summary"]) == 0
    said = capsys.readouterr()
    assert re.search(
        r"^oxford5k: .*\n    database +7   expected 5,062 or 5,063 .* DIFFERS",
        said.out,
        re.MULTILINE,
    )
    assert re.search(r"^oxford105k: .*\n    database +10 ", said.out, re.MULTILINE)
    assert re.search(r"^holidays: .*holidays: no images in this folder", said.out, re.MULTILINE)
    assert said.err == f"2 of {len(CATALOGUE)} datasets present\n" and "paris" not in said.out


def test_a_warning_of_the_library_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    rng = np.random.default_rng(0)
    with StoreWriter(path, preset("ci").extraction(), shard_size=2) as writer:
        group, _ = writer.plan(["a.jpg", "b.jpg", "c.jpg"])
        writer.commit(group, {name: features(rng) for name in group.names}, {})
    arguments = ["index", str(path), "--out", str(tmp_path / "i"), "--set", "reduction.dim=12"]
    assert main(arguments) == 0
    warning, index = capsys.readouterr().err.splitlines()
    assert warning == (
        f"delfjax: {path}: 1 of 3 photos are not extracted yet; run `delfjax extract`"
        " again with its settings"
    )
    assert index.startswith("index: 2 images")
