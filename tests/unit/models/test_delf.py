"""DELF's models: pretrained weights recognise a photograph, folding batch norm changes nothing, and
unsuitable weights are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from delfjax.config import BackboneConfig, DelfConfig, override
from delfjax.datasets.skimage_photos import source_photo
from delfjax.models.attention import AttentionScorer, feature_norm
from delfjax.models.delf import Delf, cell_scores, describe_backbone, load_backbone, load_delf
from delfjax.models.efficientnet_lite import EfficientNetLite0, InvertedBottleneck
from delfjax.models.layers import FeatureMap, fold_batch_norm
from delfjax.models.resnet import ResNet
from delfjax.models.tensors import abstract, named_shapes, named_tensors, with_tensors
from delfjax.models.weights import WeightsError, load_weights, save_weights, shipped_attention

# Classes of ImageNet that name what the photograph shows: tabby, tiger cat, Persian or Egyptian
# cat; espresso, cup; missile, projectile, space shuttle.
SHOWN = {"chelsea": {281, 282, 283, 285}, "coffee": {967, 968}, "rocket": {657, 744, 812}}


def centre_crop(photo: np.ndarray, side: int = 224) -> np.ndarray:
    """The middle of a photo whose shorter side becomes 256 pixels, as in training."""
    image = Image.fromarray(photo)
    factor = 256 / min(image.size)
    image = image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def test_the_embedded_classifier_names_cat_coffee_and_rocket_within_its_top_five() -> None:
    backbone = load_backbone(BackboneConfig())
    assert isinstance(backbone, EfficientNetLite0)
    graph, state = nnx.split(fold_batch_norm(backbone))

    @jax.jit
    def classify(state: object, pixels: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state)
        return model.classify(FeatureMap.full(model.normalise(pixels)))

    pixels = np.stack([centre_crop(source_photo(name, max_side=1024)) for name in SHOWN]).astype(
        np.float32
    )
    logits = np.asarray(classify(state, pixels))
    for row, (name, classes) in zip(logits, SHOWN.items(), strict=True):
        top = np.argsort(-row)[:5].tolist()
        assert classes & set(top), f"{name}: {top}"


def with_random_statistics(model: nnx.Module, rng: np.random.Generator) -> nnx.Module:
    """A model as if it had been trained: every norm has a mean, a variance, a scale and an offset
    of its own."""
    drawn = {}
    for name, tensor in named_tensors(model).items():
        if ".norm." in name:
            positive = name.endswith(("norm.var", "norm.scale"))
            draw = (
                rng.uniform(0.5, 1.5, tensor.shape)
                if positive
                else rng.normal(0, 0.3, tensor.shape)
            )
            drawn[name] = draw.astype(np.float32)
        else:
            drawn[name] = tensor
    return with_tensors(model, drawn)


def test_folding_batch_norm_changes_nothing_in_a_bottleneck_with_depthwise_convolution(
    rng: np.random.Generator,
) -> None:
    block = InvertedBottleneck(16, 16, kernel=5, stride=1, expansion=6, rngs=nnx.Rngs(0))
    trained = with_random_statistics(block, rng)
    trained.eval()
    x = FeatureMap.full(rng.normal(size=(1, 11, 9, 16)).astype(np.float32))
    plain, folded = (np.asarray(run(model, x)) for model in (trained, fold_batch_norm(trained)))
    assert ".norm." not in "".join(named_shapes(fold_batch_norm(trained)))
    # Kernel and gain are multiplied once instead of kernel times input times gain: one rounding
    # more or less a product.
    np.testing.assert_allclose(folded, plain, rtol=0, atol=1e-5 * float(np.abs(plain).max()))


def run(model: nnx.Module, x: FeatureMap) -> jax.Array:
    graph, state = nnx.split(model)
    values: jax.Array = jax.jit(lambda state, x: nnx.merge(graph, state)(x).values)(state, x)
    return values


@pytest.fixture(scope="module")
def small() -> Delf:
    """A ResNet of one block a stage with an attention scorer, statistics as after training; not
    folded."""
    backbone = abstract(lambda rngs: ResNet((1, 1, 1, 1), stride_layout="v1.5", rngs=rngs))
    rng = np.random.default_rng(4)
    kernels = {
        name: (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        for name, shape in named_shapes(backbone).items()
        if ".norm." not in name
    }
    norms = {
        name: np.ones(s, np.float32)
        for name, s in named_shapes(backbone).items()
        if ".norm." in name
    }
    scorer = AttentionScorer(1024, hidden=32, rngs=nnx.Rngs(1))
    model = Delf(with_tensors(backbone, kernels | norms), scorer, output="conv4")
    trained = with_random_statistics(model, rng)
    trained.eval()
    assert isinstance(trained, Delf)
    return trained


@pytest.fixture(scope="module")
def outputs(small: Delf) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and scores of one image by the model as trained, then by the folded one."""
    pixels = np.random.default_rng(5).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    extent = np.array([[64, 96]], np.int32)
    results = []
    for model in (small, fold_batch_norm(small)):
        graph, state = nnx.split(model)
        features, scores = jax.jit(
            lambda state, graph=graph: nnx.merge(graph, state)(pixels, extent)
        )(state)
        results += [np.asarray(features.values), np.asarray(scores)]
    return results[0], results[1], results[2], results[3]


