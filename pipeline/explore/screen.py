"""A screen: an address, a template, and what fills it. The app and the static pages share them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from strata_sae.pipeline.explore.prompts import Prompts
from strata_sae.pipeline.queries.asked_model import AskedModel
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE

Context = dict[str, Any]


class World(NamedTuple):
    """What all screens look at."""

    runs: dict[str, CodedRun]
    """By the name in addresses: of the run's folder, and a number behind it where two folders have one name."""

    prompts: Prompts | None = None
    """What the models of the runs are asked; None: no screen asks any."""

    @classmethod
    def of(
        cls, runs: list[CodedRun], models: Sequence[AskedModel] | None = None, missing: str | None = None
    ) -> "World":
        """The world of these runs, in their order.

        models: that of each, for the screen of prompts; None: without one. missing: what the models need first.
        """
        named: dict[str, CodedRun] = {}
        for run in runs:
            name, number = run.name, 2
            while name in named:
                name, number = f"{run.name}-{number}", number + 1
            named[name] = run
        return cls(named, None if models is None else Prompts(dict(zip(named, models, strict=True)), missing))

    def run(self, values: Mapping[str, str]) -> CodedRun:
        """The run that an address names. Raises: KeyError if there is no such run."""
        return self.runs[values["run"]]

    def sae(self, values: Mapping[str, str], key: str = "sae") -> CodedSAE:
        """The SAE that an address names. Raises: KeyError if there is no such SAE."""
        return self.run(values).saes[values[key]]


class Screen(NamedTuple):
    """One kind of page."""

    name: str
    """Also of its template: <name>.html.jinja."""
    pattern: str
    """Address as starlette spells it, such as /{run}/{sae}/{latent:int}."""
    fill: Callable[[World, Mapping[str, str]], Context]
    """What the template shows, of the values in the address and in the query.

    Values of the query are text of a stranger, at most 400 characters each; a value in the address is found in the
    world, or the page is not there. Raises: KeyError if there is no such thing; BadValueError for a value of the query
    that cannot be understood.
    """


class BadValueError(ValueError):
    """A value of an address that cannot be understood; the message says why, in a sentence for the page."""


def whole_number(values: Mapping[str, str], key: str, default: int, least: int, most: int) -> int:
    """A number of the query. Raises: BadValueError where it is none, or outside of least..most."""
    text = values.get(key, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and least <= int(text) <= most):
        raise BadValueError(f"{key}: {text[:40]} is no number from {least:,} to {most:,}")
    return int(text)


def chosen(values: Mapping[str, str], key: str, allowed: Collection[str], default: str) -> str:
    """One of a few words of the query. Raises: BadValueError for another."""
    word = values.get(key, "") or default
    if word not in allowed:
        raise BadValueError(f"{key}: {word[:40]} is not one of {', '.join(allowed)}")
    return word
