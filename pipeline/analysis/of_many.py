"""Questions about all latents: how dense they are, how they cluster, what their labels are, which mean a text."""

import numpy as np

from strata_sae.pipeline.analysis.answer import Answer, Bars, Boxes, Cell, Column, Points, Steps
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import names_of, words_of
from strata_sae.pipeline.analysis.of_pairs import BARS, active_rows
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.clusters import Treemap, bars, linkage, treemap
from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.search import search

BOXES = 24
"""Clusters in the figure: as many as can be read."""


def answer_histograms(asked: Asked) -> Answer:
    """How often latents fire, and how strongly; of one latent, its values."""
    if asked.given_latent is not None:
        return _values(asked)
    count_E = active_rows(asked.sae, asked.population)
    share_E = count_E / max(1, asked.n_rows)
    found = bars(share_E, logarithmic=True)
    words, table = words_of(asked.run, asked.sae), asked.sae.codes.table
    order = np.lexsort((np.arange(len(count_E)), -count_E))[: asked.n].tolist()
    rows: list[tuple[Cell, ...]] = [
        (latent, words(latent), int(count_E[latent]), float(share_E[latent]), *_moments(table, latent))
        for latent in order
    ]
    dead = int((count_E == 0).sum())
    return Answer(
        f"How often the latents of {asked.sae.name} fire",
        f"{len(count_E) - dead:,} latents fire on the {asked.n_rows:,} rows, half of them on fewer than "
        f"{float(np.median(share_E[count_E > 0])) if dead < len(count_E) else 0.0:.2%}; {dead:,} never do.",
        (
            Column("latent", "the densest first"),
            Column("label", "its commonest tokens"),
            Column("active_rows", "rows on which it is active"),
            Column("share", "of all rows of the population"),
            Column("mean", "of its values where it is active, of the rows as trained"),
            Column("max", "its largest value, of the rows as trained"),
        ),
        rows,
        Steps("share of rows on which a latent is active", "latents", found.edges, [found.counts], ["latents"], True),
    )


def _moments(table: dict[str, np.ndarray], latent: int) -> tuple[float | None, float | None]:
    return tuple(float(table[key][latent]) if key in table else None for key in ("mean", "max"))  # type: ignore[return-value]


def _values(asked: Asked) -> Answer:
    rows, values = asked.sae.codes.rows_of(asked.latent)
    kept = asked.sae.kept(asked.population)[rows]
    values = values[kept].astype(np.float64)
    if not len(values):
        raise ConfigError(f"histograms: latent {asked.latent} of {asked.sae.name} fires on no row of the population")
    counts, edges = np.histogram(values, 40, (0.0, float(values.max())))
    table: list[tuple[Cell, ...]] = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
    return Answer(
        f"Values of latent {names_of(asked.run, asked.sae)(asked.latent)}",
        f"Its activations on the {len(values):,} rows on which it is active: median {np.median(values):.3g}, largest "
        f"{values.max():.3g}.",
        (Column("from", "value"), Column("to", "value"), Column("rows", "rows with a value between the two")),
        table,
        Steps("activation", "rows", edges.tolist(), [counts.tolist()], ["rows"]),
    )


def answer_clusters(asked: Asked) -> Answer:
    """Which latents lie together, by complete linkage of their decoder rows."""
    sae, name, words = asked.sae, names_of(asked.run, asked.sae), words_of(asked.run, asked.sae)
    count_E, tree = active_rows(sae, asked.population), linkage(sae.W_dec)
    of_latent_E = tree.cut(1 - asked.least)
    groups = [np.flatnonzero(of_latent_E == cluster) for cluster in np.flatnonzero(np.bincount(of_latent_E) > 1)]
    groups.sort(key=lambda group: (-len(group), int(group[0])))
    rows: list[tuple[Cell, ...]] = [
        (
            number,
            len(group),
            " ".join(map(str, group.tolist())),
            " | ".join(words(latent) for latent in group.tolist()),
            int(count_E[group].sum()),
        )
        for number, group in enumerate(groups[: asked.n])
    ]
    # A latent that never fires still has a place.
    made = treemap(tree, np.maximum(count_E, 1), [name(e) for e in range(sae.d_sae)], [1 - asked.least])
    return Answer(
        f"Clusters of the latents of {sae.name}",
        f"{len(groups):,} clusters of at least two latents in which every two decoder rows have a cosine of at least "
        f"{asked.least:g} (complete linkage of 1 - cosine). The figure has those with the most rows.",
        (
            Column("cluster", "number, the largest first"),
            Column("size_latents", "latents in it"),
            Column("latents", "their numbers"),
            Column("labels", "their commonest tokens"),
            Column("active_rows", "of its latents together"),
        ),
        rows,
        _largest(made) if groups else None,
    )


