"""Questions about one latent: rows that show it, and the tokens it promotes."""

from strata_sae.pipeline.analysis.answer import Answer, Bars, Cell, Column, Shown
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import names_of, shortened
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.examples import KINDS, examples
from strata_sae.pipeline.queries.logits import logit_effects, token_text, why_none
from strata_sae.pipeline.queries.windows import windows

HEADINGS = {
    "top": "Most active",
    "quantiles": "One of each tenth of the active rows, by value",
    "half": "Around half of the largest value",
    "barely": "Barely active",
    "silent": "Silent, at random",
    "near_miss": "Silent though its own token",
}
PLACE = (
    Column("row", "row of the store"),
    Column("document", "number of the document"),
    Column("position", "place in the document (tokens)"),
    Column("value", "the latent's activation, in the SAE's units"),
    Column("before", "text before the token"),
    Column("token", "the token"),
    Column("after", "text after it"),
)


def answer_examples(asked: Asked) -> Answer:
    """Rows of each kind, in their text."""
    run, sae, latent = asked.run, asked.sae, asked.latent
    rows: list[tuple[Cell, ...]] = []
    texts: list[tuple[str, list[Shown]]] = []
    for kind in KINDS:
        found = examples(run, sae, latent, kind, asked.n, population=asked.population)
        shown = []
        around = windows(run, sae, latent, [example.row for example in found])
        for (row, value), at in zip(found, around, strict=True):
            before, token, after = at.texts[: at.index], at.texts[at.index], at.texts[at.index + 1 :]
            rows.append((kind, row, at.document, at.position, value, "".join(before), token, "".join(after)))
            shown.append(Shown(row, at.document, at.position, at.index, at.texts, at.values, value))
        if shown:
            texts.append((HEADINGS[kind], shown))
    return Answer(
        f"Latent {names_of(run, sae)(latent)}: rows that show it",
        "Rows of every kind with the tokens around them, no two with the same context; the depth of a colour is the "
        "latent's value on that token, beside the largest. Silent though its own token: where its label says that it "
        "should fire, and it does not.",
        (Column("kind", "how the row was chosen"), *PLACE),
        rows,
        None,
        texts,
    )


def answer_logits(asked: Asked) -> Answer:
    """The tokens whose logits a latent raises and lowers the most."""
    run, sae, latent = asked.run, asked.sae, asked.latent
    found = logit_effects(sae, latent, asked.n)
    if found is None:
        raise ConfigError(f"logits: {sae.name}: {why_none(sae)}")
    rows: list[tuple[Cell, ...]] = [
        (way, token, token_text(sae, token), value)
        for way, pairs in zip(("promoted", "suppressed"), found, strict=True)
        for token, value in pairs
    ]
    drawn = [*found.promoted[:20], *reversed(found.suppressed[:20])]
    return Answer(
        f"Latent {names_of(run, sae)(latent)}: what it promotes",
        "Change of a token's logit per unit of activation by the direct path: the latent's decoder row, times the "
        "weight of the final norm, times the unembedding. The norm's scale is held as it is, and what later blocks "
        "make of the direction is not in it.",
        (
            Column("way", "promoted or suppressed"),
            Column("token_id", "number of the token"),
            Column("token", "its text"),
            Column("logit_per_unit", "change of its logit per unit of the latent's activation"),
        ),
        rows,
        Bars(
            "change of the logit per unit of activation",
            [shortened(token_text(sae, token)) for token, _ in drawn],
            [value for _, value in drawn],
            [0 if value > 0 else 2 for _, value in drawn],
            ["promoted", "", "suppressed"],
        ),
    )
