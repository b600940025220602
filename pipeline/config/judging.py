"""What judging does beyond the scores of the store's rows: with the language model, by probes, by first letters."""

from typing import Annotated, Literal

from pydantic import Field

from strata_sae.pipeline.settings import Settings


class WithModelSettings(Settings):
    """Cross-entropy and KL with the reconstruction in the place of the rows."""

    max_rows: int | None = Field(default=4096, gt=0)
    """Held-out rows that are spliced (count), in whole sequences, taken from every held-out document. null: all."""
    forms: list[Literal["population", "saebench"]] = Field(default=["population", "saebench"], min_length=1)
    """`population`: rows that training's filters leave out keep their activation. `saebench`: all rows but those of
    special tokens are replaced, as SAEBench does."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the forward pass. The other ones are faster where the processor knows them, and less exact."""


_TOKEN_TASK = r"first_letter_[a-z]|digit|capitalised|starts_word|next_(digit|capitalised|starts_word|punctuation)"


class ProbingSettings(Settings):
    """k-sparse probes of labelled rows (sae-probes' form)."""

    seeds: int = Field(default=5, ge=5)
    """Runs of whatever is drawn (count); their spread is printed."""
    k_values: list[Annotated[int, Field(gt=0)]] = Field(default=[1, 16], min_length=1)
    """Latents that a probe may use (counts): those whose class means differ most."""
    tasks: list[str] = Field(
        default=[
            "161_agnews_0",
            "159_code_Python",
            "113_movie_sent",
            "87_glue_cola",
            "149_twt_emotion_happiness",
            "95_toxic_is",
        ]
    )
    """Tasks of the package sae-probes, 113 in all; of each text the last token's row. `evaluate --with-model` makes
    their rows where they are missing; without them these tasks are left out, which is said."""
    texts: int = Field(default=600, ge=192)
    """Texts of each of these tasks, as many of each class (count), at most those it has; two thirds train a probe."""
    max_tokens: int = Field(default=128, gt=0)
    """Tokens of a text that the model sees, its last ones (count)."""
    token_tasks: list[Annotated[str, Field(pattern=f"^({_TOKEN_TASK})$")]] = Field(
        default=[
            "first_letter_s",
            "first_letter_t",
            "digit",
            "capitalised",
            "starts_word",
            "next_starts_word",
            "next_punctuation",
        ]
    )
    """Tasks whose labels are the store's own tokens: no text and no model is needed. `first_letter_<a to z>`, `digit`,
    `capitalised`, `starts_word`; of the token after it: `next_digit`, `next_capitalised`, `next_starts_word`,
    `next_punctuation`."""
    token_rows: int = Field(default=900, ge=192)
    """Held-out rows of each of these tasks, as many of each class (count), at most those there are; two thirds train a
    probe. Documents and token ids of training and testing are disjoint."""


class AbsorptionSettings(Settings):
    """First-letter absorption, in both of SAEBench's forms."""

    seeds: int = Field(default=5, ge=5)
    """Draws of words, prompts and probes (count); their spread is printed. Each needs rows of its own prompts."""
    words_per_letter: int | None = Field(default=30, gt=0)
    """Words of one token, of lowest id (count); null: all of the vocabulary, as SAEBench takes them."""
    min_letters: int = Field(default=20, ge=1, le=26)
    """Letters that a probe must tell (F1 above 0.6) for a number to be given (count): SAEBench's."""