def test_folding_batch_norm_changes_nothing_in_delf(
    outputs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    features, scores, folded_features, folded_scores = outputs
    # Thirteen layers of float32 products, each rounded once more or less.
    np.testing.assert_allclose(folded_features, features, rtol=0, atol=2e-5 * float(features.max()))
    np.testing.assert_allclose(folded_scores, scores, rtol=1e-3, atol=1e-5)
    assert features.std() > 0.1 and scores.std() > 0


def test_delf_scores_its_unnormalised_features(
    small: Delf, outputs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
) -> None:
    features, scores = outputs[:2]
    assert small.scorer is not None and small.channels == features.shape[-1] == 1024
    lengths = np.linalg.norm(features, axis=-1)
    assert np.abs(lengths - 1).min() > 0.1
    graph, state = nnx.split(small.scorer)
    score = jax.jit(lambda state, x: nnx.merge(graph, state)(FeatureMap.full(x)))
    # The same program but for what XLA fuses.
    np.testing.assert_allclose(scores, score(state, features), rtol=1e-4, atol=1e-5)
    assert not np.allclose(scores, score(state, features / lengths[..., None]), rtol=1e-2)


def test_the_scores_of_a_photograph_are_those_of_its_cells_at_its_size() -> None:
    model, photo = (
        load_delf(override(DelfConfig(), ["scorer.kind=norm"])),
        centre_crop(source_photo("coffee"), 80)[:64],
    )
    scores = cell_scores(model, photo)
    graph, state = nnx.split(model.backbone)
    normalised = (photo[None].astype(np.float32) - 127) / 128
    features = jax.jit(lambda state, x: nnx.merge(graph, state)(FeatureMap.full(x)).values)(
        state, normalised
    )
    assert scores.shape == (4, 5)
    np.testing.assert_allclose(scores, np.linalg.norm(np.asarray(features)[0], axis=-1), rtol=1e-4)


def test_without_attention_the_length_of_a_feature_is_its_score(rng: np.random.Generator) -> None:
    values = rng.normal(size=(1, 4, 5, 12)).astype(np.float32)
    np.testing.assert_allclose(
        jax.jit(feature_norm)(values), np.linalg.norm(values.astype(np.float64), axis=-1), rtol=1e-6
    )


def test_the_default_model_is_folded_and_has_the_attention_that_ships() -> None:
    model = load_delf(DelfConfig())
    tensors, about = load_weights(shipped_attention("landmark_world"))
    assert model.scorer is not None and model.channels == 112
    np.testing.assert_array_equal(model.scorer.score.kernel[...], tensors["score.kernel"])
    assert about["trained_on"] == "world_train" and about["backbone"] == describe_backbone(
        BackboneConfig()
    )
    assert load_delf(override(DelfConfig(), ["scorer.kind=norm"])).scorer is None
    assert not [name for name in named_shapes(model) if ".norm." in name]
    # EfficientNet-Lite0 up to its stride-16 stage.
    assert model.receptive_field.stride == 16


def refused(config: BackboneConfig) -> str:
    with pytest.raises(WeightsError) as error:
        load_backbone(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_embedded_weights_of_a_resnet_are_refused_with_the_way_to_get_some() -> None:
    message = refused(BackboneConfig(name="resnet50"))
    assert (
        "only efficientnet_lite0, efficientnet_lite2, vgg16 have packaged weights" in message
        and "delfjax weights convert" in message
    )


def checkpoint(path: Path, name: str, layout: str = "v1.5") -> str:
    save_weights(
        path, {"stem.kernel": np.zeros((3, 3), np.float32)}, {"name": name, "stride_layout": layout}
    )
    return str(path)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "w.safetensors", "resnet101")
    message = refused(BackboneConfig(name="resnet50", weights=file))
    assert (
        message
        == f"{file}: holds weights of resnet101 in stride layout v1.5, but the config sets resnet50"
        " in v1.5"
    )


def test_a_checkpoint_of_another_stride_layout_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "w.safetensors", "resnet50", layout="he")
    assert "resnet50 in stride layout he, but the config sets resnet50 in v1.5" in refused(
        BackboneConfig(name="resnet50", weights=file)
    )


