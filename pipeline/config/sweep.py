"""`sweep:` in a config file: a grid over any keys of variants, written out as one named variant per point.

    sweep: {seed: [0, 1]}                 # beside `variants`: for every variant
    variants:
      topk:
        sweep: {sae.k: [32, 64]}          # in a variant: for this one; topk_k-32_seed-0, topk_k-32_seed-1, ...
        sae: {architecture: topk, d_sae: 16384}

A key is a path from the variant. Its values are a list, or a mapping of labels (parts of names) to values. What a sweep
makes of a variant is of one `kind`: with `evaluation.target_l0` the report names the one nearest to it.
"""

import copy
import re
from collections import Counter
from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Annotated

from pydantic import WithJsonSchema

from strata_sae.pipeline.errors import shown
from strata_sae.pipeline.strict_yaml import Yaml

MAX_VARIANTS = 1000
"""Variants that sweeps may make (count): a slip in a grid should not start a month of training."""
MAX_NAME = 64
"""Characters of a variant's name, as config/run.py has it."""

_VAGUE = ("start", "end")
"""Ends of keys that are no name by themselves: they say nothing of what the schedule is of."""

_VALUES = {"anyOf": [{"type": "array"}, {"type": "object"}]}
Sweep = Annotated[
    None, WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": _VALUES}, {"type": "null"}]})
]
"""What a config says of a sweep: in a file a grid, and nothing once it is written out."""
Grid = dict[str, dict[str, Yaml]]
"""Key -> label -> value."""


def expand(variants: Mapping[str, Yaml], common: Yaml = None) -> dict[str, tuple[str, Yaml]]:
    """Every variant by its new name: the name it stood under, and its plain data without `sweep`.

    Raises: ValueError for a grid that is none, equal names, long names or too many variants.
    """
    shared = _mapping("sweep", common)
    grids = {
        name: _grid(name, _shared(data, shared) | _mapping(f"variants.{name}.sweep", data.get("sweep")))
        for name, data in variants.items()
        if isinstance(data, dict)
    }
    if (n_variants := sum(prod(len(values) for values in grid.values()) for grid in grids.values())) > MAX_VARIANTS:
        raise ValueError(f"sweeps make {n_variants} variants; at most {MAX_VARIANTS}; use fewer values")
    expanded: dict[str, tuple[str, Yaml]] = {}
    for name in variants:
        grid = grids.get(name, {})  # a variant that is no mapping is refused when it is validated
        for labels in product(*grid.values()):
            point = {key: grid[key][label] for key, label in zip(grid, labels, strict=True)}
            named = "_".join([name, *(f"{short}-{label}" for short, label in zip(_short(grid), labels, strict=True))])
            data = variants[name]
            made = _with(data, point, name) if grid and isinstance(data, dict) else data
            if named in expanded and expanded[named][1] != made:
                raise ValueError(
                    f"{shown(repr(named))} is the name of two variants ({expanded[named][0]} and {name}); rename one"
                )
            if grid and len(named) > MAX_NAME:
                raise ValueError(
                    f"{shown(repr(named))} has {len(named)} characters, at most {MAX_NAME} make a name; "
                    f"shorten {name!r}, or give values short labels: {{label: value}}"
                )
            expanded[named] = (name, made)
    return expanded


def _shared(data: dict[str, Yaml], shared: dict[str, Yaml]) -> dict[str, Yaml]:
    """The grid over every variant, as it holds for one: what is imported has no setting to sweep but its own."""
    return {} if "from" in data else shared


def _mapping(where: str, grid: Yaml) -> dict[str, Yaml]:
    if grid is None or isinstance(grid, dict):
        return grid or {}
    raise ValueError(f"{where}: expected a mapping of keys to lists of values, for example {{sae.k: [32, 64]}}")


def _grid(name: str, grid: dict[str, Yaml]) -> Grid:
    """The grid with every value labelled."""
    labelled: Grid = {}
    for key, values in grid.items():
        where = f"sweep of variant {name!r}: {key}"
        pairs = (
            list(values.items()) if isinstance(values, dict) else [(_label(value), value) for value in _list(values)]
        )
        if not pairs:
            raise ValueError(f"{where}: expected a list of values, or a mapping of labels to values")
        for label, value in pairs:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", label):
                raise ValueError(
                    f"{where}: {shown(repr(value))} cannot be part of a name; give it a label: {{label: value}}"
                )
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"{where}: a value stands twice in {shown(repr([label for label, _ in pairs]))}")
        labelled[key] = dict(pairs)
    return labelled


def _list(values: Yaml) -> list[Yaml]:
    return values if isinstance(values, list) else []


def _label(value: Yaml) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(grid: Grid) -> list[str]:
    """The end of each key: as many words as tell it from the others, and more than a schedule's `start` or `end`."""
    ends = {key: [".".join(key.split(".")[-n:]) for n in range(1, key.count(".") + 2)] for key in grid}
    times = Counter(end for of_one in ends.values() for end in of_one)
    return [
        next(end for end in of_one if end == key or (times[end] == 1 and end not in _VAGUE))
        for key, of_one in ends.items()
    ]


def _with(data: dict[str, Yaml], point: dict[str, Yaml], name: str) -> Yaml:
    """A copy of a variant's data, with the values of a point of the grid at their keys, and the variant as its kind."""
    made = {key: copy.deepcopy(value) for key, value in data.items() if key != "sweep"}
    for key, value in point.items():
        *path, last = key.split(".")
        here = made
        for step in path:
            inner = here[step] = {} if here.get(step) is None else here[step]
            if not isinstance(inner, dict):
                raise ValueError(
                    f"sweep of variant {name!r}: {key}: {step} is {shown(repr(inner))}; there is no {last!r} in it"
                )
            here = inner
        here[last] = value
    return {"kind": name} | made
