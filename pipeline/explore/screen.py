"""A screen: an address, a template, and what fills it. The app and the static pages share them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from strata_sae.pipeline.queries.opened import CodedRun

Context = dict[str, Any]


class World(NamedTuple):
    """What all screens look at."""

    runs: dict[str, CodedRun]
    """By name."""


class Screen(NamedTuple):
    """One kind of page."""

    name: str
    """Also of its template: <name>.html.jinja."""
    pattern: str
    """Address as starlette spells it, such as /{run}/{sae}/{latent:int}."""
    fill: Callable[[World, Mapping[str, str]], Context]
    """What the template shows, of the values in the address and in the query.

    Raises: KeyError if there is no such thing.
    """
