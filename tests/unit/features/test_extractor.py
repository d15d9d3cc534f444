"""The pyramid extractor: canvases do not change features, few programs are compiled, and options
have their documented effect."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import jax
import numpy as np
import pytest
from flax import nnx

from delfjax.config import DelfConfig, override
from delfjax.datasets.images import DecodedImage
from delfjax.device import count_compilations
from delfjax.features.extractor import Extractor, load_extractor
from delfjax.models.attention import AutoencodedScorer
from delfjax.models.delf import Delf, load_delf
from delfjax.models.layers import fold_batch_norm
from delfjax.models.resnet import ResNet
from delfjax.models.tensors import abstract, named_shapes, with_tensors
from delfjax.models.weights import load_weights, save_weights, shipped_attention
from delfjax.ops import convolution, pyramid
from delfjax.ops.half_pixel import to_original_px
from delfjax.ops.receptive_field import centres_px
from delfjax.types import ImageFeatures, LocalFeatures

SMALL = override(DelfConfig(), ["features.max_side=192", "features.max_features=150"])
# Sides of the 300 images of any sizes, pixels; the end is not included.
ANY_SIZE = (12, 177)


@pytest.fixture(scope="module")
def model() -> Delf:
    return load_delf(SMALL)


@pytest.fixture(scope="module")
def any_size(model: Delf) -> Extractor:
    """Keeps every cell of images of up to 176 pixels."""
    config = override(
        DelfConfig(), [f"features.max_side={ANY_SIZE[1] - 1}", "features.max_features=100000"]
    )
    return Extractor(config, model)


def decoded(pixels: np.ndarray) -> DecodedImage:
    return DecodedImage(pixels, (pixels.shape[0], pixels.shape[1]), "")


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth random colours: structure at several scales, different everywhere."""
    rng = np.random.default_rng(seed)
    coarse = (
        rng.normal(size=(height // 16 + 2, width // 16 + 2, 3))
        .repeat(16, 0)
        .repeat(16, 1)[:height, :width]
    )
    fine = rng.normal(size=(height, width, 3))
    return np.clip(128 + 45 * coarse + 15 * fine, 0, 255).astype(np.uint8)


def extract(model: Delf, config: DelfConfig, images: list[np.ndarray]) -> list[ImageFeatures]:
    extractor = Extractor(config, model)
    return [extractor.dispatch([decoded(image)]).result()[0] for image in images]


def native(
    model: Delf, config: DelfConfig, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every cell of every level, extracted from the image alone at its own size: keypoints, scales,
    scores, descriptors."""
    graph, state = nnx.split(model)
    size = image.shape[:2]
    found = []
    for scale in config.features.scales:
        target = pyramid.level_size(size, scale)
        if min(target) < config.features.min_level_side:
            continue
        targets = np.array([target], np.int32)

        def level(
            state: object, source: jax.Array, targets: jax.Array, target: tuple[int, int]
        ) -> tuple[jax.Array, ...]:
            pixels = pyramid.resize_onto(
                source, jax.numpy.asarray(np.array([size], np.int32)), targets, target
            )
            features, scores = nnx.merge(graph, state)(pixels, targets)
            return features.values[0], scores[0]

        # XLA's grouped convolution in place of shifted copies: another path to the same numbers,
        # and quicker to compile.
        with patch.object(convolution, "depthwise", convolution._grouped):
            compiled = jax.jit(
                partial(level, target=target),
                compiler_options={"xla_backend_optimization_level": 0},
            )
            values, scores = compiled(state, image[None], targets)
        cells = np.indices(scores.shape).reshape(2, -1).T.astype(np.int32)
        factors = (np.array(target, np.float32) / np.array(size, np.float32))[None]
        keypoints = to_original_px(
            centres_px(model.receptive_field, jax.numpy.asarray(cells)), jax.numpy.asarray(factors)
        )
        flat = np.asarray(values).reshape(-1, values.shape[-1])
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        found.append(
            (
                np.asarray(keypoints),
                np.full(len(cells), scale, np.float32),
                np.asarray(scores).ravel(),
                flat,
            )
        )
    keypoints, scales, scores, descriptors = (
        np.concatenate(part) for part in zip(*found, strict=True)
    )
    # A keypoint is a cell centred on the image; the last row and column can be centred on the
    # padding.
    on_image = ((keypoints >= -0.5) & (keypoints <= np.array(size) - 0.5)).all(axis=1)
    return keypoints[on_image], scales[on_image], scores[on_image], descriptors[on_image]


def assert_equal_to_native(
    model: Delf, config: DelfConfig, ours: LocalFeatures, image: np.ndarray
) -> np.ndarray:
    """Check that every cell of every level was found, with the position, score and descriptor of
    native extraction; return the native scores."""
    keypoints, scales, scores, descriptors = native(model, config, image)
    assert len(ours.scales) == len(scales)  # borders included: not one cell more or less
    for scale in np.unique(scales):
        mine, theirs = ours.scales == scale, scales == scale
        nearest = np.abs(ours.keypoints_yx[mine][:, None] - keypoints[theirs][None]).max(axis=2)
        match = nearest.argmin(axis=1)
        assert nearest.min(axis=1).max() < 0.5
        assert len(set(match.tolist())) == len(match)
        cosine = (ours.descriptors[mine] * descriptors[theirs][match]).sum(axis=1)
        assert cosine.min() > 0.999
        # Sums of a few hundred float32 products, in another order.
        np.testing.assert_allclose(ours.scores[mine], scores[theirs][match], rtol=1e-3)
    return scores


@pytest.mark.parametrize("size", [(192, 143), (101, 77)])
def test_every_feature_equals_that_of_the_image_extracted_alone(
    model: Delf, size: tuple[int, int]
) -> None:
    config = override(SMALL, ["features.scales=[0.5,1.4142]", "features.max_features=100000"])
    image = photo(*size, seed=3)
    scores = assert_equal_to_native(model, config, extract(model, config, [image])[0].local, image)
    few = override(config, ["features.max_features=40"])
    selected = extract(model, few, [image])[0].local.scores
    np.testing.assert_allclose(selected, np.sort(scores)[::-1][:40], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(30))
def test_every_feature_of_300_images_of_any_sizes_equals_that_of_the_image_extracted_alone(
    model: Delf, any_size: Extractor, part: int
) -> None:
    """All seven levels of ten images; slow, because native extraction compiles every size."""
    sizes = (
        np.random.default_rng(0).integers(*ANY_SIZE, (300, 2))[10 * part : 10 * part + 10].tolist()
    )
    for number, (height, width) in enumerate(sizes):
        image = photo(height, width, seed=10 * part + number)
        ours = any_size.dispatch([decoded(image)]).result()[0].local
        assert len(assert_equal_to_native(model, any_size.config, ours, image)) > 0


@pytest.mark.parametrize(
    ("images", "scales", "most"),
    [
        (60, "[0.5,1.0]", 20),
        pytest.param(300, "[0.25,0.3536,0.5,0.7071,1.0,1.4142,2.0]", 40, marks=pytest.mark.slow),
    ],
)
def test_images_of_any_sizes_compile_few_programs_and_a_second_process_none(
    images: int, scales: str, most: int, tmp_path: Path
) -> None:
    script = """
import sys
import numpy as np
from delfjax import device
from delfjax.config import DelfConfig, override
from delfjax.datasets.images import DecodedImage
from delfjax.features.extractor import Extractor, load_extractor
from delfjax.models.delf import load_delf
device.use_compilation_cache()
config = override(DelfConfig(), ["features.max_side=176", "features.scales=" + sys.argv[2]])
extractor = Extractor(config, load_delf(config))
sizes = np.random.default_rng(0).integers(12, 177, (300, 2)).tolist()
with device.count_compilations() as count:
    for size in sizes[:int(sys.argv[1])]:
        extractor.dispatch([DecodedImage(np.zeros((*size, 3), np.uint8), tuple(size), "")]).result()
print(count.programs, count.compiled)
"""
    # A cache of their own: in that of the tests, others may have left some of the programs.
    environment, counts = {**os.environ, "DELFJAX_DATA": str(tmp_path)}, []
    for number in (images, 20):
        command = [sys.executable, "-c", script, str(number), scales]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=240, env=environment
        )
        counts.append([int(number) for number in done.stdout.split()])
    (programs, compiled), (programs_again, compiled_again) = counts
    assert 1 < programs <= most and compiled == programs
    assert 1 < programs_again <= programs and compiled_again == 0


def test_another_scorer_selection_and_pooling_compile_the_backbone_no_second_time(
    model: Delf,
) -> None:
    extract(model, override(SMALL, ["features.scales=[1.0]"]), [photo(150, 190, seed=15)])
    changes = [
        "scorer.kind=norm",
        "features.max_features=37",
        "features.global_descriptor=gem",
        "features.scales=[1.0]",
    ]
    other = override(SMALL, changes)
    with count_compilations() as count:
        extract(load_delf(other), other, [photo(150, 190, seed=15)])
    # The best of a level, and the merge of the levels; the backbone is not even looked for.
    assert count.compiled <= count.programs == 2


def test_a_batch_sharded_over_four_devices_equals_one_device() -> None:
    script = """
import jax
import numpy as np
from delfjax.config import DelfConfig, override
from delfjax.datasets.images import DecodedImage
from delfjax.features.extractor import Extractor, load_extractor
from delfjax.models.delf import load_delf
changes = ["features.max_side=96", "features.max_features=50", "features.scales=[1.0]"]
config = override(DelfConfig(), changes)
model = load_delf(config)
sharded = Extractor(config, model)
single = Extractor(config, model, devices=jax.local_devices()[:1])
assert (sharded.batch_size, single.batch_size) == (4, 1)
pixels = np.random.default_rng(0).integers(0, 256, (3, 80, 96, 3), dtype=np.uint8)
images = [DecodedImage(image, (80, 96), "") for image in pixels]
pending = sharded.dispatch(images)
assert len(pending.computed.local.scores.sharding.device_set) == 4
for ours, image in zip(pending.result(), images, strict=True):
    alone = single.dispatch([image]).result()[0]
    np.testing.assert_array_equal(ours.local.keypoints_yx, alone.local.keypoints_yx)
    np.testing.assert_allclose(ours.local.descriptors, alone.local.descriptors, atol=1e-5)
print("equal")
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_a_batch_equals_its_images_one_by_one(model: Delf) -> None:
    images = [photo(150, 190, seed=6), photo(144, 192, seed=7)]
    config = override(SMALL, ["features.scales=[0.7071,1.0]"])
    single = extract(model, config, images)
    extractor = Extractor(override(config, ["features.batch_size=3"]), model)
    assert len({extractor.canvas(*image.shape[:2]) for image in images}) == 1
    batched = extractor.dispatch([decoded(image) for image in images]).result()
    for one, other in zip(single, batched, strict=True):
        np.testing.assert_allclose(one.local.keypoints_yx, other.local.keypoints_yx, atol=1e-3)
        assert (one.local.descriptors * other.local.descriptors).sum(axis=1).min() > 0.9999


def test_keypoints_are_in_pixels_of_the_original_image(model: Delf) -> None:
    image = photo(120, 160, seed=8)
    config = override(SMALL, ["features.scales=[1.0]"])
    extractor = Extractor(config, model)
    half = extractor.dispatch([DecodedImage(image, (240, 320), "")]).result()[0].local
    same = extractor.dispatch([DecodedImage(image, (120, 160), "")]).result()[0].local
    np.testing.assert_allclose(half.keypoints_yx, (same.keypoints_yx + 0.5) * 2 - 0.5, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (9, 120)])
def test_an_image_too_small_for_any_level_has_no_features(
    model: Delf, size: tuple[int, int]
) -> None:
    config = override(SMALL, ["features.scales=[0.5,1.0]", "features.global_descriptor=gem"])
    features = extract(model, config, [np.zeros((*size, 3), np.uint8)])[0]
    assert features.local.descriptors.shape == (0, 112)
    assert features.global_descriptor is not None and not features.global_descriptor.any()


def test_suppression_leaves_no_two_boxes_overlapping_more_than_the_limit(model: Delf) -> None:
    config = override(
        SMALL, ["features.scales=[1.0]", "features.nms_iou=0.8", "features.max_features=60"]
    )
    local = extract(model, config, [photo(150, 190, seed=9)])[0].local
    apart = np.abs(local.keypoints_yx[:, None] - local.keypoints_yx[None])
    side = model.receptive_field.size - 1
    overlap = np.prod(np.maximum(side - apart, 0), axis=2)
    iou = overlap / (2 * side**2 - overlap)
    np.fill_diagonal(iou, 0)
    assert len(local.scales) > 0 and iou.max() <= 0.8 + 1e-5


@pytest.mark.parametrize("border", [0.0, 24.0])
def test_no_keypoint_lies_outside_the_image_or_on_its_border(model: Delf, border: float) -> None:
    config = override(
        SMALL,
        ["features.scales=[0.5]", "features.max_features=100000", f"features.border_px={border}"],
    )
    local = extract(model, config, [photo(150, 190, seed=14)])[0].local
    assert len(local.scales) > 0
    margin = border / 0.5 - 0.5
    assert local.keypoints_yx.min() >= margin - 1e-3
    assert (local.keypoints_yx <= np.array([149, 189]) - margin + 1e-3).all()


def test_thresholds_cut_the_list(model: Delf) -> None:
    image = photo(150, 190, seed=10)
    base = override(SMALL, ["features.scales=[1.0]"])
    full = extract(model, base, [image])[0].local
    middle = float(np.median(full.scores))
    absolute = override(base, ["features.threshold_kind=absolute", f"features.threshold={middle}"])
    assert (
        len(extract(model, absolute, [image])[0].local.scores)
        == (full.scores >= np.float32(middle)).sum()
    )
    percentile = override(base, ["features.threshold_kind=percentile", "features.threshold=75"])
    cells = (
        9 * 11
    )  # 150 × 190 px at stride 16; the tenth row and twelfth column are centred beyond the edge
    assert len(extract(model, percentile, [image])[0].local.scores) == -(-cells // 4)


@pytest.mark.parametrize("kind", ["gem", "mac", "rmac"])
def test_the_global_descriptor_has_unit_length_and_knows_its_image(model: Delf, kind: str) -> None:
    config = override(SMALL, ["features.scales=[0.7071,1.0]", f"features.global_descriptor={kind}"])
    image, other = photo(150, 190, seed=11), photo(150, 190, seed=12)
    same, again, different = (
        f.global_descriptor for f in extract(model, config, [image, image[:, 4:], other])
    )
    assert same is not None and again is not None and different is not None
    np.testing.assert_allclose(np.linalg.norm(same), 1, atol=1e-5)
    assert same @ again > same @ different


def test_codes_with_a_bias_replace_features_and_regions_lie_within_the_unpadded_map() -> None:
    """DELG as in its TF2 code, with an encoder that gives every feature the same code."""

    def build(rngs: nnx.Rngs) -> Delf:
        scorer = AutoencodedScorer(1024, code_dim=4, code_bias=True, hidden=4, rngs=rngs)
        return Delf(ResNet((1, 1, 1), stride_layout="keras", rngs=rngs), scorer, output="conv4")

    shapes, code = named_shapes(abstract(build)), np.arange(4, dtype=np.float32)
    held = {
        name: np.full(shape, float(name.endswith("norm.var")), np.float32)
        for name, shape in shapes.items()
    }
    small = fold_batch_norm(with_tensors(abstract(build), held | {"scorer.encoder.bias": code}))
    config = override(DelfConfig(), ["features.max_side=96", "features.scales=[1.0]"])
    local = extract(small, config, [photo(96, 65, seed=14)])[0].local
    # The fifth column of 65 pixels would need a pool with padding.
    assert len(local.scores) == 6 * 4 and small.channels == 4
    np.testing.assert_allclose(
        local.descriptors, np.tile(code / np.linalg.norm(code), (24, 1)), atol=1e-6
    )
    regions = Extractor(override(config, ["features.global_descriptor=rmac"]), small)._regions(
        np.array([[96, 65]], np.int32)
    )
    assert regions[0, :, 2:].max(axis=0).tolist() == [6, 4]


def test_bfloat16_stays_close_to_float32(model: Delf) -> None:
    base = override(SMALL, ["features.scales=[1.0]", "features.max_features=100000"])
    image = photo(120, 160, seed=13)
    full, half = (
        extract(model, config, [image])[0].local
        for config in (base, override(base, ["features.dtype=bfloat16"]))
    )
    order = [np.lexsort(local.keypoints_yx.T) for local in (full, half)]
    cosine = (full.descriptors[order[0]] * half.descriptors[order[1]]).sum(axis=1)
    # bfloat16 keeps 8 bits; errors average out over the hundred-odd terms of a cosine.
    assert np.median(cosine) > 0.99


def test_images_of_different_canvases_cannot_share_a_batch(model: Delf) -> None:
    extractor = Extractor(override(SMALL, ["features.batch_size=2"]), model)
    with pytest.raises(ValueError, match="need different canvases"):
        extractor.dispatch([decoded(photo(190, 100, seed=1)), decoded(photo(40, 40, seed=2))])


def test_an_extractor_is_loaded_once_until_its_weights_change(tmp_path: Path) -> None:
    file = tmp_path / "attention.safetensors"
    tensors, about = load_weights(shipped_attention("landmark_world"))
    save_weights(file, tensors, about)
    config = override(SMALL, [f"scorer.weights={file}"])
    first = load_extractor(config)
    assert load_extractor(override(config, ["search.neighbours=5", "seed=4"])) is first
    assert load_extractor(override(config, ["features.max_features=100"])) is not first
    save_weights(file, {name: 2 * tensor for name, tensor in tensors.items()}, about)
    assert load_extractor(config) is not first
    drawn = override(config, ["scorer.weights=random"])
    assert load_extractor(drawn) is not load_extractor(override(drawn, ["seed=4"]))
