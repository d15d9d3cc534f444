"""Model files: the parts of one system, with the settings they are used with.

``delfjax weights export`` writes such a file. The names of its tensors begin with the part they
belong to (``backbone.…``, ``scorer.…``, ``reduction.…``; of a system of global descriptors,
``backbone.…``, ``projection.…``, ``whitening.…``). Its description has each part and holds the
settings that extraction needs, which ``--set model=FILE`` applies (:func:`override_system`). A file
with a single part, as training writes it, is read the same way.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from delfjax.config import (
    DELF,
    METHOD,
    MODEL,
    SYSTEM,
    Assignment,
    ConfigError,
    DelfConfig,
    WeightFile,
    override,
    parse_assignment,
    short_digest,
    system_assignments,
    to_dict,
    weight_file,
)
from delfjax.files import flatten
from delfjax.models.weights import (
    Tensors,
    WeightsError,
    describe_again,
    load_weights,
    named_file,
    read_description,
    save_weights,
    shipped_attention,
    tensor_digest,
)
from delfjax.records import Number, Record, read_record

C = TypeVar("C")

BACKBONE, SCORER, REDUCTION = "backbone", "scorer", "reduction"
# Of a global descriptor: what is applied to each region, and to the whole.
PROJECTION, WHITENING = "projection", "whitening"
# Parts whose config section has another name.
_SECTIONS = {
    PROJECTION: "global_features.region_projection",
    WHITENING: "global_features.whitening",
}
# Part → its config section, in a system of global descriptors.
GLOBAL_SECTIONS = {BACKBONE: "global_features.backbone", **_SECTIONS}
# Config section of a part's weights → the part.
_PARTS = {
    **{part: part for part in (BACKBONE, SCORER, REDUCTION)},
    **{section: part for part, section in GLOBAL_SECTIONS.items()},
}
# Config field that names what makes the local features, and sections that matter to those of a
# network alone.
METHOD_FIELD = f"features.{METHOD}"
_OF_NETWORK = (BACKBONE, SCORER, REDUCTION, "features")
# Config field that names the weights of a part → the part.
WEIGHTS_FIELDS = {f"{section}.weights": part for section, part in _PARTS.items()}
# The model's name in the JSON of a file with several parts.
WHOLE = "delf"
# The names in the JSON of a file that holds nothing but a scorer.
_SCORERS = ("attention", "delg")
# Fields of the section "features" that belong to a trained system. The others, such as the image
# size and the number of features, are the user's choice.
SYSTEM_FEATURES = ("scales", "threshold_kind", "threshold", "border_px")
# In a file's settings, stands for the path of the file itself.
_ITSELF = "*"


@dataclass
class _Tier(Record):
    inliers: Number


@dataclass
class _Means(Record):
    means: dict[str, Number | None]


@dataclass
class _Protocol(Record):
    inliers: _Means


@dataclass
class _Evaluation(Record):
    """Fields of a file of ``delfjax evaluate --json`` that a card repeats."""

    dataset: str
    config_hash: str
    tiers: dict[str, _Tier]
    results: dict[str, _Protocol]
    # Config section of a part → digest; not in the files of earlier versions.
    weights: dict[str, str] = field(default_factory=dict)


def save_model(
    path: Path,
    parts: Mapping[str, tuple[Tensors, dict[str, Any]]],
    *,
    system: Mapping[str, Any],
    about: Mapping[str, Any],
    sections: Mapping[str, str] = _SECTIONS,
) -> None:
    """Write a model file; it appears complete or not at all.

    Args:
        path: a ``.safetensors`` file.
        parts: part → its tensors and its description.
        system: config sections to use the parts with, nested as in the config; ``weights`` of each
            part is filled in.
        about: further plain values for the description.
        sections: part → dotted name of the config section that has its ``weights``, if it is not
            that of the part. :data:`GLOBAL_SECTIONS` for a system of global descriptors.

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
    settings = copy.deepcopy(dict(system))
    for part in parts:
        section = settings
        for name in sections.get(part, part).split("."):
            section = section.setdefault(name, {})
        section["weights"] = _ITSELF
    description = {"name": WHOLE, "parts": descriptions, "system": settings, **about}
    save_weights(path, tensors, description)


