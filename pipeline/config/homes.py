"""Where in a config a key belongs that stands in the wrong place: most often its indentation is wrong."""

from collections.abc import Iterator

from strata_sae.pipeline.config.schema import Place, whole_config
from strata_sae.pipeline.strict_yaml import Path

TOP = "the top of the file"
MOST = 4
"""A key that more places have (`weight` of every term) says nothing of where it was meant to stand."""


def homes(path: Path) -> list[str]:
    """The sections, other than that of `path`, which have a key of its name; none where there are many."""
    key, here = str(path[-1]), _without_names(path[:-1])
    found = [".".join(where) or TOP for where, place in _groups(whole_config(), ()) if key in place.properties]
    others = list(dict.fromkeys(one for one in found if one != here))
    return others if len(others) <= MOST else []


def misplaced(path: Path) -> str:
    """What to say of an unknown key that other sections have ("; it is a key of training: ..."), else nothing."""
    there = homes(path)
    if not there:
        return ""
    if there == [TOP]:
        return f"; it belongs at {TOP}: write it at the beginning of a line"
    return f"; it is a key of {' and of '.join(there)}: is it indented as it should be?"


def _groups(place: Place, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Place]]:
    """Every group of settings and the keys that lead to it; <name> and <n> stand for any name and position."""
    for option in place.options:
        if option.properties:
            yield where, option
        for key, inner in option.properties.items():
            yield from _groups(inner, (*where, key))
        for inner in option.pattern_properties.values():
            yield from _groups(inner, (*where, "<name>"))
        if option.items is not None:
            yield from _groups(option.items, (*where, "<n>"))


def _without_names(path: Path) -> str:
    """A path as `_groups` gives it."""
    steps = ["<n>" if isinstance(step, int) else step for step in path]
    return ".".join([*steps[:1], *(["<name>"] if steps[0] == "variants" else steps[1:2]), *steps[2:]]) if path else TOP
