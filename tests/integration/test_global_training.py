"""Training of global descriptors: it fits a few landmarks, resumes with the same numbers, and
leaves a model file that extraction takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from flax import nnx

from delfjax.cli import main
from delfjax.config import (
    BackboneConfig,
    ConfigError,
    DelfConfig,
    GlobalConfig,
    GlobalTrainingConfig,
    HeadConfig,
    OptimiserConfig,
    TuplesConfig,
    to_dict,
)
from delfjax.datasets.images import DecodedImage, decode_image
from delfjax.features.global_extractor import GlobalExtractor, load_global_extractor
from delfjax.models.layers import fold_batch_norm
from delfjax.models.model_files import PROJECTION, WHITENING, load_part, override_system
from delfjax.models.tensors import named_tensors
from delfjax.training.batches import LabelledPhotos, PaddedPhotos, TrainingError
from delfjax.training.checkpoints import Checkpoints
from delfjax.training.global_stage import begin_projection, fitted_whitening
from delfjax.training.loop import METRICS, TrainingReport, train
from delfjax.training.maps import WholeMaps
from delfjax.training.networks import GlobalNetwork, make_network
from delfjax.training.positives import Positives
from delfjax.training.tuple_batches import MappedPhotos, TupleBatches
from delfjax.world.knobs import world_config
from delfjax.world.writing import build_world
from tests.unit.models.random_networks import small_resnet

Pooling = Literal["mac", "rmac", "gem"]
LANDMARKS, VIEWS, SIDE = 8, 5, 6
SIAMAC = GlobalTrainingConfig(
    square_side=96,
    frozen_layers=3,
    batch_size=4,
    steps=12,
    validate_every=5,
    log_every=1,
    head=HeadConfig(whiten="rmac"),
    tuples=TuplesConfig(negatives=3, hardest=3, mine_every=4, pool=24),
    optimiser=OptimiserConfig(name="adamw", learning_rate=1e-3),
)
DIR = replace(
    SIAMAC,
    # At a higher rate, all descriptors become equal, which makes the loss half the margin.
    optimiser=OptimiserConfig(name="adamw", learning_rate=1e-4),
    head=HeadConfig(pooling="rmac", projection_dim=16),
    tuples=TuplesConfig(
        loss="triplet", margin=0.1, negatives=1, hardest=10, one_per_landmark=False, mine_every=4
    ),
)

# Sixteen dimensions keep too little of the noisy maps, and the hardest negatives alone make all
# descriptors equal, which costs half the margin.
LEARNT_DIR = replace(
    DIR,
    optimiser=OptimiserConfig(name="adamw", learning_rate=1e-3),
    head=HeadConfig(pooling="rmac", projection_dim=64),
    tuples=replace(DIR.tuples, negatives=5, hardest=35),
)


def batches(folder: Path, config: GlobalTrainingConfig) -> TupleBatches:
    """Maps of noise, upright or broad, in one cell of which the landmark shows."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(LANDMARKS), VIEWS)
    signs = rng.uniform(0, 0.7, size=(LANDMARKS, 512)) * (rng.uniform(size=(LANDMARKS, 512)) < 0.1)
    maps = rng.uniform(0, 1, size=(len(labels), SIDE, SIDE, 512))
    extent = np.where(np.arange(len(labels))[:, None] % 2, [[SIDE, 4]], [[4, SIDE]])
    maps[np.arange(len(labels)), rng.integers(0, 4, len(labels)), 1] += signs[labels]
    # Cells outside the photo must not matter.
    maps[::2, 4:], maps[1::2, :, 4:] = 50, 50
    photos = LabelledPhotos(
        folder, [f"{number}.jpg" for number in range(len(labels))], labels, LANDMARKS
    )
    whole = WholeMaps(maps.astype(np.float16), extent.astype(np.int32), {})
    return TupleBatches(
        photos, MappedPhotos(whole), positives=Positives.of_labels(labels), config=config, seed=0
    )


def network(config: GlobalTrainingConfig) -> GlobalNetwork:
    made = make_network(small_resnet(), LANDMARKS, config=config, output="conv4", rngs=nnx.Rngs(0))
    assert isinstance(made, GlobalNetwork)
    return made


