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
    settings: InitialSettings, d_sae: int, d_out: int, generator: torch.Generator, d_in: int | None = None
) -> dict[str, Tensor]:
    """Fresh float32 W_enc, W_dec [E, M] and b_enc [E]; W_dec is drawn first, so its bits do not depend on the others.

    d_in: width of W_enc, where that is not d_out. Raises: ValueError if it is to be W_dec, and cannot.
    """
    d_in = d_out if d_in is None else d_in
    if settings.encoder == "transpose" and d_in != d_out:
        raise ValueError(f"W_enc is {d_in} wide and W_dec {d_out}; set sae.initial.encoder to independent")
    shape = (d_sae, d_out)
    # The draw of "linear" has the fan-in of the decoder as nn.Linear counts it (d_sae); the others that of a row.
    W_dec = _draw(settings.weights, shape, d_sae if settings.weights == "linear" else d_out, generator)
    if settings.decoder_norm is not None:
        W_dec *= settings.decoder_norm / W_dec.norm(dim=1, keepdim=True)
    W_enc = (
        W_dec.clone() if settings.encoder == "transpose" else _draw(settings.weights, (d_sae, d_in), d_in, generator)
    )
    b_enc = torch.zeros(d_sae) if settings.b_enc == "zero" else _draw("linear", (d_sae,), d_in, generator)
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc}


def _draw(distribution: str, shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Numbers of a distribution of InitialSettings.weights; fan_in: inputs of a unit (count)."""
    if distribution == "normal":
        return torch.randn(shape, generator=generator) * fan_in**-0.5
    return (torch.rand(shape, generator=generator) * 2 - 1) * ((6 if distribution == "kaiming" else 1) / fan_in) ** 0.5
