"""pydantic's errors as lines for people: where, what stands there, what is allowed, and the nearest known name."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from strata_sae.pipeline.config.lookup import nearest
from strata_sae.pipeline.config.schema import in_words, kind_of, locate, options, settings_class
from strata_sae.pipeline.strict_yaml import Path

_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}


def lines_of(error: ValidationError, data: Any, origins: Mapping[Path, str]) -> list[str]:
    """One line per problem, in the order of the file, each with where its value comes from."""
    found: dict[str, None] = {}
    details = [(detail, *locate(detail["loc"], data)) for detail in error.errors(include_url=False)]
    bounded = {path for detail, path, _, _ in details if _is_bound(detail["type"])}
    for detail, path, annotation, branch in details:
        if _is_about_another_branch(annotation, branch, detail["input"]):
            continue
        if path in bounded and not _is_bound(detail["type"]):
            continue  # a number was meant, so what the other branches of a union expect is beside the point
        if detail["type"] == "literal_error" and isinstance(detail["input"], int | float) and branch is not None:
            continue  # likewise: the branch that takes numbers says what is wrong with it
        message = _message(dict(detail), path, annotation, data)
        where = f"{'.'.join(map(str, path))}: " if path else ""
        found[f"{_origin(path, origins)}: {where}{message}"] = None
    return list(found)


def _is_bound(kind: str) -> bool:
    """Whether pydantic says that a value is of the right kind, but too large, small or odd."""
    return kind in _BOUNDS or kind in ("value_error", "finite_number")


def _origin(path: Path, origins: Mapping[Path, str]) -> str:
    """Where the value at `path`, or else the nearest thing around it, comes from: "demo.yaml:31", "--set seed=x"."""
    around = path
    while around not in origins:
        around = around[:-1]
    inside = [origin for place, origin in origins.items() if place[: len(path)] == path and origin.startswith("--set")]
    return " with ".join(dict.fromkeys([origins[around], *inside]))


def _message(detail: dict[str, Any], path: Path, annotation: Any, data: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(str(path[-1]), _parent_settings(path, data))
    if kind == "missing":
        return _missing(str(path[-1]), _parent_settings(path, data))
    if kind in _BOUNDS:
        shown = kind_of(value) if isinstance(value, int) and value.bit_length() > 200 else value
        return f"must be {_BOUNDS[kind].format(**context)}, got {shown}"
    if kind == "literal_error":
        return _not_allowed(
            value, [option for member in options(annotation) for option in getattr(member, "__args__", ())]
        )
    if kind == "union_tag_invalid":
        key, names = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "").split(", ")
        return f"{key} {_not_allowed(context['tag'], names)}"
    if kind == "union_tag_not_found":
        return f"the key {context['discriminator']} is missing; it says which kind this is"
    if kind == "too_short":
        return f"needs at least {context['min_length']}, got {context['actual_length']}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, got {kind_of(value)}"
    if kind == "finite_number":
        return f"must be finite, got {kind_of(value)}"
    if kind == "value_error":
        return str(context["error"])
    if kind.endswith(("_type", "int_from_float")):
        return f"expected {in_words(annotation)}, got {kind_of(value)}"
    return str(detail["msg"])


def unknown_key(key: str, settings: type[BaseModel] | None) -> str:
    """Says that `settings` has no such key, and names the nearest one, or all of them."""
    known = list(settings.model_fields) if settings is not None else []
    hint = nearest(key, known)
    return f"no such key{hint}" if hint or not known else f"no such key; known: {', '.join(known)}"


def _missing(key: str, settings: type[BaseModel] | None) -> str:
    description = (
        settings.model_fields[key].description if settings is not None and key in settings.model_fields else None
    )
    return f"missing; {' '.join(description.split())}" if description else "missing"


def _not_allowed(value: Any, allowed: list[Any]) -> str:
    names = [str(name) for name in allowed if name is not None]
    shown = repr(value) if isinstance(value, str) and len(value) < 60 else kind_of(value)
    return f"{shown} is not allowed; allowed: {', '.join(names)}{nearest(str(value), names)}"


def _parent_settings(path: Path, data: Any) -> type[BaseModel] | None:
    parent = path[:-1]
    _, annotation, _ = locate(parent, data)
    for step in parent:
        data = data[step]
    return settings_class(annotation, data)


def _is_about_another_branch(annotation: Any, branch: str | None, value: Any) -> bool:
    """A union reports every branch; a mapping is only ever meant for a branch that is a settings class."""
    models = [
        option.__name__ for option in options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)
    ]
    return isinstance(value, dict) and branch is not None and bool(models) and not any(m in branch for m in models)
