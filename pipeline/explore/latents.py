"""The latents of one SAE as a table that the server sorts, filters and pages."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.explore.latent_label import LatentLabel, latent_label
from strata_sae.pipeline.explore.measures import EXPLAINED_F1, explained, scores
from strata_sae.pipeline.explore.screen import Context, Screen, World, chosen, whole_number
from strata_sae.pipeline.explore.words import explanations, holding
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.windows import token_text

ROWS_PER_PAGE = 50
SORTS = {"rows": "rows", "f1": "F1", "max": "largest value", "mean": "mean value", "latent": "latent"}
"""Column -> its head."""
ORDERS = ("falling", "rising")
LABELS = {
    "any": "any label",
    "explained": f"explained by tokens (F1 > {EXPLAINED_F1:g})",
    "unexplained": f"not explained (F1 ≤ {EXPLAINED_F1:g}, or none)",
    "none": "no label at all",
}
"""Choice of labels -> its name."""


class Row(NamedTuple):
    """A latent in the table."""

    latent: int
    label: LatentLabel
    n_rows: int
    density: float
    largest: float
    mean: float
    heights: list[float]
    """Of the histogram of its values, square roots of the shares of the highest bar."""


class Wanted(NamedTuple):
    """What the query asks for."""

    sort: str
    order: str
    label: str
    token: str
    """Part of the text of a token among those of the label."""
    least: int
    """Rows on which a latent fires."""
    words: str = ""
    """Part of its explanation."""


DEFAULTS: dict[str, str | int] = {
    "sort": "rows",
    "order": "falling",
    "label": "any",
    "token": "",
    "least": 0,
    "words": "",
    "page": 1,
}
"""What a query says that is not there."""


def latents(world: World, values: Mapping[str, str], only: np.ndarray | None = None) -> Context:
    """A page of the table. only: the latents that static pages have, of which one page shows all."""
    run, sae = world.run(values), world.sae(values)
    wanted = Wanted(
        chosen(values, "sort", SORTS, "rows"),
        chosen(values, "order", ORDERS, "falling"),
        chosen(values, "label", LABELS, "any"),
        values.get("token", ""),
        whole_number(values, "least", 0, 0, sae.codes.plan.n_rows),
        values.get("words", ""),
    )
    found = sorted_latents(sae, wanted, matching(run, sae, wanted)) if only is None else only
    n_pages = max(1, -(-len(found) // ROWS_PER_PAGE)) if only is None else 1
    page = whole_number(values, "page", 1, 1, n_pages)
    shown = found[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE] if only is None else found
    n_kept = int(sae.kept().sum())
    return {
        "sae": sae,
        "run": values["run"],
        "scores": scores(sae.folder),
        "explained": explained(sae),
        "densest": _densest_unexplained(run, sae, n_kept),
        "rows": [_row(run, sae, int(latent), n_kept) for latent in shown],
        "wanted": wanted,
        "page": page,
        "n_pages": n_pages,
        "n_found": len(found),
        "n_kept": n_kept,
        "sorts": SORTS,
        "labels": LABELS,
        "others": [name for name in run.saes if name != sae.name],
        "changed": partial(changed, wanted),
        "n_explained": len(explanations(sae)),
    }


def changed(wanted: Wanted, **changes: str | int) -> dict[str, str | int]:
    """The query of the same table but for some changes; what is as it is without a query is left out."""
    return {key: value for key, value in {**wanted._asdict(), **changes}.items() if value != DEFAULTS.get(key)}


def matching(run: CodedRun, sae: CodedSAE, wanted: Wanted) -> np.ndarray:
    """The latents that a query's filters leave, int64, rising."""
    kept_E: np.ndarray = sae.codes.table["count"] >= wanted.least
    f1_E, has_E = _label_f1(sae)
    if wanted.label == "explained":
        kept_E &= f1_E > EXPLAINED_F1
    elif wanted.label == "unexplained":
        kept_E &= ~(f1_E > EXPLAINED_F1)
    elif wanted.label == "none":
        kept_E &= ~has_E
    if wanted.token:
        kept_E &= _with_token(run, sae, wanted.token)
    if wanted.words:
        has_words_E = np.zeros(sae.d_sae, bool)
        has_words_E[[latent for latent, _ in holding(sae, wanted.words)]] = True
        kept_E &= has_words_E
    return np.flatnonzero(kept_E)


def sorted_latents(sae: CodedSAE, wanted: Wanted, latents_L: np.ndarray) -> np.ndarray:
    """Latents by a column; ties, and those without a value last, by number."""
    table = sae.codes.table
    columns = {"rows": table["count"], "max": table["max"], "mean": table["mean"], "f1": _label_f1(sae)[0]}
    if wanted.sort == "latent":
        return latents_L if wanted.order == "rising" else latents_L[::-1]
    value_L = columns[wanted.sort][latents_L].astype(np.float64)
    key_L = np.where(np.isnan(value_L), np.inf, value_L if wanted.order == "rising" else -value_L)
    found: np.ndarray = latents_L[np.argsort(key_L, kind="stable")]
    return found


def _label_f1(sae: CodedSAE) -> tuple[np.ndarray, np.ndarray]:
    """Each latent's F1 (NaN: none), float32 [E], and whether it has a label at all, bool [E]."""
    if (labels := sae.labels) is None:
        return np.full(sae.d_sae, np.nan, np.float32), np.zeros(sae.d_sae, bool)
    return labels.f1, labels.n_tokens > 0


def _with_token(run: CodedRun, sae: CodedSAE, text: str) -> np.ndarray:
    """Whether the tokens kept of each latent's label hold a text, bool [E]."""
    if (labels := sae.labels) is None:
        return np.zeros(sae.d_sae, bool)
    ids = [token for token in np.unique(labels.token_ids) if token >= 0 and text in token_text(run, int(token))]
    found: np.ndarray = np.isin(labels.token_ids, ids).max(axis=1)
    return found


def _densest_unexplained(run: CodedRun, sae: CodedSAE, n_kept: int) -> Row | None:
    """The latent that fires on most rows of those that no token set explains."""
    if sae.labels is None:
        return None
    wanted = Wanted("rows", "falling", "unexplained", "", 1)
    found = sorted_latents(sae, wanted, matching(run, sae, wanted))
    return _row(run, sae, int(found[0]), n_kept) if len(found) else None


def _row(run: CodedRun, sae: CodedSAE, latent: int, n_kept: int) -> Row:
    table = sae.codes.table
    count, bins = int(table["count"][latent]), table["histogram"][latent].astype(np.float64)
    heights = np.sqrt(bins / max(1.0, bins.max())).tolist()
    largest, mean = float(table["max"][latent]), float(table["mean"][latent])
    return Row(latent, latent_label(run, sae, latent), count, count / max(1, n_kept), largest, mean, heights)


LATENTS = Screen("latents", "/{run}/{sae}", latents)
