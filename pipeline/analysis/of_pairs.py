"""Questions about latents of one SAE beside each other: which fire together, and which point the same way."""

import numpy as np

from strata_sae.pipeline.analysis.answer import Answer, Bars, Cell, Column, Points
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import names_of, words_of
from strata_sae.pipeline.queries.cliques import cliques, greedy_group
from strata_sae.pipeline.queries.cofiring import cofiring_pairs, partners_of, together_of
from strata_sae.pipeline.queries.decoder_pairs import cosine_pairs, exact_cosines, look_for_pairs
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import KeptCodes

BARS = 40
"""As many as can be read on a page."""
POINTS = 5000
FIRST_SECOND = (
    Column("first", "a latent"),
    Column("first_label", "its commonest tokens"),
    Column("second", "another"),
    Column("second_label", "its commonest tokens"),
)
TOGETHER = Column("together_rows", "rows on which both are active")


def active_rows(sae: CodedSAE, population: Population) -> np.ndarray:
    """Rows of a population on which each latent is active: int64 [d_sae]."""
    return KeptCodes(sae.codes, sae.kept(population)).counts()


def answer_cofiring(asked: Asked) -> Answer:
    """Which latents are active on the same rows as one; without one, which pairs are."""
    return _pairs_together(asked) if asked.given_latent is None else _partners(asked)


def _partners(asked: Asked) -> Answer:
    sae, latent = asked.sae, asked.latent
    together_E, count_E = partners_of(sae, latent, asked.population), active_rows(sae, asked.population)
    own, n_rows = int(together_E[latent]), asked.n_rows
    together_E[latent] = 0
    order = np.lexsort((np.arange(sae.d_sae), -together_E))
    chosen = [int(e) for e in order if together_E[e] >= max(1, asked.least)][: asked.n]
    words, name = words_of(asked.run, sae), names_of(asked.run, sae)
    rows: list[tuple[Cell, ...]] = []
    for other in chosen:
        both, rows_of_other = int(together_E[other]), int(count_E[other])
        expected = own * rows_of_other / n_rows
        rows.append(
            (other, words(other), both, both / own, both / rows_of_other, both / (own + rows_of_other - both), expected)
        )
    return Answer(
        f"What fires with latent {name(latent)}",
        f"Of its {own:,} rows, those on which another latent is active too; exact, over all rows of the population.",
        (
            Column("partner", "another latent"),
            Column("partner_label", "its commonest tokens"),
            TOGETHER,
            Column("share_of_latent", "of this latent's rows, those that are the partner's too"),
            Column("share_of_partner", "of the partner's rows, those that are this latent's too"),
            Column("jaccard", "rows of both / rows of at least one"),
            Column("expected_rows", "rows of both if the two were independent"),
        ),
        rows,
        Bars(
            "rows on which both are active",
            [name(int(row[0] or 0)) for row in rows[:BARS]],
            [float(row[2] or 0) for row in rows[:BARS]],
        )
        if rows
        else None,
    )


def _pairs_together(asked: Asked) -> Answer:
    sae, population = asked.sae, asked.population
    first_P, second_P, both_P = cofiring_pairs(sae, max(1, round(asked.least)), population)
    count_E, n_rows = active_rows(sae, population).astype(np.float64), asked.n_rows
    jaccard_P = both_P / (count_E[first_P] + count_E[second_P] - both_P)
    expected_P = count_E[first_P] * count_E[second_P] / max(1, n_rows)
    order = np.lexsort((second_P, first_P, -jaccard_P))
    words = words_of(asked.run, sae)
    rows: list[tuple[Cell, ...]] = [
        (a, words(a), b, words(b), n, jaccard, expected, n / expected)
        for a, b, n, jaccard, expected in _columns(order[: asked.n], first_P, second_P, both_P, jaccard_P, expected_P)
    ]
    drawn = order[:POINTS]
    return Answer(
        "Latents that fire together",
        f"{len(order):,} pairs of latents are active together on at least {max(1, round(asked.least)):,} rows; those "
        "with the most alike rows (Jaccard index) come first. A pair above the line fires together more often than "
        "two independent latents of its densities would.",
        (
            *FIRST_SECOND,
            TOGETHER,
            Column("jaccard", "rows of both / rows of at least one"),
            Column("expected_rows", "rows of both if the two were independent"),
            Column("ratio", "together_rows / expected_rows"),
        ),
        rows,
        Points(
            "rows expected of two independent latents",
            "rows on which both are active",
            expected_P[drawn].tolist(),
            both_P[drawn].astype(float).tolist(),
            [f"{a} and {b}" for a, b in _columns(drawn, first_P, second_P)],
            log=True,
            equal="independent",
        )
        if len(drawn)
        else None,
    )


