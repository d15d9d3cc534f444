"""Training as a whole: it fits a batch, goes on after kill -9 with the same numbers, and is the
same on any number of devices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from delfjax.cli import main
from delfjax.config import (
    BackboneConfig,
    DelfConfig,
    DelgConfig,
    OptimiserConfig,
    TrainingConfig,
    override,
    to_dict,
    weight_file,
)
from delfjax.datasets.photo_folder import scan_folder
from delfjax.datasets.skimage_photos import write_photo_set
from delfjax.features.dataset_loop import extract_dataset
from delfjax.features.extractor import Extractor
from delfjax.features.store import FeatureStore
from delfjax.models.attention import AutoencodedScorer
from delfjax.models.delf import load_backbone, load_delf
from delfjax.models.model_files import load_part, override_system
from delfjax.models.tensors import named_tensors
from delfjax.models.weights import load_weights
from delfjax.retrieval.local_index import build_index
from delfjax.training import loop
from delfjax.training.batches import Batch, LabelledPhotos, MapBatches, TrainingError
from delfjax.training.checkpoints import Checkpoints
from delfjax.training.loop import METRICS, Trainer, TrainingReport, train
from delfjax.training.networks import make_network
from delfjax.training.stages import save_trained
from delfjax.world.knobs import world_config
from delfjax.world.writing import build_world
from tests.unit.models.random_networks import small_resnet

CLASSES, PER_CLASS, CHANNELS = 4, 6, 112
CONFIG = TrainingConfig(
    stage="attention",
    square_side=64,
    crop_side=48,
    rescales=(0.5, 1.0),
    hidden=16,
    batch_size=8,
    steps=20,
    validate_every=5,
    log_every=1,
    optimiser=OptimiserConfig(name="adamw", learning_rate=0.01),
)
FINETUNE = replace(
    CONFIG,
    stage="finetune",
    frozen_layers=11,
    rescales=(1.0,),
    validate_every=20,
    optimiser=OptimiserConfig(learning_rate=0.002),
)


def batches(
    folder: Path, config: TrainingConfig = CONFIG, *, spoil: int | None = None
) -> MapBatches:
    """Maps of noise in which two cells show the landmark."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    signs = rng.normal(size=(CLASSES, CHANNELS))
    maps = []
    for side in (4, 8):
        cells = rng.normal(size=(len(labels), side, side, CHANNELS))
        cells[:, side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1] += (
            3 * signs[labels][:, None, None]
        )
        if spoil is not None:
            cells[spoil] = np.inf
        maps.append(cells.astype(np.float16))
    photos = LabelledPhotos(
        folder, [f"{number}.jpg" for number in range(len(labels))], labels, CLASSES
    )
    return MapBatches(photos, maps, config=config, seed=0)


def run(
    folder: Path, config: TrainingConfig = CONFIG, *, devices: int = 1, spoil: int | None = None
) -> TrainingReport:
    network = make_network(
        load_backbone(BackboneConfig()), CLASSES, config=config, output="conv4", rngs=nnx.Rngs(1)
    )
    with Checkpoints(folder, {**to_dict(config), "seed": 0}) as checkpoints:
        return train(
            network,
            batches(folder, config, spoil=spoil),
            config=config,
            checkpoints=checkpoints,
            devices=jax.local_devices()[:devices],
            progress=False,
        )


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [(line["step"], line.get("loss", line.get("validation_loss"))) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingReport]:
    """An undisturbed training."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def test_a_small_set_is_learnt_by_heart(tmp_path: Path) -> None:
    report = run(tmp_path, replace(CONFIG, steps=120, validate_every=60))
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["accuracy"] for line in lines if "accuracy" in line][-20:] == [1.0] * 20
    assert report.validation[120]["accuracy"] == 1.0


def test_the_report_says_what_was_done(whole: tuple[Path, TrainingReport]) -> None:
    folder, report = whole
    assert (report.steps, report.resumed_at, report.failures) == (20, 0, {})
    assert list(report.validation) == [5, 10, 15, 20] and report.best_step in report.validation
    best = max(report.validation.values(), key=lambda scores: scores["accuracy"])
    assert report.validation[report.best_step]["accuracy"] == best["accuracy"]
    assert [step for step, _ in losses(folder)] == sorted([*range(1, 21), 5, 10, 15, 20])


def test_a_training_that_was_killed_goes_on_with_the_same_losses_to_the_last_bit(
    tmp_path: Path, whole: tuple[Path, TrainingReport]
) -> None:
    script = (
        "from tests.integration.test_training import run; from pathlib import Path;"
        f" run(Path({str(tmp_path)!r}))"
    )
    command = [sys.executable, "-c", script]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        # After the second checkpoint is whole, before the end where possible.
        while process.poll() is None and not (tmp_path / "checkpoints" / "10.safetensors").exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    report = run(tmp_path)
    assert report.resumed_at >= 5
    assert losses(tmp_path) == losses(whole[0])
    ours, theirs = named_tensors(report.network), named_tensors(whole[1].network)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("name", "lines"), [("CONFIG", 24), ("FINETUNE", 21)])
def test_four_devices_equal_one_device(name: str, lines: int, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from tests.integration import test_training
root, config = Path({str(tmp_path)!r}), test_training.{name}
for devices in (1, 4):
    test_training.run(root / str(devices), config, devices=devices)
"""
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run([sys.executable, "-c", script], cwd=root, env=environment, check=True)
    one, four = (np.array([loss for _, loss in losses(tmp_path / name)]) for name in ("1", "4"))
    assert len(one) == lines
    np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5)


