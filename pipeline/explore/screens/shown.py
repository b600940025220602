"""What several screens show: a latent by its name and label, and a row with the text around it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from strata_sae.pipeline.explore.latent_label import LatentLabel, latent_label
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.pages.text import cut, visible
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.windows import Window, windows

LONGEST_TOKEN = 40
"""Characters of a token in running text; a vocabulary may hold tokens of any length."""


class Named(NamedTuple):
    """A latent as a table names it."""

    sae: str
    latent: int
    label: LatentLabel


class Line(NamedTuple):
    """A row with the text around it, one line of a concordance."""

    value: float
    row: int
    document: int
    position: int
    before: list[tuple[str, float | None]]
    """Tokens and the latent's values on them."""
    focus: str
    after: list[tuple[str, float | None]]


def named(run: CodedRun, sae: CodedSAE, latent: int) -> Named:
    """A latent with its label."""
    return Named(sae.name, int(latent), latent_label(run, sae, int(latent)))


def lines(run: CodedRun, sae: CodedSAE, latent: int, rows: Sequence[tuple[int, float]]) -> list[Line]:
    """Lines of a concordance, of rows and the values there: a dozen tokens before each, eight after it."""
    found = windows(run, sae, latent, [row for row, _ in rows])
    return [_line(around, value) for around, (_, value) in zip(found, rows, strict=True)]


def _line(found: Window, value: float) -> Line:
    around = list(zip(map(short, found.texts), found.values, strict=True))
    at = found.index
    return Line(value, found.row, found.document, found.position, around[:at], around[at][0], around[at + 1 :])


def short(text: str) -> str:
    """A token's text as a page shows it, cut where it is long; an invisible character is shown by its number."""
    return cut(visible(text[: LONGEST_TOKEN + 1]), LONGEST_TOKEN)


def heights(counts: Sequence[float]) -> list[float]:
    """Bars of a histogram, 0 to 1: square roots, so that the rare values of the tail are seen beside the many."""
    top = max(counts, default=0.0)
    return [(count / top) ** 0.5 if top > 0 else 0.0 for count in counts]


def latent_in(world: World, values: Mapping[str, str]) -> tuple[CodedRun, CodedSAE, int]:
    """What the address of a latent names. Raises: KeyError if there is no such latent."""
    run, sae, latent = world.run(values), world.sae(values), int(values["latent"])
    if not 0 <= latent < sae.d_sae:
        raise KeyError(f"latent {latent}: {sae.name} has latents 0..{sae.d_sae - 1}")
    return run, sae, latent
