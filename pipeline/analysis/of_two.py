"""Questions about two SAEs on the same rows: matches, splits, absorptions."""

import numpy as np

from strata_sae.pipeline.analysis.answer import Answer, Bars, Cell, Column, Network, Steps
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import names_of, words_of
from strata_sae.pipeline.analysis.of_pairs import BARS, active_rows
from strata_sae.pipeline.queries.matching import best_match
from strata_sae.pipeline.queries.splits import absorptions, splits

SHOWN_PARENTS, SHOWN_CHILDREN = 10, 4
"""Of splits, in the figure; the children with the most rows."""


def answer_matches(asked: Asked) -> Answer:
    """Which latent of the other SAE fires on the same rows as each of this one."""
    mine, other = asked.sae, asked.other
    found = best_match(mine, other, asked.population)
    alive_E = active_rows(mine, asked.population) > 0
    order = np.lexsort((np.arange(mine.d_sae), -found.jaccard))
    words, others = words_of(asked.run, mine), words_of(asked.run, other)
    rows: list[tuple[Cell, ...]] = []
    for latent in order.tolist():
        match, jaccard = int(found.other_latent[latent]), float(found.jaccard[latent])
        if match >= 0 and jaccard >= asked.least and len(rows) < asked.n:
            rows.append((latent, words(latent), match, others(match), jaccard, int(found.together[latent])))
    jaccard_E = found.jaccard[alive_E]
    counts, edges = np.histogram(jaccard_E, 40, (0.0, 1.0))
    above = float((jaccard_E > 0.5).mean()) if len(jaccard_E) else 0.0
    median = float(np.median(jaccard_E)) if len(jaccard_E) else 0.0
    return Answer(
        f"{mine.name} in {other.name}",
        f"Of each latent the one of {other.name} whose rows are most like its own, by their Jaccard index: median "
        f"{median:.2f} over {int(alive_E.sum()):,} latents that fire, above 0.5 for {above:.1%} of them.",
        (
            Column("latent", f"of {mine.name}"),
            Column("label", "its commonest tokens"),
            Column("match", f"latent of {other.name}"),
            Column("match_label", "its commonest tokens"),
            Column("jaccard", "rows of both / rows of at least one"),
            Column("together_rows", "rows of both"),
        ),
        rows,
        Steps("Jaccard index with the best match", "latents", edges.tolist(), [counts.tolist()], [mine.name]),
    )


def answer_splits(asked: Asked) -> Answer:
    """Which latents of this SAE are shared out among several of the other, wider one."""
    narrow, wide = asked.sae, asked.other
    found = splits(narrow, wide, asked.population, least_inside=asked.least)
    words, others = words_of(asked.run, narrow), words_of(asked.run, wide)
    rows: list[tuple[Cell, ...]] = [
        (
            *(one.parent, words(one.parent), one.rows, len(one.children), one.union, one.gain),
            *(child.latent, others(child.latent), child.together, child.covered, child.inside),
        )
        for one in found[: asked.n]
        for child in one.children
    ]
    links = [
        (one.parent, child.latent, child.covered)
        for one in found[:SHOWN_PARENTS]
        for child in one.children[:SHOWN_CHILDREN]
    ]
    return Answer(
        f"Which latents of {narrow.name} split in {wide.name}",
        f"{len(found):,} latents have at least two children: latents of the other SAE of whose rows at least "
        f"{asked.least:.0%} are the parent's. Of latents that are active together one counts as a child. Parents whose "
        "children cover most beyond the largest of them come first.",
        (
            Column("parent", f"latent of {narrow.name}"),
            Column("parent_label", "its commonest tokens"),
            Column("parent_rows", "rows on which it is active"),
            Column("children_latents", "how many children it has"),
            Column("union", "share of its rows on which at least one child is active"),
            Column("gain", "union less the share of its largest child"),
            Column("child", f"latent of {wide.name}"),
            Column("child_label", "its commonest tokens"),
            Column("together_rows", "rows of parent and child"),
            Column("covered", "share of the parent's rows that are the child's"),
            Column("inside", "share of the child's rows that are the parent's"),
        ),
        rows,
        network(asked, links, "share of the parent's rows that are the child's"),
    )


def network(asked: Asked, links: list[tuple[int, int, float]], value: str) -> Network | None:
    """Latents of one SAE, of the other, and a link for each pair; on the right in the order that crosses least links.

    That is by the mean place of those they are linked with, which is exact where each is linked with one.
    """
    if not links:
        return None
    left = list(dict.fromkeys(first for first, _, _ in links))
    places: dict[int, list[int]] = {}
    for first, second, _ in links:
        places.setdefault(second, []).append(left.index(first))
    right = sorted(places, key=lambda latent: (sum(places[latent]) / len(places[latent]), latent))
    name, other = names_of(asked.run, asked.sae), names_of(asked.run, asked.other)
    return Network(
        asked.sae.name,
        asked.other.name,
        [name(latent) for latent in left],
        [other(latent) for latent in right],
        [(left.index(first), right.index(second), size) for first, second, size in links],
        value,
    )


def answer_absorptions(asked: Asked) -> Answer:
    """Where a child of the other SAE fires in the place of the latent that stands for its parent."""
    narrow, wide = asked.sae, asked.other
    found = absorptions(narrow, wide, asked.population, least_silent=asked.least)
    words, others = words_of(asked.run, narrow), words_of(asked.run, wide)
    rows: list[tuple[Cell, ...]] = [
        (
            *(one.parent, words(one.parent), one.counterpart, one.child, others(one.child), one.together),
            *(one.absorbed, one.share, one.of_parent, one.counterpart_cosine, one.child_cosine),
        )
        for one in found[: asked.n]
    ]
    name, other = names_of(asked.run, narrow), names_of(asked.run, wide)
    return Answer(
        f"Latents of {narrow.name} absorbed in {wide.name}",
        f"{len(found):,} children are active where the latent that is most like their parent is silent, on at least "
        f"{asked.least:.0%} of the rows that they share with the parent.",
        (
            Column("parent", f"latent of {narrow.name}"),
            Column("parent_label", "its commonest tokens"),
            Column("counterpart", f"latent of {wide.name} that is most like it"),
            Column("child", f"latent of {wide.name}"),
            Column("child_label", "its commonest tokens"),
            Column("together_rows", "rows of parent and child"),
            Column("absorbed_rows", "those of them on which the counterpart is silent"),
            Column("share", "absorbed_rows / together_rows"),
            Column("share_of_parent", "absorbed_rows / rows of the parent"),
            Column("counterpart_cosine", "of the decoder rows of parent and counterpart"),
            Column("child_cosine", "of the decoder rows of parent and child"),
        ),
        rows,
        Bars(
            "share of the parent's rows that the child takes",
            [f"{name(one.parent)} → {other(one.child)}" for one in found[:BARS]],
            [one.of_parent for one in found[:BARS]],
        )
        if found
        else None,
    )
