"""The screen of one latent: where it fires, where it does not, what fires with it, and the same rows in other SAEs."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.screen import Context, World, chosen
from strata_sae.pipeline.explore.screens.firing import Firing, best_in, firing, together
from strata_sae.pipeline.explore.screens.shown import Line, Named, heights, latent_in, lines, named, short
from strata_sae.pipeline.explore.words import explanations, how_good
from strata_sae.pipeline.queries.cofiring import partners_of
from strata_sae.pipeline.queries.examples import Kind, examples
from strata_sae.pipeline.queries.layout import nearest
from strata_sae.pipeline.queries.logits import logit_effects, token_text, why_none
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.populations import POPULATIONS, Population

GROUPS: tuple[tuple[Kind, int, str, str], ...] = (
    ("top", 10, "Most active", ""),
    ("near_miss", 5, "Silent on its own tokens", "Tokens of its label on which it does not fire."),
    ("quantiles", 6, "Across its range", "Drawn from parts of equal count, strongest part first."),
    ("half", 4, "Around half of its maximum", ""),
    ("barely", 4, "Barely active", ""),
    ("silent", 4, "Silent", "Rows drawn at random."),
)
"""Kind of examples, how many, heading, what it says beneath."""
NAMES: dict[Population, str] = {
    "as_trained": "rows as in training",
    "all_but_special": "all but special tokens",
    "all": "all rows",
}
N_PARTNERS, N_NEAREST, N_TOKENS, N_BINS, N_EXPLANATIONS = 8, 6, 10, 40, 5
_NO_PARTNER = 2**32 - 1


class Beside(NamedTuple):
    """A latent in a table beside: of the same SAE, or of another."""

    named: Named
    together: int
    """Rows on which both fire; for another SAE, of the strongest rows alone."""
    score: float
    """Jaccard of rows, or cosine of decoder rows."""


def fill(world: World, values: Mapping[str, str]) -> Context:
    """What the page shows of a latent. Raises: KeyError; BadValueError."""
    run, sae, latent = latent_in(world, values)
    population = next(name for name in POPULATIONS if name == chosen(values, "population", POPULATIONS, "as_trained"))
    fires, n_rows = firing(sae, latent, population), int(sae.kept(population).sum())
    top = float(fires.values.max(initial=0.0))
    others = best_in(run, sae, fires, population)
    return {
        "title": f"latent {latent}",
        "run": run_name(world, run),
        "me": named(run, sae, latent),
        "d_sae": sae.d_sae,
        "explanations": [(one.text, how_good(one)) for one in explanations(sae).all_of(latent)[:N_EXPLANATIONS]],
        "populations": [(name, NAMES[name]) for name in POPULATIONS],
        "population": population,
        "count": len(fires.rows),
        "n_rows": n_rows,
        "top": top,
        "mean": float(fires.values.mean()) if len(fires.rows) else None,
        "bars_": heights(np.histogram(fires.values, N_BINS, (0.0, top or 1.0))[0].tolist()),
        "groups": _groups(run, sae, latent, population),
        "partners": _partners(run, sae, latent, fires, population),
        "nearest": _nearest(run, sae, latent, fires, population),
        "n_strongest": fires.n_strongest,
        "others": [
            (
                other.name,
                None if best is None else Beside(named(run, other, best.latent), best.on_strongest, best.jaccard),
            )
            for other, best in others
        ],
        "effects": _effects(sae, latent),
        "why_no_effects": why_none(sae),
    }


def run_name(world: World, run: CodedRun) -> str:
    """The run's name in addresses."""
    return next(name for name, one in world.runs.items() if one is run)


def _groups(
    run: CodedRun, sae: CodedSAE, latent: int, population: Population
) -> list[tuple[str, str, str, list[Line]]]:
    groups: list[tuple[str, str, str, list[Line]]] = []
    for kind, n, heading, lede in GROUPS:
        found = examples(run, sae, latent, kind, n, population=population)
        groups.append((kind, heading, lede, lines(run, sae, latent, found)))
    return groups


def _partners(run: CodedRun, sae: CodedSAE, latent: int, fires: Firing, population: Population) -> list[Beside]:
    """Those that fire with it most alike; of the training population, of the 64 partners that the table keeps."""
    table = sae.codes.table
    if population == "as_trained":
        kept = table["partners"][latent] != _NO_PARTNER
        others, both = table["partners"][latent][kept].astype(np.int64), table["partner_counts"][latent][kept]
        counts = table["count"][others]
    else:
        both_E = partners_of(sae, latent, population)
        both_E[latent] = 0
        others = np.argsort(-both_E, kind="stable")[: 2 * N_PARTNERS]
        others = others[both_E[others] > 0]
        both, counts = both_E[others], np.array([len(firing(sae, int(one), population).rows) for one in others])
    alike = both / np.maximum(1, len(fires.rows) + counts - both.astype(np.int64)) if len(others) else np.zeros(0)
    order = np.lexsort((others, -alike))[:N_PARTNERS]
    return [Beside(named(run, sae, int(others[i])), int(both[i]), float(alike[i])) for i in order]


def _nearest(run: CodedRun, sae: CodedSAE, latent: int, fires: Firing, population: Population) -> list[Beside]:
    found = []
    for other, cosine in nearest(sae, latent, N_NEAREST):
        both = together(fires.rows, firing(sae, other, population).rows)
        found.append(Beside(named(run, sae, other), both, cosine))
    return found


def _effects(sae: CodedSAE, latent: int) -> list[tuple[str, list[tuple[str, float]]]]:
    """Tokens whose logits the latent raises and lowers; nothing where that is not known."""
    effects = logit_effects(sae, latent, N_TOKENS)
    if effects is None:
        return []
    both = (("Promoted", effects.promoted), ("Suppressed", effects.suppressed))
    return [(kind, [(short(token_text(sae, token)), value) for token, value in tokens]) for kind, tokens in both]
