"""Settings chosen by name from a registry, with the nearest known name in every error."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question naming the nearest known name ("; did you mean 'x'?"), or nothing when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is longer than a line of an error has room for."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def build(value: Any, key: str, registry: Mapping[str, type[Model]]) -> Model:
    """The settings `registry[value[key]]` made from a mapping; settings already built pass through.

    Raises: ValueError naming the key, the value and what is allowed.
    """
    if any(isinstance(value, settings) for settings in registry.values()):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of settings, got {shown(value)}")
    name = value.get(key)
    if name is None:
        raise ValueError(f"the key {key!r} is missing; known: {', '.join(registry)}")
    if not isinstance(name, str) or name not in registry:
        raise ValueError(f"{key} {shown(name)} is unknown; known: {', '.join(registry)}{nearest(str(name), registry)}")
    return registry[name].model_validate(value)
