"""A config as a YAML file in which the docstring of every key stands above it: no comment can be out of date."""

import textwrap
from collections.abc import Iterator

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.settings import Settings
from strata_sae.pipeline.strict_yaml import unparse

WIDTH = 100
"""Characters of a line, its indentation included: such a line fits half a screen."""
ONLY_SET = ("sources", "variants")
"""Keys below which the file has only what differs from the defaults: each variant would repeat all of them."""


def commented(config: RunConfig) -> str:
    """YAML of every key of a config with its docstring, each docstring once; `load` reads an equal config from it."""
    return "\n".join(_group(config, "", set(), only_set=False)) + "\n"


def _group(group: Settings, indent: str, explained: set[tuple[str, str]], *, only_set: bool) -> Iterator[str]:
    """The lines of a group of settings. `explained`: (class, key) of those whose docstring stands above already."""
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if field.exclude or (only_set and name not in group.model_fields_set) or (not indent and value in (None, {})):
            continue
        if not indent:
            yield ""
        if (key := (type(group).__name__, name)) not in explained:
            explained.add(key)
            text = " ".join((field.description or "").split())
            yield from textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(one, Settings) for one in held):
            yield from _below(field.alias or name, value, indent, explained, only_set=only_set or name in ONLY_SET)
        else:
            yield from (f"{indent}{line}" for line in unparse({field.alias or name: value}).splitlines())


def _below(
    name: str,
    groups: Settings | dict[str, Settings] | list[Settings],
    indent: str,
    explained: set[tuple[str, str]],
    *,
    only_set: bool,
) -> Iterator[str]:
    """The line of a key, and those of the settings that lie below it, alone, by name or in a list."""
    if isinstance(groups, Settings):
        inner = list(_group(groups, f"{indent}  ", explained, only_set=only_set))
        yield from [f"{indent}{name}:", *inner] if inner else [f"{indent}{name}: {{}}"]
    elif isinstance(groups, dict):
        yield f"{indent}{name}:"
        for key, group in groups.items():
            yield from _below(key, group, f"{indent}  ", explained, only_set=only_set)
    else:
        yield f"{indent}{name}:"
        for group in groups:
            yield f"{indent}  -"
            yield from _group(group, f"{indent}    ", explained, only_set=only_set)
