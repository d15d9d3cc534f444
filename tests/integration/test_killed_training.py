"""A training killed at every step: the weight file that was there or the new one is there whole,
and the same command, run again, ends with the bytes of a training that nobody killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delfjax.models.weights import load_weights, save_weights
from delfjax.training.loop import METRICS, metric_lines
from tests.kills import kill_at_every_step

# Photos of three landmarks, by the beginning of their names.
LANDMARKS = {"0a": 4, "b3": 3, "f7": 2}
# What a forked process would do anew.
SETUP = """
import sys
from pathlib import Path
import delfjax.cli.running, delfjax.pipeline.photos, delfjax.datasets.published.google_landmarks
import pandas, scipy.spatial, PIL.Image
from delfjax.cli import main
from tests.integration.light_training import prepare
PIL.Image.preinit()
prepare(Path({data!r}), {classes}, {changes!r}, {stage!r})
"""
CHANGES = [
    "square_side=48",
    "crop_side=32",
    "rescales=[0.5,1.0]",
    "batch_size=2",
    "log_every=1",
    "validate_every=1",
    "steps=3",
    "hidden=8",
]
# The maps of attention are computed from those of the first two layers; both are cached.
STAGES = {
    "attention": ["--preset", "quick_attention", "--set", "frozen_layers=2"],
    "finetune": ["--preset", "quick_finetune", "--set", "frozen_layers=3"],
}


def write_photos(root: Path) -> None:
    """A training set in the layout of Google-Landmarks v2, of noise."""
    rng = np.random.default_rng(21)
    lines = ["landmark_id,images"]
    for label, (start, count) in enumerate(LANDMARKS.items()):
        names = [f"{start}{number:014x}" for number in range(count)]
        lines.append(f"{100 + label},{' '.join(names)}")
        for name in names:
            file = root / "train" / "/".join(name[:3]) / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
            noise.resize((72, 54), Image.Resampling.BICUBIC).save(file)
    (root / "train" / "train_clean.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("stage", "every"),
    [
        ("attention", 30),
        pytest.param("attention", 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param("finetune", 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_killed_training_ends_as_one_that_nobody_killed(
    tmp_path: Path, stage: str, every: int
) -> None:
    place, photos = tmp_path / "place", tmp_path / "photos"
    write_photos(photos)
    out, training = place / "out.safetensors", place / "out.training"
    save_weights(out, {"kernel": np.zeros(3, np.float32)}, {"name": "earlier"})
    words = ["train", "google_landmarks_v2_clean", "--root", str(photos), "--out", str(out)]
    words += [*STAGES[stage], *(word for change in CHANGES for word in ("--set", change))]

    def check() -> None:
        assert load_weights(out)[1]["name"] in ("earlier", "attention", "efficientnet_lite0")
        for file in (training / "checkpoints").glob("[0-9]*"):
            load_weights(file)
        metric_lines(training / METRICS)

    kills = kill_at_every_step(
        place,
        setup=SETUP.format(
            data=str(place / "data"),
            classes=len(LANDMARKS),
            changes=[*CHANGES, STAGES[stage][-1]],
            stage=stage,
        ),
        action=f"sys.exit(main({words!r}))",
        check=check,
        size_limits=(100, 1000, 50_000) if every == 1 else (),
        every=every,
        same_bytes=True,
    )
    assert kills > 60 / every
    _, about = load_weights(out)
    assert about["name"] != "earlier" and about["validation"]["accuracy"] == 0.5
