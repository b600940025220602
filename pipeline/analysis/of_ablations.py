"""Questions that the model answers: what a latent does, by setting it to 0 and looking at what changes behind it."""

import numpy as np

from strata_sae.pipeline.analysis.answer import Answer, Bars, Cell, Column, Points
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import names_of, shortened, words_of
from strata_sae.pipeline.analysis.of_pairs import BARS
from strata_sae.pipeline.analysis.of_two import network
from strata_sae.pipeline.queries.asked_model import MeasuredEffects
from strata_sae.pipeline.queries.cliques import Effects
from strata_sae.pipeline.queries.clusters import effect_graph
from strata_sae.pipeline.queries.logits import kept_head
from strata_sae.pipeline.queries.tokens import cut
from strata_sae.pipeline.queries.windows import token_text
from strata_sae.pipeline.runs.effect_records import AblatedLatent

EACH = 20
"""Effects of a latent in the table, where many are ablated; of one all that were kept."""
ABLATED = (Column("latent", "that was set to 0"), Column("label", "its commonest tokens"))
MEASURED = (
    Column("standard_error", "of the effect, over sequences; empty: the latent is active in one only"),
    Column("active_rows", "rows on which the latent is active, of those that were run"),
    Column("sequences", "in which it is active"),
)


def measured_of(asked: Asked) -> MeasuredEffects:
    """The effects that a question is about; those that are not kept yet are measured."""
    return asked.model.effects(asked.sae, asked.given_other, asked.population, n=asked.n, latent=asked.given_latent)


def answer_ablate(asked: Asked) -> Answer:
    """What changes where a latent is set to 0: latents of another SAE, or the words that the model expects."""
    found = measured_of(asked)
    return _on_words(asked, found) if asked.given_other is None else _on_latents(asked, found)


def _on_latents(asked: Asked, found: MeasuredEffects) -> Answer:
    words, others, by_latent = words_of(asked.run, asked.sae), words_of(asked.run, asked.other), _by_latent(found)
    rows: list[tuple[Cell, ...]] = []
    for place in _shown(asked, found):
        latent, reader, effect, error = _at(found, place)
        one = by_latent[latent]
        rows.append((latent, words(latent), reader, others(reader), effect, error, one.active_rows, one.n_sequences))
    graph = effect_graph(large_enough(asked, found), BARS)
    return Answer(
        f"What ablated latents of {asked.sae.name} change in {asked.other.name}",
        f"{told_how(asked, found)} An effect is the activation of a latent of {asked.other.name} without the ablation "
        "less that with it, summed over all later rows, for each row on which the ablated latent is active: above 0 it "
        "excites the other, below 0 it inhibits it.",
        (
            *ABLATED,
            Column("reader", f"latent of {asked.other.name}"),
            Column("reader_label", "its commonest tokens"),
            Column("effect", "change of the reader's activation per active row"),
            *MEASURED,
        ),
        rows,
        network(asked, graph.edges, "change of the reader's activation per active row"),
    )


def _on_words(asked: Asked, found: MeasuredEffects) -> Answer:
    words, by_latent = words_of(asked.run, asked.sae), _by_latent(found)
    rows: list[tuple[Cell, ...]] = []
    for place in _shown(asked, found):
        latent, token, effect, error = _at(found, place)
        one, text = by_latent[latent], _text_of(asked, token)
        kl = None if one.kl is None or not one.active_rows else one.kl / one.active_rows
        logit = float(found.log_probability[place])
        rows.append((latent, words(latent), token, text, effect, error, one.active_rows, one.n_sequences, logit, kl))
    return Answer(
        f"What ablated latents of {asked.sae.name} change in the model's predictions",
        f"{told_how(asked, found)} An effect is the probability of a token as the next one without the ablation less "
        "that with it, summed over all later rows, for each row on which the ablated latent is active: how many "
        "more of the token the model expects because of the latent. KL is of the ablated from the clean predictions.",
        (
            *ABLATED,
            Column("token_id", "number of the token"),
            Column("token", "its text; [number]: not in the store, which has its text with store.unembedding only"),
            Column("effect", "change of its probability, summed over rows, per active row"),
            *MEASURED,
            Column("log_probability", "the same of its log-probability (nat)"),
            Column("kl", "KL of all predictions together (nat) per active row"),
        ),
        rows,
        _words_figure(asked, found, rows),
    )


def _text_of(asked: Asked, token: int) -> str:
    """The text of a token: of one that occurs in the store, or of any where the store keeps the unembedding."""
    head = kept_head(asked.sae)
    found = None if head is None else head.tokens.get(token)
    return token_text(asked.run, token) if found is None else cut(found.text)


def _words_figure(asked: Asked, found: MeasuredEffects, rows: list[tuple[Cell, ...]]) -> Bars | Points | None:
    """Of one latent its tokens; of many, how much each matters."""
    if asked.given_latent is not None:
        drawn = rows[:BARS]
        return (
            Bars(
                "change of the probability per active row",
                [shortened(str(row[3])) for row in drawn],
                [float(row[4] or 0) for row in drawn],
                [0 if float(row[4] or 0) > 0 else 2 for row in drawn],
                ["likelier with the latent", "", "less likely with it"],
            )
            if drawn
            else None
        )
    known = [one for one in found.latents if one.active_rows and one.kl is not None and one.kl > 0]
    name = names_of(asked.run, asked.sae)
    return (
        Points(
            "rows on which the latent is active",
            "KL of the predictions without it (nat) per active row",
            [float(one.active_rows) for one in known],
            [(one.kl or 0.0) / one.active_rows for one in known],
            [name(one.latent) for one in known],
            log=True,
        )
        if known
        else None
    )


def told_how(asked: Asked, found: MeasuredEffects) -> str:
    """How many latents were ablated, and on what."""
    on = f"{found.n_rows:,} held-out rows in {found.n_sequences:,} sequences"
    active = sum(one.active_rows > 0 for one in found.latents)
    if asked.given_latent is None:
        left_out = f" {found.n_dense:,} others are active on a tenth of all rows or more." if found.n_dense else ""
        return f"Each of {active:,} latents was set to 0 by itself, what the SAE misses being kept: {on}.{left_out}"
    if not active:
        return f"Latent {asked.given_latent} is active on none of {on}."
    return f"Latent {asked.given_latent} was set to 0, what the SAE misses being kept: {on}."


def _by_latent(found: MeasuredEffects) -> dict[int, AblatedLatent]:
    return {one.latent: one for one in found.latents}


def large_enough(asked: Asked, found: MeasuredEffects) -> Effects:
    """The effects of at least the wanted size."""
    kept = np.abs(found.effect) >= asked.least
    return Effects(found.ablator[kept], found.reader[kept], found.effect[kept])


def _shown(asked: Asked, found: MeasuredEffects) -> list[int]:
    """Places of the effects in the table, the largest size first; of many latents the strongest of each."""
    kept = np.abs(found.effect) >= asked.least
    if asked.given_latent is None:
        starts = np.cumsum([0, *(one.n_effects for one in found.latents)])[:-1]
        place_P = np.arange(len(found.effect)) - np.repeat(starts, [one.n_effects for one in found.latents])
        kept &= place_P < EACH
    places = np.flatnonzero(kept)
    return [int(place) for place in places[np.argsort(-np.abs(found.effect[places]), kind="stable")]]


def _at(found: MeasuredEffects, place: int) -> tuple[int, int, float, float | None]:
    error = float(found.standard_error[place])
    return (
        int(found.ablator[place]),
        int(found.reader[place]),
        float(found.effect[place]),
        error if np.isfinite(error) else None,
    )