def load_part(path: str | Path, part: str) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and description of one part.

    Args:
        path: the file; as a config names it, with the digest of the part that it must hold.
        part: the part.

    Raises:
        WeightsError: the file is missing or damaged, has no such part, or holds other weights than
            those with the digest.
    """
    file = weight_file(str(path)) or WeightFile(str(path))
    if file.digest and not Path(file.path).is_file():
        raise WeightsError(
            f"{file.path}: no such file; the {part} needs the weights with the digest"
            f" {short_digest(file.digest)}; {_advice(part)}"
        )
    tensors, about = load_weights(file.path)
    if about["name"] == WHOLE:
        tensors, about = part_tensors(tensors, part), _described(file.path, about, part)
    if file.digest and (found := tensor_digest(tensors)) != file.digest:
        raise WeightsError(
            f"{file.path}: holds the weights with the digest {short_digest(found)}, but the {part}"
            f" needs those with {short_digest(file.digest)}; {_advice(part)}"
        )
    return tensors, about


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


def pinned(config: C) -> C:
    """``config`` with the absolute path and the digest of every weight file that it names.

    Whatever is kept under the hash of a config must be made with a pinned one: loading its weights
    fails once the file holds others.

    Raises:
        WeightsError: a weight file is missing, or its description is damaged.
    """
    named = flatten(to_dict(config))
    given = [Assignment(name, named[name]) for name in WEIGHTS_FIELDS if name in named]
    found = [pinned_assignment(each) for each in given]
    changed = [new for old, new in zip(given, found, strict=True) if new != old]
    return override(config, changed) if changed else config


def pinned_assignment(assignment: Assignment) -> Assignment:
    """``assignment`` with the absolute path and the digest of the weight file that it names; any
    other is returned as it is.

    Raises:
        ConfigError: there is no such model file.
        WeightsError: the weight file is missing, or its description is damaged.
    """
    if assignment.path not in (*WEIGHTS_FIELDS, MODEL):
        return assignment
    file = weight_file(_text(assignment.value))
    if file is None:
        return assignment
    path = os.path.abspath(os.path.expanduser(file.path))
    if file.digest:
        digest = file.digest
    elif assignment.path == MODEL:
        digest = _Model.read(file.path).digest
    else:
        digest = part_digest(path, WEIGHTS_FIELDS[assignment.path])
    return Assignment(assignment.path, str(WeightFile(path, digest)))


def weights_of(config: DelfConfig) -> dict[str, str]:
    """Config section of a part → digest of the part's weights, or their name if they are not in a
    file.

    The sections of global descriptors are there only if images are ranked by them.

    Raises:
        WeightsError: a weight file is missing, or its description is damaged.
    """
    named = {REDUCTION: config.reduction.weights}
    if config.features.method == DELF:
        named[BACKBONE] = config.backbone.weights
        if config.scorer.kind == "attention":
            named[SCORER] = config.scorer.weights
    if config.ranking.by != "local" or config.ranking.candidates != "local":
        settings = config.global_features
        named[GLOBAL_SECTIONS[BACKBONE]] = settings.backbone.weights
        named[GLOBAL_SECTIONS[PROJECTION]] = settings.region_projection.weights
        if settings.whitening.kind == "learned":
            named[GLOBAL_SECTIONS[WHITENING]] = settings.whitening.weights
    return {
        section: _digest_or_name(_PARTS[section], value)
        for section, value in named.items()
        if value
    }


def moved_weights(part: str, old: str, new: str) -> str | None:
    """The value of a field ``weights`` that names the weights of ``old`` where ``new`` says they
    are; ``None`` if those are others.

    Earlier versions did not record which weights a file held; any file may be such a one.

    Raises:
        WeightsError: a file of ``new`` is missing, or its description is damaged.
    """
    before, after = weight_file(old), weight_file(new)
    if before is not None and not before.digest:
        return None if after is None else new
    digest = _digest_or_name(part, old)
    if _digest_or_name(part, new) != digest:
        return None
    if before is None:
        # They have a name, by which they are found.
        return old
    place = after.path if after is not None else str(shipped_attention(new))
    return str(WeightFile(place, digest))


def override_system(config: C, assignments: Iterable[str | Assignment]) -> C:
    """``config`` with each ``path.to.field=value`` applied in turn.

    ``model=FILE`` sets every field that the model file has settings for; FILE is a path, or the
    name of a model that comes with the suite. ``system=NAME`` sets every field that makes the
    system (:mod:`delfjax.config.systems`). A weight file is pinned (:func:`pinned`).

    Raises:
        ConfigError: see :func:`delfjax.config.override`, or there is no such model file.
        WeightsError: a weight file is missing, or its description is damaged.
    """
    method = flatten(to_dict(config)).get(METHOD_FIELD, DELF)
    return override(config, expand(assignments, method=method))


def expand(assignments: Iterable[str | Assignment], *, method: str = DELF) -> list[Assignment]:
    """``assignments`` with every ``model=FILE`` and ``system=NAME`` replaced by one assignment per
    field it sets, and every weight file pinned (:func:`pinned`).

    A model belongs to the features of its network: where others are used, its reduction and scorer
    are left out.

    Args:
        assignments: fields to set.
        method: what makes the local features of the config that they are set in.

    Raises:
        ConfigError: an assignment without ``=``, or no such model file.
        WeightsError: a weight file is missing, or its description is damaged.
    """
    expanded: list[Assignment] = []
    for each in assignments:
        assignment = parse_assignment(each) if isinstance(each, str) else each
        if assignment.path == MODEL:
            found = _Model.read(_text(assignment.value)).assignments()
            expanded += [
                each for each in found if method == DELF or each.section not in _OF_NETWORK
            ]
        elif assignment.path == SYSTEM:
            expanded += system_assignments(_text(assignment.value), method=method)
        else:
            expanded.append(assignment)
        named = [_text(each.value) for each in expanded if each.path == METHOD_FIELD]
        method = named[-1] if named else method
    return [pinned_assignment(assignment) for assignment in expanded]


def record_scores(path: str | Path, evaluations: Sequence[Path]) -> None:
    """Record the scores of evaluations in a weight file; a new score of the same dataset and config
    replaces the old one.

    Args:
        path: the weight file.
        evaluations: files that ``delfjax evaluate --json`` wrote.

    Raises:
        WeightsError: a file is missing or damaged, is not an evaluation, or is one of other
            weights.
    """
    digests = _part_digests(path)
    added = [_scores(file, digests) for file in evaluations]

    def with_scores(about: dict[str, Any]) -> dict[str, Any]:
        scores = [*about.get("scores", ()), *added]
        kept = {(score["dataset"], score["config_hash"]): score for score in scores}
        return {**about, "scores": list(kept.values())}

    describe_again(path, with_scores)


def card(path: str | Path) -> Iterator[str]:
    """Lines that say what a weight file holds, what it was trained on and how it scored.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    tensors, about = load_weights(path)
    values = sum(tensor.size for tensor in tensors.values())
    yield f"{Path(path).name}: {about['name']}, {len(tensors)} tensors, {values:,} values"
    alone = {about["name"]: {"digest": tensor_digest(tensors), **about}}
    parts = about.get("parts", {}) if about["name"] == WHOLE else alone
    order = [BACKBONE, SCORER, REDUCTION, PROJECTION, WHITENING]
    for part in sorted(parts, key=lambda part: order.index(part) if part in order else len(order)):
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