def _columns(order: np.ndarray, *columns: np.ndarray) -> list[tuple[int, ...]]:
    return list(zip(*(column[order].tolist() for column in columns), strict=True))


def answer_pairs(asked: Asked) -> Answer:
    """Which decoder rows point the same way, and how often their latents fire together."""
    sae = asked.sae
    most = asked.most if asked.most is not None else sae.codes.plan.n_rows
    found = look_for_pairs(sae, asked.least, most, asked.population)
    count_E, words = active_rows(sae, asked.population), words_of(asked.run, sae)
    overlap = [pair.together / max(1, min(int(count_E[pair.first]), int(count_E[pair.second]))) for pair in found]
    rows: list[tuple[Cell, ...]] = [
        (pair.first, words(pair.first), pair.second, words(pair.second), pair.cosine, pair.together, share)
        for pair, share in zip(found[: asked.n], overlap, strict=False)
    ]
    limit = f" and share at most {most:,} rows" if asked.most is not None else ""
    return Answer(
        "Latents that point the same way",
        f"{len(found):,} pairs of latents that fire have a cosine of their decoder rows of at least "
        f"{asked.least:g}{limit}. The overlap says how often the rarer of the two fires together with the other one.",
        (
            *FIRST_SECOND,
            Column("cosine", "of the decoder rows"),
            TOGETHER,
            Column("overlap", "rows of both / rows of the rarer one"),
        ),
        rows,
        Points(
            "cosine of the decoder rows",
            "rows of both / rows of the rarer one",
            [pair.cosine for pair in found[:POINTS]],
            overlap[:POINTS],
            [f"{pair.first} and {pair.second}" for pair in found[:POINTS]],
        )
        if found
        else None,
    )


def answer_cliques(asked: Asked) -> Answer:
    """Which groups of latents all point the same way."""
    sae = asked.sae
    first_P, second_P, _ = cosine_pairs(sae.W_dec, asked.least)
    if asked.most is not None:
        few = together_of(sae, first_P, second_P, asked.population) <= asked.most
        first_P, second_P = first_P[few], second_P[few]
    found = cliques(first_P, second_P)
    words = words_of(asked.run, sae)
    rows: list[tuple[Cell, ...]] = []
    for number, group in enumerate(found.groups[: asked.n]):
        a_P, b_P = np.array([(a, b) for a in group for b in group if a < b]).T
        cosine_P = exact_cosines(sae.W_dec, a_P, b_P)
        members = " ".join(map(str, group))
        labels = " | ".join(words(latent) for latent in group)
        rows.append((number, len(group), members, labels, float(cosine_P.mean()), float(cosine_P.min())))
    cut = "" if found.is_whole else " There are more than could be looked at."
    limit = f" and share at most {asked.most:,} rows" if asked.most is not None else ""
    return Answer(
        "Groups of latents that point the same way",
        f"{len(found.groups):,} groups of at least three latents in which every two have decoder rows with a cosine of "
        f"at least {asked.least:g}{limit}, and which no other latent fits into (maximal cliques).{cut}",
        (
            Column("group", "number, the largest first"),
            Column("size_latents", "latents in it"),
            Column("latents", "their numbers"),
            Column("labels", "their commonest tokens"),
            Column("mean_cosine", "of every two"),
            Column("least_cosine", "of every two"),
        ),
        rows,
        Bars("latents", [_short(row) for row in rows[:BARS]], [float(row[1] or 0) for row in rows[:BARS]])
        if rows
        else None,
    )


def _short(row: tuple[Cell, ...]) -> str:
    members = str(row[2]).split()
    return " ".join(members[:5]) + (" …" if len(members) > 5 else "")


def answer_group(asked: Asked) -> Answer:
    """Which latents lie around one, each alike to all before it, and no two of them ever active together."""
    sae, latent = asked.sae, asked.latent
    found = greedy_group(sae, latent, asked.least, asked.n, asked.population)
    count_E, words, name = active_rows(sae, asked.population), words_of(asked.run, sae), names_of(asked.run, sae)
    rows: list[tuple[Cell, ...]] = [
        (place, member, words(member), cosine, int(count_E[member]))
        for place, (member, cosine) in enumerate(zip(found.latents, found.mean_cosines, strict=True))
    ]
    return Answer(
        f"The group around latent {name(latent)}",
        f"Latents that join one by one: of those with a cosine of at least {asked.least:g} to every one before and no "
        "row shared with any, the one with the largest mean cosine.",
        (
            Column("place", "in which it joined"),
            Column("latent", "a latent"),
            Column("label", "its commonest tokens"),
            Column("mean_cosine", "of its decoder row with those before; of the first 1"),
            Column("active_rows", "rows on which it is active"),
        ),
        rows,
        Bars("mean cosine with those before", [name(member) for member in found.latents], found.mean_cosines),
    )
