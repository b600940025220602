"""A preset against a table of its source's values: each is in the config, and no other is written without a reason."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.config import RunConfig, load
from strata_sae.pipeline.config.sweep import expand
from strata_sae.pipeline.strict_yaml import Yaml, parse

PRESETS = Path(__file__).parents[2] / "configs/presets"
Leaves = dict[str, Yaml]
"""Values by the dotted paths of their keys."""


class Fact(NamedTuple):
    """What a source has."""

    key: str
    """Dotted path; `*` stands for anything. `variants.<name>.terms` are the names of a variant's loss terms."""
    value: Yaml
    """Of every setting that the key names."""
    cite: str
    """File and line, or command, of the source."""


class Grid(NamedTuple):
    """What a source has, each value in at least one variant, and no other in any."""

    key: str
    value: Sequence[Yaml]
    cite: str


class Ours(NamedTuple):
    """What no source has: a setting that is ours, and why it has this value."""

    key: str
    why: str


Table = Sequence[Fact | Grid | Ours]
"""All that a preset's file writes."""


def facts(table: Table) -> list[Fact | Grid]:
    """What a source has."""
    return [entry for entry in table if not isinstance(entry, Ours)]


def hub(path: str, cite: str, **keys: str) -> list[Fact]:
    """A data set of the hub, the corpus' first source, of which the texts to train on are read."""
    named = {"kind": "dataset", "path": path, "column": "text", "split": "train", **keys}
    return [Fact(f"corpus.sources.0.{key}", value, cite) for key, value in named.items()]


def leaves(config: RunConfig) -> Leaves:
    """Every setting of a config; `training` of a variant as it trains, with what it shares."""
    data = config.model_dump(mode="json")
    for name, variant in config.variants.items():
        data["variants"][name]["training"] = variant.merged(config.training).model_dump(mode="json")
        data["variants"][name]["terms"] = list(variant.objective)
    return flat(data)


def written(path: Path) -> list[str]:
    """The settings that a file writes, sweeps written out."""
    data, _ = parse(path.read_text(encoding="utf-8"), str(path))
    assert isinstance(data, dict)
    variants = data["variants"]
    assert isinstance(variants, dict)
    made = {name: variant for name, (_, variant) in expand(variants, data.pop("sweep", None)).items()}
    keys = flat({**data, "variants": made})
    return [key for key in keys if not fnmatchcase(key, "variants.*.kind")]  # what the sweep of a variant is called


def wrong(found: Leaves, table: Table) -> list[str]:
    """The facts that a config does not have, by their keys."""
    said = []
    for fact in facts(table):
        values = [value for key, value in found.items() if fnmatchcase(key, fact.key)]
        if isinstance(fact, Fact):
            right = bool(values) and all(value == fact.value for value in values)
        else:
            right = all(value in fact.value for value in values) and all(value in values for value in fact.value)
        if not right:
            said.append(fact.key)
    return said


def uncited(keys: Sequence[str], table: Table) -> list[str]:
    """The settings that a table does not name."""
    return [key for key in keys if not any(_is_named(key, entry.key) for entry in table)]


def changed(found: Leaves, fact: Fact | Grid) -> Leaves:
    """The settings with one of those that a fact names changed."""
    key = next(key for key in found if fnmatchcase(key, fact.key))
    return {**found, key: ["another", found[key]]}


def loaded(name: str) -> RunConfig:
    """A preset, by its file's name without the suffix."""
    return load(PRESETS / f"{name}.yaml")


def _is_named(key: str, entry: str) -> bool:
    """Whether a table's key is of a written one: training is each variant's, an empty term has nothing but its name."""
    path = key.split(".")
    if path[0] == "training" and entry.endswith(f".{key}"):
        return True
    if "objective" in path and path.index("objective") == len(path) - 2:
        return fnmatchcase(".".join([*path[:-2], "terms"]), entry)
    return fnmatchcase(key, entry)


def flat(data: Mapping[str, Yaml], path: tuple[str, ...] = ()) -> Leaves:
    """The values of nested mappings, also of those in a list, an empty mapping as it is."""
    found: Leaves = {}
    for key, value in data.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(position): item for position, item in enumerate(value)}
        found |= flat(value, (*path, key)) if isinstance(value, dict) and value else {".".join((*path, key)): value}
    return found