@dataclass(frozen=True)
class _Model:
    """A model file, its digest, and the fields that it sets by their dotted names."""

    file: Path
    digest: str
    fields: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> _Model:
        """Read the description of the model file that ``model=name`` stands for."""
        held = weight_file(name) or WeightFile(name)
        try:
            file = named_file(held.path)
            about = read_description(file)
        except WeightsError as error:
            raise ConfigError(f"model={name}: {error}") from None
        if not about["config"].get("system"):
            raise ConfigError(
                f"model={name}: {file} does not describe a complete system;"
                " `delfjax weights export` writes one"
            )
        found = cls(file, about["digest"], flatten(about["config"]["system"]))
        if held.digest not in ("", found.digest):
            raise ConfigError(
                f"{file}: holds the model with the digest {short_digest(found.digest)}, but"
                f" {short_digest(held.digest)} is asked for; give the file that holds it"
            )
        return found

    def assignments(self) -> list[Assignment]:
        """One assignment for each field."""
        return [
            Assignment(path, json.dumps(str(self.file) if value == _ITSELF else value))
            for path, value in self.fields.items()
        ]


def _digest_or_name(part: str, weights: str) -> str:
    file = weight_file(weights)
    if file is not None:
        return file.digest or part_digest(file.path, part)
    if part == SCORER and weights != "random":
        return part_digest(shipped_attention(weights), part)
    return weights


