"""What a page says of files and records: without anybody's paths, each line once, names in the config's order."""

from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.runs.records import Record

R = TypeVar("R", bound=Record)


def told(error: Exception, run: Path) -> str:
    """An error in a file of the run, without the way to the run."""
    return str(error).replace(f"{run}/", "").removeprefix("variants/")


def once(lines: list[str], line: str) -> None:
    """A record may be read for several parts of the page."""
    if line not in lines:
        lines.append(line)


def without_paths(record: R) -> R:
    """The record without anybody's paths."""
    return record.model_validate(masked(record.model_dump(mode="json")))


def in_order(present: set[str], known: JsonValue) -> list[str]:
    """Those present, in the order of `known` where it is a list or an object, then the others by name."""
    first = [name for name in known if name in present] if isinstance(known, dict | list) else []
    return [str(name) for name in dict.fromkeys(first)] + sorted(present - set(first))


def short(path: Path) -> str:
    """A file's name, with its SAE's before it."""
    return f"{path.parent.name}/{path.name}" if "@" in path.parent.name else path.name
