"""Names in a page of docs/, and whether there are such: keys of a config, commands with their options, files."""

import re
from collections.abc import Iterator
from pathlib import Path

import typer.main

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config.schema import Place, whole_config

ROOT = Path(__file__).parents[2]
SECTIONS = ("model", "corpus", "store", "training", "evaluation", "interpretation", "report", "toy", "tracking")
OF_A_VARIANT = ("sae", "objective", "resampling", "reads", "writes")
ALONE = ("name", "seed", "sweep")


def quoted(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def unknown(text: str) -> list[str]:
    """What stands in backticks and looks like a key, a command or a file, and is none."""
    return [name for name in quoted(text) if not _exists(name)]


def _exists(name: str) -> bool:
    if name.startswith(("strata ", "python run_pipeline.py ")):
        return _is_command(name.split()[1:] if name.startswith("strata ") else name.split()[2:])
    if re.fullmatch(r"(configs|docs|tests|benchmarks)/[\w./*-]+", name):
        return any(ROOT.glob(name))
    key = name.split(":")[0].strip()
    if re.fullmatch(r"[a-z0-9_.]+", key) and key.split(".")[0] in (*SECTIONS, *OF_A_VARIANT, *ALONE):
        return is_key(key)
    return True


def is_key(key: str) -> bool:
    """Whether a config, or a variant in it, has such a key."""
    first, *rest = key.split(".")
    root = whole_config()
    start = root.properties["variants"] if first in OF_A_VARIANT else root
    places = list(_inner(start, "any")) if first in OF_A_VARIANT else [start]
    for step in (first, *rest):
        places = [inner for place in places for inner in _inner(place, step)]
    return bool(places)


def _inner(place: Place, step: str) -> Iterator[Place]:
    """Where a step may lead to, in every member of a union."""
    for option in place.options:
        if option.properties:
            if step in option.properties:
                yield option.properties[step]
        else:
            rest = [*option.pattern_properties.values(), option.additional_properties]
            yield from (other for other in rest if isinstance(other, Place))


def _is_command(words: list[str]) -> bool:
    command = typer.main.get_command(app)
    while words and (commands := getattr(command, "commands", None)):
        if words[0] not in commands:
            return False
        command, words = commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    return all(word in options for word in words if word.startswith("--"))
