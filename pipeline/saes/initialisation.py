"""Where weights start. Seed and shape decide their bits, so SAEs of one seed and one shape start from equal weights."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from strata_sae.pipeline.settings import Settings


class InitialSettings(Settings):
    """Where an SAE's weights start. Defaults: dictionary_learning's Matryoshka and JumpReLU trainers."""

    weights: Literal["kaiming", "linear", "normal"] = "kaiming"
    """W_dec's distribution: uniform within sqrt(6 / fan_in) or sqrt(1 / fan_in) (nn.Linear), normal of variance
    1 / fan_in. With `decoder_norm` only a row's direction is kept; uniform numbers favour the corners of a cube."""
    decoder_norm: float | None = Field(default=1.0, gt=0.0)
    """Norm that every row of W_dec is given. null: as drawn. Default: the TopK family's; 0.1 is Anthropic's of 2024."""
    encoder: Literal["transpose", "independent"] = "transpose"
    """W_enc: equal to W_dec, or drawn from the same distribution on its own (seed 000)."""
    b_enc: Literal["zero", "uniform"] = "zero"
    """b_enc: 0, or uniform within sqrt(1 / d_out), as dictionary_learning's AutoEncoder leaves it."""
    b_dec: Literal["geometric_median", "mean", "median", "zero"] = "geometric_median"
    """b_dec: this centre of the rows (median: of each coordinate; HypotheSAEs), or 0 (SAELens)."""
    b_dec_from: Literal["first_batch", "train_split"] = "first_batch"
    """The rows of that centre: of the first batch, or all to train on (HypotheSAEs), which `mean` reads once more and
    `median` four times. Default: dictionary_learning's."""

    @model_validator(mode="after")
    def _whole_split_has_a_centre(self) -> "InitialSettings":
        if self.b_dec_from == "train_split" and self.b_dec in ("geometric_median", "zero"):
            raise ValueError(
                f"b_dec_from: train_split is for b_dec: mean or median, got {self.b_dec}; the geometric median would "
                "read all rows a hundred times, and 0 needs none"
            )
        return self


def initial_weights(
    settings: InitialSettings,
    d_sae: int,
    d_out: int,
    generator: torch.Generator,
    d_in: int | None = None,
    held: range | None = None,
) -> dict[str, Tensor]:
    """Fresh float32 W_enc, W_dec [E, M] and b_enc [E]; W_dec is drawn first, so its bits do not depend on the others.

    d_in: width of W_enc, where that is not d_out. held: the latents whose rows are returned (None: all); their bits do
    not depend on it. Raises: ValueError if W_enc is to be W_dec, and cannot.
    """
    d_in = d_out if d_in is None else d_in
    held = range(d_sae) if held is None else held
    if settings.encoder == "transpose" and d_in != d_out:
        raise ValueError(f"W_enc is {d_in} wide and W_dec {d_out}; set sae.initial.encoder to independent")
    # The draw of "linear" has the fan-in of the decoder as nn.Linear counts it (d_sae); the others that of a row.
    fan_in = d_sae if settings.weights == "linear" else d_out
    W_dec = _draw(settings.weights, (d_sae, d_out), fan_in, generator, held)
    if settings.decoder_norm is not None:
        W_dec *= settings.decoder_norm / W_dec.norm(dim=1, keepdim=True)
    W_enc = (
        W_dec.clone()
        if settings.encoder == "transpose"
        else _draw(settings.weights, (d_sae, d_in), d_in, generator, held)
    )
    b_enc = torch.zeros(len(held)) if settings.b_enc == "zero" else _draw("linear", (d_sae,), d_in, generator, held)
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc}


ROWS_DRAWN = 2**14
"""Latents whose numbers are drawn together where a rank keeps only some (count)."""
# A multiple of 16: torch draws normal numbers in groups of 16, so the pieces have the bits of the whole.


def _draw(distribution: str, shape: tuple[int, ...], fan_in: int, generator: torch.Generator, held: range) -> Tensor:
    """Some rows of numbers of a distribution of InitialSettings.weights; fan_in: inputs of a unit (count)."""
    draw = torch.randn if distribution == "normal" else torch.rand
    if len(held) == shape[0]:
        numbers = draw(shape, generator=generator)
    else:  # all are drawn, so that the bits are those of one process, but never all at the same time
        numbers = torch.empty(len(held), *shape[1:])
        firsts = range(0, max(shape[0] - 15, 1), ROWS_DRAWN)  # the last piece has no fewer than 16 rows
        for first, end in zip(firsts, [*firsts[1:], shape[0]], strict=True):
            drawn = draw((end - first, *shape[1:]), generator=generator)
            start, stop = max(held.start, first), min(held.stop, end)
            if start < stop:
                numbers[start - held.start : stop - held.start] = drawn[start - first : stop - first]
    if distribution == "normal":
        return numbers * fan_in**-0.5
    return (numbers * 2 - 1) * ((6 if distribution == "kaiming" else 1) / fan_in) ** 0.5
