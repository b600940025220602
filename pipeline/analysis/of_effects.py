"""Questions about effects of one SAE's latents on another's: the direct path, and 4-tuples of either kind of effect."""

from collections.abc import Sequence

import numpy as np

from strata_sae.pipeline.analysis.answer import Answer, Cell, Column, Steps
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import words_of
from strata_sae.pipeline.analysis.of_ablations import large_enough, measured_of, told_how
from strata_sae.pipeline.analysis.of_pairs import BARS
from strata_sae.pipeline.analysis.of_two import network
from strata_sae.pipeline.queries.cliques import Effects, FourTuple, four_tuples
from strata_sae.pipeline.queries.clusters import bars, direct_effects, effect_graph

EFFECTS_FOR_TUPLES = 20_000
"""The strongest effects among which 4-tuples are looked for (count): all E x E' are too many, and nearly none is 0."""
MEASURED_FOR_TUPLES = 2_000
"""Of measured effects (count): 20,000 of the demo's have more than 100,000 4-tuples, 2,000 have 5,192."""
MOST_TUPLES = 1000
"""4-tuples of ablations in the table (count)."""


def answer_effects(asked: Asked) -> Answer:
    """Which latents of this SAE excite and inhibit which of the other, by the direct path."""
    writer, reader = asked.sae, asked.other
    graph = effect_graph(direct_effects(writer, reader, asked.n), asked.n)
    words, others = words_of(asked.run, writer), words_of(asked.run, reader)
    rows: list[tuple[Cell, ...]] = [(a, words(a), r, others(r), value) for a, r, value in graph.edges]
    return Answer(
        f"Direct effects of {writer.name} on {reader.name}",
        "By how much one latent's activation of 1 moves another's pre-activation if what it writes arrives as it is: "
        "its decoder row times the other's encoder row. The strongest of either sign.",
        (
            Column("writer", f"latent of {writer.name}"),
            Column("writer_label", "its commonest tokens"),
            Column("reader", f"latent of {reader.name}"),
            Column("reader_label", "its commonest tokens"),
            Column("effect", "change of the reader's pre-activation per unit of the writer's activation"),
        ),
        rows,
        network(asked, graph.edges[:BARS], "change of the pre-activation per unit of activation"),
    )


def answer_four_tuples(asked: Asked) -> Answer:
    """Which two latents agree on one latent of the other SAE and disagree on a second one."""
    writer, reader = asked.sae, asked.other
    found = four_tuples(direct_effects(writer, reader, EFFECTS_FOR_TUPLES), asked.least)
    counts = bars(np.array([one.weakest for one in found]))
    return Answer(
        f"4-tuples of {writer.name} and {reader.name}",
        f"{len(found):,} quadruples (A, B, C, D) among the {EFFECTS_FOR_TUPLES:,} strongest direct effects: A excites "
        f"B and D, C excites B and inhibits D, each by more than {asked.least:g}. The weakest of the four orders them.",
        _tuple_columns(asked),
        _tuple_rows(asked, found[: asked.n]),
        Steps("weakest of the four effects", "4-tuples", counts.edges, [counts.counts], ["4-tuples"])
        if found
        else None,
    )


def answer_ablate_tuples(asked: Asked) -> Answer:
    """Which two latents, by their ablation, agree on one latent of the other SAE and disagree on a second one."""
    measured = measured_of(asked)
    effects = large_enough(asked, measured)
    order = np.argsort(-np.abs(effects.value), kind="stable")[:MEASURED_FOR_TUPLES]
    found = four_tuples(Effects(*(part[order] for part in effects)), asked.least)
    counts = bars(np.array([one.weakest for one in found]))
    return Answer(
        f"4-tuples of ablated latents of {asked.sae.name} and {asked.other.name}",
        f"{told_how(asked, measured)} {len(found):,} quadruples (A, B, C, D) among the {len(order):,} strongest effects"
        f": A excites B and D, C excites B and inhibits D, each by more than {asked.least:g} per active row. The "
        "weakest of the four orders them.",
        _tuple_columns(asked),
        _tuple_rows(asked, found[:MOST_TUPLES]),
        Steps("weakest of the four effects", "4-tuples", counts.edges, [counts.counts], ["4-tuples"])
        if found
        else None,
    )


def _tuple_columns(asked: Asked) -> tuple[Column, ...]:
    of = {"a": asked.sae, "b": asked.other, "c": asked.sae, "d": asked.other}
    named = [
        (Column(letter, f"latent of {sae.name}"), Column(f"{letter}_label", "its commonest tokens"))
        for letter, sae in of.items()
    ]
    return (
        *(column for pair in named for column in pair),
        Column("weakest", "size of the weakest of the four effects"),
    )


def _tuple_rows(asked: Asked, found: Sequence[FourTuple]) -> list[tuple[Cell, ...]]:
    words, others = words_of(asked.run, asked.sae), words_of(asked.run, asked.other)
    return [
        (one.a, words(one.a), one.b, others(one.b), one.c, words(one.c), one.d, others(one.d), one.weakest)
        for one in found
    ]
