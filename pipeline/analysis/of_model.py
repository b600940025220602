"""A question that needs the language model: how it goes on after a text with a latent turned up."""

import numpy as np

from strata_sae.pipeline.analysis.answer import Answer, Cell, Column, Points
from strata_sae.pipeline.analysis.asked import Asked
from strata_sae.pipeline.analysis.names import names_of
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.pages.text import cut
from strata_sae.pipeline.queries.asked_model import MOST_NEW_TOKENS, Edit
from strata_sae.pipeline.queries.opened import CodedSAE

ALPHAS = (0.0, 15.0, 25.0, 50.0, 100.0, 150.0, 200.0)
"""FAST, section 6: z' = z + alpha d at every token, d the latent's decoder row."""

LONGEST_TEXT = 400
"""Characters of the prompt that the page shows."""


def answer_steer(asked: Asked) -> Answer:
    """The text that follows at each alpha, side by side, and how far the predictions on the text itself move.

    Raises: ConfigError for more tokens than a continuation may have, and as `AskedModel.prompt`.
    """
    run, sae, latent, text = asked.run, asked.sae, asked.latent, asked.text
    if asked.n > MOST_NEW_TOKENS:
        raise ConfigError(f"--n: {asked.n}; a continuation has at most {MOST_NEW_TOKENS} tokens")
    ways = [[Edit(sae.name, latent, "steer", alpha)] for alpha in ALPHAS]
    divergences = [_mean_kl(asked, way) for way in ways]
    texts = asked.model.continuations(text, ways, asked.n)
    largest = largest_value(sae, latent)
    norm = float(sae.decoder_norm_E[latent])
    rows: list[tuple[Cell, ...]] = [
        (alpha, alpha / largest if largest else None, alpha * norm, kl, following)
        for alpha, kl, following in zip(ALPHAS, divergences, texts, strict=True)
    ]
    return Answer(
        f"Latent {names_of(run, sae)(latent)}: the text that follows as it is turned up",
        f"The text is \N{LEFT DOUBLE QUOTATION MARK}{cut(text, LONGEST_TEXT)}\N{RIGHT DOUBLE QUOTATION MARK}. "
        "To the row of every token, special ones left out, alpha times the latent's decoder row is added, in the text "
        "and in what follows; the alphas are those of FAST, section 6. Each token is the likeliest one. In the store "
        f"the latent's largest value is {largest:.4g}: an alpha far above it makes rows that the model never sees, and "
        "text that comes of it says little about the latent.",
        (
            Column("alpha", "how much of the decoder row is added, in units of the latent's values"),
            Column("of_largest", "alpha / the latent's largest value on rows as trained"),
            Column("length", "Euclidean length of what is added to a row, in the units of the store"),
            Column(
                "kl_nat",
                "KL of the edited from the clean next-token prediction, mean over tokens that are edited (nat)",
            ),
            Column("following", "the text that follows"),
        ),
        rows,
        Points(
            "alpha",
            "mean KL of the next-token predictions (nat)",
            list(ALPHAS),
            divergences,
            [f"alpha {alpha:g}" for alpha in ALPHAS],
        ),
    )


def _mean_kl(asked: Asked, way: list[Edit]) -> float:
    prompted = asked.model.prompt(asked.text, way, 1)
    if all(prompted.is_special):
        raise ConfigError("--text: every token of it is a special one (unknown, BOS), and these are not edited")
    assert prompted.kl_S is not None
    return float(prompted.kl_S[~np.asarray(prompted.is_special)].mean())


def largest_value(sae: CodedSAE, latent: int) -> float:
    """The largest value of a latent on the rows that it was trained on; 0 where it is silent on all."""
    rows, values = sae.codes.rows_of(latent)
    return float(values[sae.kept()[rows]].max(initial=0.0))
