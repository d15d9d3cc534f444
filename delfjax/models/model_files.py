"""A whole system in one file: backbone, scorer and reduction, and how they are to be used.

Such a file is written by ``delfjax weights export``. Its tensors carry the name of their part
(``backbone.…``, ``scorer.…``, ``reduction.…``), its JSON what each part is and the settings that
extraction needs; ``--set model=FILE`` applies these (:func:`override_system`). A file of one part,
as training writes it, is read the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from delfjax import paths
from delfjax.config import MODEL, Assignment, ConfigError, override, parse_assignment
from delfjax.files import flatten, read_json
from delfjax.models.weights import (
    Tensors,
    WeightsError,
    load_weights,
    read_description,
    save_weights,
    tensor_digest,
)

C = TypeVar("C")

BACKBONE, SCORER, REDUCTION = "backbone", "scorer", "reduction"
# Name of the model in the JSON of a file with parts.
WHOLE = "delf"
# Of the section "features", what belongs to a trained system; sizes and numbers are its user's
# choice.
SYSTEM_FEATURES = ("scales", "threshold_kind", "threshold", "border_px")
# In the settings of a file: this very file, wherever it lies.
_ITSELF = "*"


def save_model(
    path: Path,
    parts: Mapping[str, tuple[Tensors, dict[str, Any]]],
    *,
    system: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write a system; the file appears whole or not at all.

    Args:
        path: a ``.safetensors`` file; a ``.json`` file of the same stem appears beside it.
        parts: part → its tensors, and what it is.
        system: sections of the config that go with them; ``weights`` of the parts are set here.
        about: what else is worth knowing: plain values.

    Raises:
        WeightsError: another suffix.
    """
    tensors = {
        f"{part}.{name}": tensor
        for part, (held, _) in parts.items()
        for name, tensor in held.items()
    }
    told = {
        part: {**described, "digest": tensor_digest(held)}
        for part, (held, described) in parts.items()
    }
    settings = {section: dict(fields) for section, fields in system.items()}
    for part in parts:
        settings.setdefault(part, {})["weights"] = _ITSELF
    save_weights(path, tensors, {"name": WHOLE, "parts": told, "system": settings, **about})


def load_part(path: str | Path, part: str) -> tuple[Tensors, dict[str, Any]]:
    """Tensors of one part, and what it is.

    Raises:
        WeightsError: the file is missing, damaged, or has no such part.
    """
    tensors, about = load_weights(path)
    if about["name"] != WHOLE:
        return tensors, about
    return part_tensors(tensors, part), _described(path, about, part)


def part_tensors(tensors: Tensors, part: str) -> Tensors:
    """The tensors of one part, by the names they have in it."""
    return {
        name.removeprefix(f"{part}."): held
        for name, held in tensors.items()
        if name.startswith(f"{part}.")
    }


def part_digest(path: str | Path, part: str) -> str:
    """What tells a part from others, wherever its file lies; the tensors are not read.

    Raises:
        WeightsError: the JSON is missing or damaged, or names no such part.
    """
    described = read_description(path)
    about: dict[str, Any] = described["config"]
    return str(
        described["digest"] if about["name"] != WHOLE else _described(path, about, part)["digest"]
    )


def override_system(config: C, assignments: Iterable[str | Assignment]) -> C:
    """``config`` with each ``path.to.field=value`` applied in turn; ``model=FILE`` stands for all
    fields that a model file sets, and FILE may be the name of one that comes with the suite.

    Raises:
        ConfigError: see :func:`delfjax.config.override`, or there is no such model file.
    """
    return override(config, expand(assignments))


def expand(assignments: Iterable[str | Assignment]) -> list[Assignment]:
    """``assignments`` with every ``model=FILE`` replaced by those of all fields that the file sets.

    Raises:
        ConfigError: an assignment without ``=``, or no such model file.
    """
    expanded: list[Assignment] = []
    for each in assignments:
        assignment = parse_assignment(each) if isinstance(each, str) else each
        expanded += _settings(assignment.value) if assignment.path == MODEL else [assignment]
    return expanded


def record_scores(path: str | Path, evaluations: Sequence[Path]) -> None:
    """Add to a weight file what evaluations of it found; those of a dataset and config that are
    there already are replaced.

    Args:
        path: the weight file.
        evaluations: files that ``delfjax evaluate --json`` wrote.

    Raises:
        WeightsError: a file is missing or damaged, or no evaluation.
    """
    tensors, about = load_weights(path)
    kept = {(score["dataset"], score["config_hash"]): score for score in about.get("scores", ())}
    for file in evaluations:
        score = _scores(file)
        kept[score["dataset"], score["config_hash"]] = score
    save_weights(path, tensors, {**about, "scores": list(kept.values())})


def card(path: str | Path) -> Iterator[str]:
    """What a weight file is, what it was trained on and how it scored, line by line.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    tensors, about = load_weights(path)
    values = sum(tensor.size for tensor in tensors.values())
    yield f"{Path(path).name}: {about['name']}, {len(tensors)} tensors, {values:,} values"
    parts = about["parts"] if about["name"] == WHOLE else {about["name"]: about}
    for part in sorted(parts, key=[BACKBONE, SCORER, REDUCTION, about["name"]].index):
        yield part
        yield from _facts(
            {
                key: value
                for key, value in parts[part].items()
                if key not in ("scores", "same_backbone")
            }
        )
    for title in ("receptive_field", "system"):
        if title in about and about["name"] == WHOLE:
            yield title.replace("_", " ")
            yield from _facts(about[title])
    yield "scores" if about.get("scores") else "scores: none on record"
    for score in about.get("scores", ()):
        told = ", ".join(f"{name} {value:.3f}" for name, value in score["inliers"].items())
        yield f"  {score['dataset']}: {told} (by inliers, config {score['config_hash']})"


def _settings(model: str) -> list[Assignment]:
    """The fields that a model file sets."""
    own = Path(model).suffix == ".safetensors"
    file = Path(model) if own else paths.shipped_weights() / f"{model}.safetensors"
    described = file.with_suffix(".json")
    about = read_json(described, error=lambda reason: ConfigError(f"model={model}: {reason}"))
    try:
        found = flatten(about["config"]["system"])
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"model={model}: {described} holds no whole system; `delfjax weights export` writes one"
        ) from None
    return [
        Assignment(path, json.dumps(str(file) if value == _ITSELF else value))
        for path, value in found.items()
    ]


def _described(path: str | Path, about: Mapping[str, Any], part: str) -> dict[str, Any]:
    parts = about.get("parts", {})
    if part not in parts:
        raise WeightsError(f"{path}: has no {part}; it holds: {', '.join(parts) or 'nothing'}")
    found: dict[str, Any] = parts[part]
    return found


def _facts(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"  {name}: {value}" for name, value in flatten(values).items())


def _scores(file: Path) -> dict[str, Any]:
    """What a card says of an evaluation: dataset, means by inliers, config."""
    found = read_json(file, error=WeightsError)
    try:
        tiers = {tier: scores["inliers"] for tier, scores in found["tiers"].items()}
        means = {
            f"{protocol} {mean}": value
            for protocol, kept in found["results"].items()
            for mean, value in kept["inliers"]["means"].items()
            if value is not None
        }
        return {
            "dataset": found["dataset"],
            "config_hash": found["config_hash"],
            "inliers": tiers or means,
        }
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(f"{file}: not what `delfjax evaluate --json` writes") from None