def _largest(made: Treemap) -> Boxes:
    """The clusters whose latents have the most rows, with their latents; those that lie in none are left out."""
    own = dict(zip(made.ids, made.values, strict=True))
    clusters = sorted(
        {parent for parent in made.parents if parent not in ("", "all")}, key=lambda one: (-own[one], one)
    )
    shown = set(clusters[:BOXES])
    kept = [place for place, name in enumerate(made.ids) if name in shown or made.parents[place] in shown]
    whole = sum(own[name] for name in shown)
    return Boxes(
        ["all", *(made.ids[place] for place in kept)],
        [f"{len(shown)} clusters", *(made.labels[place] for place in kept)],
        ["", *(made.parents[place] for place in kept)],
        [whole, *(made.values[place] for place in kept)],
        "active rows",
    )


def answer_labels(asked: Asked) -> Answer:
    """Which tokens tell best when each latent fires, and how well they do on documents they were not chosen on."""
    sae, labels = asked.sae, kept_labels(asked.sae, asked.run.text)
    share_E = active_rows(sae, "as_trained") / max(1, int(sae.kept("as_trained").sum()))
    words, f1_E = words_of(asked.run, sae), labels.f1.astype(np.float64)
    known = np.flatnonzero(np.isfinite(f1_E) & (f1_E >= asked.least))
    order = known[np.lexsort((known, -f1_E[known]))]
    rows: list[tuple[Cell, ...]] = [
        (latent, words(latent), f1, float(labels.f1_fit[latent]), int(labels.n_tokens[latent]), float(share_E[latent]))
        for latent, f1 in zip(order[: asked.n].tolist(), f1_E[order].tolist(), strict=False)
    ]
    drawn = order[share_E[order] > 0]
    median = float(np.median(f1_E[known])) if len(known) else 0.0
    return Answer(
        f"What the latents of {sae.name} are about, by tokens alone",
        "Of each latent the set of tokens that predicts best whether it fires, chosen on documents of even number; "
        f"F1 on those of odd number: median {median:.2f} over {len(known):,} latents with rows enough.",
        (
            Column("latent", "the best predicted first"),
            Column("label", "commonest tokens of its set"),
            Column("f1", "on documents that the set was not chosen on"),
            Column("f1_fit", "on those it was chosen on"),
            Column("set_tokens", "tokens in the set"),
            Column("share", "of all rows as trained on which it is active"),
        ),
        rows,
        Points(
            "share of rows on which a latent is active",
            "F1 of its tokens on other documents",
            share_E[drawn].tolist(),
            f1_E[drawn].tolist(),
            [names_of(asked.run, sae)(latent) for latent in drawn.tolist()],
            log_x=True,
        )
        if len(drawn)
        else None,
    )


def answer_search(asked: Asked) -> Answer:
    """Which latents of all SAEs mean a text: whether its tokens tell when they fire."""
    saes = list(asked.run.saes.values()) if asked.given_sae is None else [asked.sae]
    found = search(saes, asked.run.text, asked.text, asked.n)[: asked.n]
    words = {sae.name: words_of(asked.run, sae) for sae in saes}
    rows: list[tuple[Cell, ...]] = [
        (hit.sae, hit.latent, words[hit.sae](hit.latent), hit.f1, hit.count, hit.active, hit.rows) for hit in found
    ]
    names = list(dict.fromkeys(hit.sae for hit in found))
    return Answer(
        f"Latents that mean {asked.text!r}",
        "Latents that fire on a token of this text, those first whose firing these tokens tell best: F1 of 'it fires' "
        "against 'the token is one of these', over the rows as trained.",
        (
            Column("sae", "of the run"),
            Column("latent", "its number"),
            Column("label", "its commonest tokens"),
            Column("f1", "2 together_rows / (token_rows + active_rows)"),
            Column("together_rows", "rows with one of the tokens on which it fires"),
            Column("active_rows", "rows on which it fires"),
            Column("token_rows", "rows with one of the tokens"),
        ),
        rows,
        Bars(
            "F1 of the text's tokens",
            [f"{hit.latent}  {words[hit.sae](hit.latent)}".rstrip() for hit in found[:BARS]],
            [hit.f1 for hit in found[:BARS]],
            [names.index(hit.sae) for hit in found[:BARS]],
            names,
        )
        if found
        else None,
    )