def test_half_precision_learns_what_float32_learns_and_keeps_its_weights_whole(
    whole: tuple[Path, TrainingReport], tmp_path: Path
) -> None:
    report = run(tmp_path, replace(CONFIG, dtype="bfloat16"))
    found, expected = (
        np.array([loss for _, loss in losses(folder)]) for folder in (tmp_path, whole[0])
    )
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.02)
    assert {tensor.dtype for tensor in named_tensors(report.network).values()} == {
        np.dtype(np.float32)
    }


def test_a_loss_that_is_not_finite_names_the_step_and_the_photographs(tmp_path: Path) -> None:
    victim = int(np.flatnonzero(~batches(tmp_path).validation)[3])
    with pytest.raises(
        TrainingError,
        match=rf"step \d+: the loss is nan, .*; the batch held (\d+\.jpg, )*{victim}\.jpg",
    ):
        run(tmp_path, spoil=victim)


def test_a_folder_of_another_training_is_refused(whole: tuple[Path, TrainingReport]) -> None:
    with pytest.raises(TrainingError, match="holds a training run with hidden 16, not 32"):
        run(whole[0], replace(CONFIG, hidden=32))


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="batch_size 8 is not a multiple of accumulate × devices, 3 × 1"
    ):
        run(tmp_path, replace(CONFIG, accumulate=3))


