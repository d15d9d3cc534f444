"""Model files: backbone, scorer and reduction of one system, with the settings they are used with.

``delfjax weights export`` writes such a file. The names of its tensors begin with the part they
belong to (``backbone.…``, ``scorer.…``, ``reduction.…``). Its description has each part and holds
the settings that extraction needs, which ``--set model=FILE`` applies (:func:`override_system`). A
file with a single part, as training writes it, is read the same way.
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
# The model's name in the JSON of a file with several parts.
WHOLE = "delf"
# Fields of the section "features" that belong to a trained system. The others, such as the image
# size and the number of features, are the user's choice.
SYSTEM_FEATURES = ("scales", "threshold_kind", "threshold", "border_px")
# In a file's settings, stands for the path of the file itself.
_ITSELF = "*"


def save_model(
    path: Path,
    parts: Mapping[str, tuple[Tensors, dict[str, Any]]],
    *,
    system: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write a model file; it appears complete or not at all.

    Args:
        path: a ``.safetensors`` file.
        parts: part → its tensors and its description.
        system: config sections to use the parts with; ``weights`` of each part is filled in.
        about: further plain values for the description.

    Raises:
        WeightsError: ``path`` has another suffix.
    """
    tensors = {
        f"{part}.{name}": tensor
        for part, (held, _) in parts.items()
        for name, tensor in held.items()
    }
    descriptions = {
        part: {**described, "digest": tensor_digest(held)}
        for part, (held, described) in parts.items()
    }
    settings = {section: dict(fields) for section, fields in system.items()}
    for part in parts:
        settings.setdefault(part, {})["weights"] = _ITSELF
    description = {"name": WHOLE, "parts": descriptions, "system": settings, **about}
    save_weights(path, tensors, description)


def load_part(path: str | Path, part: str) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and description of one part.

    Raises:
        WeightsError: the file is missing or damaged, or has no such part.
    """
    tensors, about = load_weights(path)
    if about["name"] != WHOLE:
        return tensors, about
    return part_tensors(tensors, part), _described(path, about, part)


def part_tensors(tensors: Tensors, part: str) -> Tensors:
    """The tensors of one part, their names without the part's prefix."""
    return {
        name.removeprefix(f"{part}."): held
        for name, held in tensors.items()
        if name.startswith(f"{part}.")
    }


def part_digest(path: str | Path, part: str) -> str:
    """The digest that identifies a part wherever its file is stored; the tensors are not read.

    Raises:
        WeightsError: the file is missing or damaged, or describes no such part.
    """
    description = read_description(path)
    about: dict[str, Any] = description["config"]
    described = description if about["name"] != WHOLE else _described(path, about, part)
    return str(described["digest"])


def override_system(config: C, assignments: Iterable[str | Assignment]) -> C:
    """``config`` with each ``path.to.field=value`` applied in turn.

    ``model=FILE`` sets every field that the model file has settings for; FILE is a path, or the
    name of a model that comes with the suite.

    Raises:
        ConfigError: see :func:`delfjax.config.override`, or there is no such model file.
    """
    return override(config, expand(assignments))


def expand(assignments: Iterable[str | Assignment]) -> list[Assignment]:
    """``assignments`` with every ``model=FILE`` replaced by one assignment per field it sets.

    Raises:
        ConfigError: an assignment without ``=``, or no such model file.
    """
    expanded: list[Assignment] = []
    for each in assignments:
        assignment = parse_assignment(each) if isinstance(each, str) else each
        expanded += _settings(assignment.value) if assignment.path == MODEL else [assignment]
    return expanded


def record_scores(path: str | Path, evaluations: Sequence[Path]) -> None:
    """Record the scores of evaluations in a weight file; a new score of the same dataset and config
    replaces the old one.

    Args:
        path: the weight file.
        evaluations: files that ``delfjax evaluate --json`` wrote.

    Raises:
        WeightsError: a file is missing or damaged, or is not an evaluation.
    """
    tensors, about = load_weights(path)
    kept = {(score["dataset"], score["config_hash"]): score for score in about.get("scores", ())}
    for file in evaluations:
        score = _scores(file)
        kept[score["dataset"], score["config_hash"]] = score
    save_weights(path, tensors, {**about, "scores": list(kept.values())})


def card(path: str | Path) -> Iterator[str]:
    """Lines that say what a weight file holds, what it was trained on and how it scored.

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
        means = ", ".join(f"{name} {value:.3f}" for name, value in score["inliers"].items())
        yield f"  {score['dataset']}: {means} (by inliers, config {score['config_hash']})"


def _settings(model: str) -> list[Assignment]:
    """Assignments of all fields that a model file sets."""
    is_path = Path(model).suffix == ".safetensors"
    file = Path(model) if is_path else paths.shipped_weights() / f"{model}.safetensors"
    try:
        about = read_description(file)
    except WeightsError as error:
        raise ConfigError(f"model={model}: {error}") from None
    try:
        found = flatten(about["config"]["system"])
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"model={model}: {file} does not describe a complete system;"
            " `delfjax weights export` writes one"
        ) from None
    return [
        Assignment(path, json.dumps(str(file) if value == _ITSELF else value))
        for path, value in found.items()
    ]


def _described(path: str | Path, about: Mapping[str, Any], part: str) -> dict[str, Any]:
    parts = about.get("parts", {})
    if part not in parts:
        raise WeightsError(f"{path}: holds no {part}, only: {', '.join(parts) or 'nothing'}")
    found: dict[str, Any] = parts[part]
    return found


def _facts(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"  {name}: {value}" for name, value in flatten(values).items())


def _scores(file: Path) -> dict[str, Any]:
    """The scores of an evaluation that a card lists: dataset, config, and means by inliers."""
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
        raise WeightsError(
            f"{file}: not an evaluation; expected a file written by `delfjax evaluate --json`"
        ) from None