def test_a_checkpoint_with_the_right_name_and_the_wrong_tensors_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "w.safetensors", "efficientnet_lite0")
    with pytest.raises(WeightsError, match="w.safetensors: does not fit the model") as error:
        load_backbone(BackboneConfig(weights=file))
    # Every tensor that does not fit is named, each on a line of its own.
    assert "stem.kernel" in str(error.value) and "blocks.0.project.kernel" in str(error.value)


def test_a_missing_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    assert "none." in refused(BackboneConfig(weights=str(tmp_path / "none.safetensors")))


def test_a_saved_backbone_loads_as_it_was(tmp_path: Path) -> None:
    saved = named_tensors(load_backbone(BackboneConfig()))
    file = tmp_path / "lite.safetensors"
    save_weights(file, saved, {"name": "efficientnet_lite0", "stride_layout": "v1.5"})
    again = named_tensors(load_backbone(BackboneConfig(weights=str(file))))
    assert again.keys() == saved.keys()
    assert all(np.array_equal(tensor, saved[name]) for name, tensor in again.items())


def attention(path: Path, *, channels: int = 112, **backbone: str) -> str:
    """A scorer's file, made for EfficientNet-Lite0 with ImageNet's weights except for the fields
    given in ``backbone``."""
    about = {"name": "attention", "backbone": {**describe_backbone(BackboneConfig()), **backbone}}
    save_weights(path, named_tensors(AttentionScorer(channels, hidden=8, rngs=nnx.Rngs(0))), about)
    return str(path)


def test_attention_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    file = attention(tmp_path / "attention.safetensors", channels=64)
    with pytest.raises(WeightsError, match="attention.safetensors: does not fit the model"):
        load_delf(override(DelfConfig(), [f"scorer.weights={file}"]))


def test_an_attention_for_other_features_is_refused(tmp_path: Path) -> None:
    """Its shape fits, so without this check it would be accepted silently and score noise."""
    file = attention(tmp_path / "attention.safetensors", weights="0123456789abcdef")
    with pytest.raises(WeightsError) as error:
        load_delf(override(DelfConfig(), [f"scorer.weights={file}"]))
    trained, asked = (
        "efficientnet_lite0 conv4 " + weights for weights in ("0123456789abcdef", "imagenet")
    )
    assert f"scores the features of {trained}, but the config extracts those of {asked}" in str(
        error.value
    )
    assert "scorer.kind=norm" in str(error.value)


def test_backbones_are_identified_by_the_content_of_their_files(tmp_path: Path) -> None:
    files = [
        checkpoint(tmp_path / name, "efficientnet_lite0")
        for name in ("one.safetensors", "same.safetensors")
    ]
    one, same = (describe_backbone(BackboneConfig(weights=file)) for file in files)
    assert one == same and str(tmp_path) not in str(one)
    assert "stride_layout" in describe_backbone(BackboneConfig(name="resnet50", weights="random"))


def test_an_attention_that_does_not_ship_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        WeightsError,
        match="'moon', which is neither a .safetensors file nor .*holds: landmark_world",
    ):
        load_delf(override(DelfConfig(), ["scorer.weights=moon"]))