def _part_digests(path: str | Path) -> dict[str, str]:
    """Part → its digest, for each part that a weight file holds."""
    about = read_description(path)["config"]
    if about["name"] == WHOLE:
        parts = list(about["parts"])
    elif about["name"] in _SCORERS:
        parts = [SCORER]
    else:
        parts = [about["name"] if about["name"] in _SECTIONS else BACKBONE]
    return {part: part_digest(path, part) for part in parts}


def _advice(part: str) -> str:
    return (
        f"name the file that holds them with --set {_SECTIONS.get(part, part)}.weights=FILE"
        " (`delfjax weights card` shows the digest of a file)"
    )


def _text(value: str) -> str:
    """The text that an assignment's value stands for: JSON, or the bare text."""
    try:
        text = json.loads(value)
    except json.JSONDecodeError:
        return value
    return text if isinstance(text, str) else value


def _described(path: str | Path, about: Mapping[str, Any], part: str) -> dict[str, Any]:
    parts = about.get("parts", {})
    if part not in parts:
        raise WeightsError(f"{path}: holds no {part}, only: {', '.join(parts) or 'nothing'}")
    found: dict[str, Any] = parts[part]
    return found


def _facts(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"  {name}: {value}" for name, value in flatten(values).items())


def _scores(file: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """The scores of an evaluation that a card lists: dataset, config, and means by inliers.

    Args:
        file: the evaluation.
        digests: part → digest of the weights that it must have scored.
    """

    def refused(reason: str) -> WeightsError:
        expected = "not an evaluation; expected a file written by `delfjax evaluate --json`"
        return WeightsError(f"{reason}; {expected}")

    found = read_record(file, _Evaluation, error=refused)
    tiers = {tier: scores["inliers"] for tier, scores in found["tiers"].items()}
    means = {
        f"{protocol} {mean}": value
        for protocol, kept in found["results"].items()
        for mean, value in kept["inliers"]["means"].items()
        if value is not None
    }
    for part, digest in digests.items():
        scored = [
            value
            for section, value in found.get("weights", {}).items()
            if _PARTS.get(section) == part
        ]
        if digest not in scored:
            named = " and ".join(map(short_digest, scored)) or "not named"
            raise WeightsError(
                f"{file}: scores of other weights: its {part} is {named}, that of the weight file"
                f" is {short_digest(digest)}; evaluate the weight file again"
            )
    return {
        "dataset": found["dataset"],
        "config_hash": found["config_hash"],
        "inliers": tiers or means,
    }