def run(folder: Path, config: GlobalTrainingConfig, *, until: int | None = None) -> TrainingReport:
    """A training, or one that is broken off at the batch of step ``until``."""
    made, source = network(config), batches(folder, config)
    begin_projection(made, source)
    if until is not None:
        whole = source.take

        def take(members: np.ndarray) -> object:
            # A batch has the photos of four tuples.
            if len(members) == 4 * source.none_drawn.shape[1]:
                take.left -= 1  # type: ignore[attr-defined]  # set by this test
                if take.left < 0:  # type: ignore[attr-defined]  # set by this test
                    raise KeyboardInterrupt
            return whole(members)

        take.left = until  # type: ignore[attr-defined]  # set by this test
        source.take = take  # type: ignore[method-assign, assignment]  # counts calls
    with Checkpoints(folder, {**to_dict(config), "seed": 0}) as checkpoints:
        return train(made, source, config=config, checkpoints=checkpoints, progress=False)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingReport]:
    """An undisturbed training of siaMAC's kind."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, SIAMAC)


def test_the_report_begins_with_the_untrained_network(
    whole: tuple[Path, TrainingReport],
) -> None:
    folder, report = whole
    assert list(report.validation) == [0, 5, 10, 12]
    best = max(report.validation[step]["precision"] for step in (5, 10, 12))
    assert report.validation[report.best_step]["precision"] == best
    written = {
        line["step"]: line["validation_precision"]
        for line in lines(folder)
        if "validation_precision" in line
    }
    assert written == {step: scores["precision"] for step, scores in report.validation.items()}


@pytest.mark.parametrize("config", [SIAMAC, LEARNT_DIR], ids=["siamac", "dir"])
def test_a_few_landmarks_are_learnt_by_heart(config: GlobalTrainingConfig, tmp_path: Path) -> None:
    run(tmp_path, replace(config, steps=90, validate_every=30))
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    right = [line["accuracy"] for line in lines(tmp_path) if "accuracy" in line]
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:8])
    assert np.mean(right[-8:]) > np.mean(right[:8])
    assert np.mean(right[-8:]) > 0.8


def test_a_training_that_was_broken_off_within_a_round_ends_with_the_same_numbers(
    tmp_path: Path, whole: tuple[Path, TrainingReport]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, SIAMAC, until=11)
    # The checkpoint of step 5 lies within the second round, whose tuples it holds.
    report = run(tmp_path, SIAMAC)
    assert report.resumed_at in (5, 10)
    assert lines(tmp_path) == lines(whole[0])
    ours, theirs = named_tensors(report.network), named_tensors(whole[1].network)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_all_of_dir_s_parts_learn_and_frozen_layers_do_not(tmp_path: Path) -> None:
    made = network(DIR)
    begin_projection(made, batches(tmp_path, DIR))
    before = named_tensors(made)
    after = named_tensors(run(tmp_path, DIR).network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {"shift", "kernel"} < changed
    assert {name.split(".")[1] for name in changed - {"shift", "kernel"}} == {"stages"}
    assert not any(name.startswith("backbone.stem") for name in changed)


def test_the_exponent_of_gem_learns(tmp_path: Path) -> None:
    config = replace(SIAMAC, steps=4, head=HeadConfig(pooling="gem"))
    trained = run(tmp_path, config).network
    assert isinstance(trained, GlobalNetwork) and trained.exponent is not None
    assert 2.9 < float(trained.exponent[...]) < 3.1 and float(trained.exponent[...]) != 3


def test_the_learned_whitening_brings_photos_of_a_landmark_together(
    whole: tuple[Path, TrainingReport], tmp_path: Path
) -> None:
    trained, source = whole[1].network, batches(tmp_path, SIAMAC)
    assert isinstance(trained, GlobalNetwork)
    whitening = fitted_whitening(trained, source)
    assert whitening is not None and whitening.matrix.shape == (1024, 1024)
    members = np.flatnonzero(source.training)
    pooled = trained.pooled_by(HeadConfig(pooling="rmac", rmac_levels=3, rmac_whole_image=True))
    found = np.asarray(pooled(source.take(members)))
    labels = source.photos.labels[members]
    same = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    before, after = found @ found.T, whitening(found) @ whitening(found).T
    other = labels[:, None] != labels
    assert after[same].mean() - after[other].mean() > before[same].mean() - before[other].mean()


@pytest.mark.parametrize("pooling", ["mac", "rmac", "gem"])
def test_the_descriptor_that_is_trained_is_the_one_that_is_extracted(pooling: Pooling) -> None:
    head = HeadConfig(pooling=pooling, rmac_levels=3, rmac_whole_image=True)
    trained = network(replace(SIAMAC, head=head))
    pixels = np.random.default_rng(0).integers(0, 256, (80, 61, 3), np.uint8)
    padded = PaddedPhotos(
        np.pad(pixels, ((0, 16), (0, 35), (0, 0)))[None].astype(np.float32), np.array([[80, 61]])
    )
    found = np.asarray(trained(trained.fixed(padded)))[0]
    settings = GlobalConfig(
        backbone=BackboneConfig(name="resnet50", weights="random"),
        sides=(96,),
        pooling=pooling,
        rmac_levels=3,
        rmac_whole_image=True,
    )
    config = DelfConfig(global_features=settings)
    extractor = GlobalExtractor(config, fold_batch_norm(small_resnet()))
    image = DecodedImage(pixels, (80, 61), "")
    expected = extractor.dispatch([image]).result()[0].global_descriptor
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_projection_without_regions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"head.projection_dim is 8, but the pooling is 'mac'"):
        network(replace(SIAMAC, head=HeadConfig(projection_dim=8)))


def test_a_network_that_would_not_learn_anything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"frozen_layers is 99, but the backbone has \d+ layers"):
        network(replace(SIAMAC, frozen_layers=99))
    # GeM has an exponent to learn, DIR a projection.
    network(replace(SIAMAC, frozen_layers=99, head=HeadConfig(pooling="gem")))
    network(replace(DIR, frozen_layers=99))


def test_descriptors_that_are_not_finite_name_the_photograph(tmp_path: Path) -> None:
    config = replace(SIAMAC, frozen_layers=3)
    source = batches(tmp_path, config)
    victim = int(np.flatnonzero(source.validation)[2])
    source._source.cached.maps[victim] = np.nan  # type: ignore[attr-defined]  # they are cached
    with (
        Checkpoints(tmp_path, {**to_dict(config), "seed": 0}) as checkpoints,
        pytest.raises(TrainingError, match=rf"the descriptor of {victim}.jpg is not finite"),
    ):
        train(network(config), source, config=config, checkpoints=checkpoints, progress=False)


def test_both_recipes_are_trained_by_command_and_extraction_takes_what_they_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"landmarks": 1, "train_landmarks": 5, "train_views": 3, "database_views": 1}
    small = world_config("ci", **counts, query_views=0, distractors=0, no_match=0)
    build_world(tmp_path / "world", small, progress=False)
    file = tmp_path / "model.safetensors"

    def trained(preset: str, out: Path, *changes: str) -> int:
        fields = [
            "steps=2",
            "batch_size=2",
            "square_side=64",
            "frozen_layers=11",
            "tuples.negatives=2",
            "tuples.max_scale_change=9",
            "global_features.backbone.name=efficientnet_lite0",
            "global_features.backbone.output=conv4",
            *changes,
        ]
        assigned = [word for field in fields for word in ("--set", field)]
        root = ["--root", str(tmp_path / "world")]
        return main(
            ["train", "world_train", "--out", str(out), "--preset", preset, *root, *assigned]
        )

    assert trained("quick_siamac", file) == 0
    assert "train: 2 steps, 0 of them earlier" in capsys.readouterr().err
    content = file.read_bytes()
    file.unlink()
    assert trained("quick_siamac", file) == 0
    printed = capsys.readouterr().err
    assert "train: 2 steps, 2 of them earlier" in printed and "validation mAP" in printed
    assert file.read_bytes() == content
    config = override_system(DelfConfig(), [f"model={file}", "global_features.sides=[64]"])
    assert config.global_features.pooling == "rmac" and config.global_features.rmac_whole_image
    assert config.global_features.whitening.kind == "learned"
    assert load_part(config.global_features.whitening.weights, WHITENING)[0]["shift"].shape == (
        112,
    )

    other = tmp_path / "dir.safetensors"
    assert trained("quick_dir", other, "head.projection_dim=16") == 0
    config = override_system(config, [f"model={other}"])
    assert config.global_features.whitening.kind == "none"
    assert load_part(config.global_features.region_projection.weights, PROJECTION)[0][
        "matrix"
    ].shape == (112, 16)
    extractor = load_global_extractor(config)
    photo = decode_image(next((tmp_path / "world").rglob("train/**/*.jpg")), max_side=64)
    (found,) = extractor.dispatch([photo]).result()[:1]
    assert found.global_descriptor is not None and found.global_descriptor.shape == (16,)
    assert np.linalg.norm(found.global_descriptor) == pytest.approx(1, abs=1e-4)

    assert trained("quick_siamac", tmp_path / "few.safetensors", "tuples.negatives=4") == 1
    assert "4 negatives (tuples.negatives), but" in capsys.readouterr().err
