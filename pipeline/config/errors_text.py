"""pydantic's errors as lines for people: where, what stands there, what is allowed, and the nearest known name."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from strata_sae.pipeline.config.homes import misplaced
from strata_sae.pipeline.config.schema import Place, whole_config
from strata_sae.pipeline.errors import nearest, shown
from strata_sae.pipeline.runs.migration import SECTIONS, new_name
from strata_sae.pipeline.strict_yaml import Path, Yaml

_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_WORDS: dict[type, str] = {str: "a string", int: "an integer", float: "a number"}


class _Problem(NamedTuple):
    """An error of pydantic and the place it is about."""

    detail: ErrorDetails
    path: Path
    place: Place
    parent: Place
    branch: str | None
    """What pydantic calls the member of a union that complains; None where there is no union."""


def lines_of(error: ValidationError, data: Yaml, origins: Mapping[Path, str]) -> list[str]:
    """One line per problem, in the order of the file, each with where its value comes from."""
    found: dict[str, None] = {}
    root = whole_config()
    problems = [_located(detail, data, root) for detail in error.errors(include_url=False)]
    bounded = {problem.path for problem in problems if _is_bound(problem.detail["type"])}
    for problem in problems:
        kind, value = problem.detail["type"], problem.detail["input"]
        if _is_about_another_branch(problem):
            continue
        if problem.path in bounded and not _is_bound(kind):
            continue  # a number was meant, so what the other branches of a union expect is beside the point
        if kind == "literal_error" and isinstance(value, int | float) and problem.branch is not None:
            continue  # likewise: the branch that takes numbers says what is wrong with it
        where = f"{'.'.join(map(str, problem.path))}: " if problem.path else ""
        found[f"{_origin(problem.path, origins)}: {where}{_message(problem)}"] = None
    return list(found)


def unknown_key(path: Path, known: Iterable[str]) -> str:
    """Says that there is no such key, and how it is called now, or where it belongs, or the nearest one, or all."""
    if name := _name_now(path):
        return f"is called {name} now"
    known = list(known)
    hint = misplaced(path) or nearest(str(path[-1]), known)
    return f"no such key{hint}" if hint else f"no such key; known: {', '.join(known)}"


def _name_now(path: Path) -> str | None:
    """What the key at `path` is called since it was renamed."""
    for where, section in SECTIONS["config.yaml"].items():
        steps = where.split(".")
        if len(steps) == len(path) - 1 and all(one in ("*", step) for one, step in zip(steps, path[:-1], strict=True)):
            return new_name(section, str(path[-1]))
    return None


def kind_of(value: Yaml) -> str:
    """The value as a person would type it, and its kind: "'abc' (a string)"."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, int) and value.bit_length() > 200:  # Python spells no integer of more than 4300 digits
        return f"an integer of {value.bit_length()} bits"
    return f"{shown(repr(value))} ({_WORDS[type(value)]})"


def _located(detail: ErrorDetails, data: Yaml, root: Place) -> _Problem:
    """The place in `data` that a location of pydantic means: it names branches of unions, which the data do not.

    ('weight', 'Schedule', 'start') is `weight.start`.
    """
    path: list[str | int] = []
    place = parent = root
    branch: str | None = None
    for step in detail["loc"]:
        if step == "[key]":
            break
        if branch is None and place.is_union:
            branch = str(step)
            continue
        place, parent, data = place.child(step, data), place.of(data), item(data, step)
        branch = None
        path.append(step)
    return _Problem(detail, tuple(path), place, parent, branch)


def _is_bound(kind: str) -> bool:
    """Whether pydantic says that a value is of the right kind, but too large, small or odd."""
    return kind in _BOUNDS or kind in ("value_error", "finite_number")


def _is_about_another_branch(problem: _Problem) -> bool:
    """A union reports every branch; a mapping is only ever meant for a branch that is a group of settings."""
    branch, place = problem.branch, problem.place
    if branch is None or place.discriminator or not isinstance(problem.detail["input"], dict):
        return False
    groups = [option.title for option in place.options if option.properties]
    return bool(groups) and not any(name in branch for name in groups)


def _origin(path: Path, origins: Mapping[Path, str]) -> str:
    """Where the value at `path`, or else the nearest thing around it, comes from: "demo.yaml:31", "--set seed=x"."""
    around = path
    while around not in origins:
        around = around[:-1]
    inside = [origin for place, origin in origins.items() if place[: len(path)] == path and origin.startswith("--set")]
    return " with ".join(dict.fromkeys([origins[around], *inside]))


def _message(problem: _Problem) -> str:
    detail, path, place = problem.detail, problem.path, problem.place
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(path, problem.parent.properties)
    if kind == "missing":
        return f"missing; {' '.join(place.description.split())}"
    if kind in _BOUNDS:
        is_long = isinstance(value, int) and value.bit_length() > 200
        return f"must be {_BOUNDS[kind].format(**context)}, got {kind_of(value) if is_long else value}"
    if kind == "literal_error":
        said = repr(value) if isinstance(value, str) and len(value) < 60 else kind_of(value)
        return f"{said} is not allowed; allowed: {', '.join(place.names)}{nearest(str(value), place.names)}"
    if kind == "union_tag_invalid":
        tag, names = context["tag"], place.tags
        return f"{place.discriminator} {shown(repr(tag))} is unknown; known: {', '.join(names)}{nearest(tag, names)}"
    if kind == "union_tag_not_found":
        return f"the key {place.discriminator!r} is missing; known: {', '.join(place.tags)}"
    if kind == "too_short":
        return f"needs at least {context['min_length']}, got {context['actual_length']}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, got {kind_of(value)}"
    if kind == "finite_number":
        return f"must be finite, got {kind_of(value)}"
    if kind == "value_error":
        return str(context["error"])
    if kind.endswith(("_type", "int_from_float")):
        return f"expected {place.words}, got {kind_of(value)}{_in_a_mapping(place, path, value)}"
    return str(detail["msg"])


def _in_a_mapping(place: Place, path: Path, value: Yaml) -> str:
    """What a number alone mostly means where a mapping is expected: its weight, or its only key."""
    groups = [option.properties.keys() for option in place.options if option.properties]
    if isinstance(value, bool) or not isinstance(value, int | float) or len(groups) != 1:
        return ""
    keys = ["weight"] if "weight" in groups[0] else list(groups[0])
    return f"; did you mean `{path[-1]}: {{{keys[0]}: {value}}}`?" if len(keys) == 1 else ""


def item(value: Yaml, step: str | int) -> Yaml:
    """`value[step]`, or None where there is nothing."""
    if isinstance(value, dict):
        return value.get(str(step))
    return value[step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else None