def test_finetuning_in_parts_and_image_by_image_equals_finetuning_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm of the backbone keeps its statistics, so that only the order of additions
    differs."""
    reports = {"image by image": run(tmp_path / "image by image", FINETUNE)}
    monkeypatch.setattr(loop, "_ONE_BY_ONE", ())
    reports |= {
        name: run(tmp_path / name, replace(FINETUNE, accumulate=parts))
        for name, parts in (("whole", 1), ("parts", 2))
    }
    whole, *others = (
        np.array([loss for _, loss in losses(tmp_path / name)])
        for name in ("whole", "parts", "image by image")
    )
    for found in others:
        np.testing.assert_allclose(found, whole, rtol=1e-3)
        assert not np.array_equal(found, whole)
    assert whole[-2] < 0.8 * whole[0]
    before = named_tensors(load_backbone(BackboneConfig()))
    after = named_tensors(reports["whole"].network.backbone)
    changed = {
        ".".join(name.split(".")[:2])
        for name in before
        if not np.array_equal(before[name], after[name])
    }
    assert changed == {"blocks.10"}


def test_frozen_layers_make_of_photographs_one_after_another_what_they_make_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, config = np.random.default_rng(0), replace(CONFIG, batch_size=4)
    batch = Batch(
        rng.integers(0, 256, (4, 48, 48, 3), np.uint8), np.array([0, 1, 1, 0]), np.arange(4)
    )
    found = []
    for platforms in (("cpu",), ()):
        monkeypatch.setattr(loop, "_ONE_BY_ONE", platforms)
        network = make_network(small_resnet(), 2, config=config, output="conv4", rngs=nnx.Rngs(1))
        trainer = Trainer(network, config, jax.local_devices()[:1])
        found.append(float(trainer.step(trainer.start(), batch)[1]["loss"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


DELG = replace(
    CONFIG,
    stage="delg",
    frozen_layers=3,
    rescales=(1.0,),
    steps=4,
    validate_every=2,
    delg=DelgConfig(code_dim=8, embedding_dim=16),
)


def test_delg_learns_all_of_its_parts_in_one_training(tmp_path: Path) -> None:
    """On a ResNet of one block a stage, from maps of its first ones."""
    labels = np.repeat(np.arange(2), 4)
    maps = [np.random.default_rng(0).uniform(size=(8, 6, 6, 512)).astype(np.float16)]
    photos = LabelledPhotos(tmp_path, [f"{number}.jpg" for number in range(8)], labels, 2)
    network = make_network(small_resnet(), 2, config=DELG, output="conv4", rngs=nnx.Rngs(1))
    before = named_tensors(network)
    with Checkpoints(tmp_path / "run", to_dict(DELG)) as checkpoints:
        report = train(
            network,
            MapBatches(photos, maps, config=DELG, seed=0),
            config=DELG,
            checkpoints=checkpoints,
            progress=False,
        )
    after = named_tensors(report.network)
    changed = {
        name.partition(".")[0] for name in before if not np.array_equal(before[name], after[name])
    }
    assert changed == {"backbone", "embedding", "landmarks", "scorer", "classifier"}
    assert all(
        np.array_equal(before[name], after[name])
        for name in before
        if name.startswith("backbone.stem")
    )
    assert len(losses(tmp_path / "run")) == 6


def test_the_code_of_delg_is_the_descriptor_that_a_store_is_reduced_to(tmp_path: Path) -> None:
    file = tmp_path / "delg.safetensors"
    network = make_network(
        load_backbone(BackboneConfig()), 3, config=DELG, output="conv4", rngs=nnx.Rngs(1)
    )
    report = TrainingReport(network, 4, 0, 4, {}, 1.0, 1.0, {})
    save_trained(file, report, backbone=BackboneConfig(), about={"trained_on": "nothing"})
    changes = [
        f"model={file}",
        "features.max_side=128",
        "features.max_features=20",
        "features.scales=[1.0]",
    ]
    config = override_system(DelfConfig(), changes)
    assert (config.reduction.dim, config.reduction.whiten) == (8, False)
    named = weight_file(config.backbone.weights)
    assert named is not None and named.path == str(file)
    model = load_delf(config)
    assert isinstance(model.scorer, AutoencodedScorer)
    encoder = load_part(file, "reduction")[0]["projection"]
    np.testing.assert_array_equal(model.scorer.encoder.kernel[...], encoder)
    photos = write_photo_set(tmp_path / "photos", objects=("coffee",), distractors=(), max_side=128)
    extract_dataset(
        Extractor(config, model), scan_folder(photos.folder), tmp_path / "store", progress=False
    )
    store = FeatureStore.open(tmp_path / "store")
    local = store.get(store.names[0]).local
    code = np.asarray(local.descriptors, np.float64) @ encoder
    reduced = build_index(store, config=config).reduction(np.asarray(local.descriptors))
    np.testing.assert_allclose(
        reduced, code / np.linalg.norm(code, axis=1, keepdims=True), atol=1e-5
    )
    assert np.all(np.diff(local.scores) <= 0) and local.scores.min() >= 0


def test_both_stages_are_trained_by_command_and_extraction_takes_what_they_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"landmarks": 1, "train_landmarks": 2, "train_views": 3, "database_views": 1}
    small = world_config("ci", **counts, query_views=0, distractors=0, no_match=0)
    build_world(tmp_path / "world", small, progress=False)
    backbone, scorer = tmp_path / "finetuned.safetensors", tmp_path / "attention.safetensors"
    shared = [
        "--root",
        str(tmp_path / "world"),
        "--set",
        "square_side=64",
        "--set",
        "crop_side=48",
        "--set",
        "steps=2",
        "--set",
        "batch_size=2",
        "--set",
        "frozen_layers=11",
        "--set",
        "rescales=[1.0]",
    ]
    assert (
        main(
            ["train", "world_train", "--out", str(backbone), "--preset", "quick_finetune", *shared]
        )
        == 0
    )
    assert "train: 2 steps, 0 of them earlier" in capsys.readouterr().err
    after = ["--set", f"backbone.weights={backbone}"]
    assert main(["train", "world_train", "--out", str(scorer), *shared, *after]) == 0
    assert main(["train", "world_train", "--out", str(scorer), *shared, *after]) == 0
    assert "train: 2 steps, 2 of them earlier" in capsys.readouterr().err
    one, other = sorted((tmp_path / "world").rglob("train/**/*.jpg"))[:2]
    one.write_bytes(other.read_bytes())
    assert main(["train", "world_train", "--out", str(scorer), *shared, *after]) == 1
    assert "holds a training run on other photos: " in capsys.readouterr().err
    changes = [f"backbone.weights={backbone}", "scorer.kind=attention", f"scorer.weights={scorer}"]
    model = load_delf(override(DelfConfig(), changes))
    assert model.scorer is not None
    kernel = load_weights(scorer)[0]["score.kernel"]
    assert np.array_equal(np.asarray(model.scorer.score.kernel[...]), kernel)
    assert load_weights(scorer)[1]["trained_on"] == "world_train"
