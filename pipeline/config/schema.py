"""The schema as a tree to walk: which settings class a place in a config belongs to, and what may stand there."""

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.objective import TERMS
from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.strict_yaml import Path

_WORDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def locate(location: Iterable[str | int], data: Any) -> tuple[Path, Any, str | None]:
    """The path in `data` that a pydantic error location means, the annotation there, and the union branch it is about.

    A location names the branch of a union, which the data do not: ('weight', 'Schedule', 'start') is `weight.start`.
    """
    path: list[str | int] = []
    annotation: Any = RunConfig
    branch: str | None = None
    for step in location:
        if step == "[key]":
            break
        if branch is None and _is_union(annotation):
            branch = str(step)
            continue
        annotation = child(annotation, data, step)
        data = _item(data, step)
        branch = None
        path.append(step)
    return tuple(path), annotation, branch


def child(annotation: Any, value: Any, step: str | int) -> Any:
    """The annotation of `value[step]`, or None where the schema has no such place."""
    settings = settings_class(annotation, value)
    if settings is not None:
        field = settings.model_fields.get(str(step))
        return None if field is None else field.annotation
    for option in options(annotation):
        if get_origin(option) is list:
            return get_args(option)[0]
        if get_origin(option) is dict:
            inner = _bare(get_args(option)[1])
            return TERMS[step].Settings if inner is TermSettings and step in TERMS else inner
    return None


def settings_class(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The settings class that `value` should become: unions and registries are decided by the value's own name."""
    classes = [option for option in options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]
    if SAESettings in classes:
        name = _item(value, "architecture")
        return ARCHITECTURES[name].Settings if isinstance(name, str) and name in ARCHITECTURES else SAESettings
    if len(classes) < 2:
        return classes[0] if classes else None
    for settings in classes:
        kinds = (
            get_args(field.annotation) for field in settings.model_fields.values() if _is_literal(field.annotation)
        )
        if isinstance(value, dict) and any(kind in value.values() for names in kinds for kind in names):
            return settings
    return None


def options(annotation: Any) -> list[Any]:
    """The members of a union, without `Annotated`; one member for any other annotation."""
    annotation = _bare(annotation)
    if get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return [inner for option in get_args(annotation) for inner in options(option)]


def in_words(annotation: Any) -> str:
    """What may stand there: "an integer or null"."""
    words = []
    for option in options(annotation):
        origin = get_origin(option) or option
        words.append(
            "a mapping" if isinstance(origin, type) and issubclass(origin, BaseModel) else _WORDS.get(origin, "")
        )
    return " or ".join(dict.fromkeys(word for word in words if word)) or "something else"


def kind_of(value: Any) -> str:
    """The value as a person would type it, and its kind: "'abc' (a string)"."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > 200:  # Python spells no integer of more than 4300 digits
        return f"an integer of {value.bit_length()} bits"
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"{str(value).lower()} (a boolean)" if isinstance(value, bool) else f"{shown} ({_WORDS[type(value)]})"


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _is_union(annotation: Any) -> bool:
    """Whether pydantic names a branch here: null is not a branch."""
    return len([option for option in options(annotation) if option is not type(None)]) > 1


def _is_literal(annotation: Any) -> bool:
    return get_origin(_bare(annotation)) is Literal


def _item(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (KeyError, IndexError, TypeError):
        return None
