"""An SAE of ours from tensors that another library's files hold."""

from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError
from torch import Tensor, linalg

from strata_sae.pipeline.errors import CheckpointError, one_line
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE

UNIT_TOLERANCE = 1e-5
"""How far from 1 the norm of a decoder row may be that counts as 1. Source: SAEBench's check_decoder_norms."""


def built(where: Path, architecture: str, weights: dict[str, Tensor], **settings: JsonValue) -> SAE:
    """The SAE of one of ARCHITECTURES with these weights, by our checkpoint keys and in our shapes.

    Whether its decoder rows are kept at norm 1 is read from W_dec [E, M]; widths are those of W_enc and W_dec.
    Raises: CheckpointError naming `where` if the settings do not fit one another, or the weights.
    """
    kind = ARCHITECTURES[architecture]
    (d_sae, d_in), d_out = weights["W_enc"].shape, weights["W_dec"].shape[1]
    try:
        found = kind.Settings.model_validate({"d_sae": d_sae, "decoder": decoder_kind(weights["W_dec"]), **settings})
        return kind(found, d_out, weights, d_in)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or architecture
        raise CheckpointError(f"{where}: {key}: {one_line(first['msg'])}; fetch the files again") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: {one_line(error)}; fetch the files again") from None


def encoder_bias(sae: SAE, *, subtracts: bool) -> Tensor:
    """b_enc [E] for an encoder that takes b_dec from its rows first, or not, wherever that of ours does otherwise.

    The sum is made in float64: codes differ by float32's rounding alone. Where both do alike it is b_enc itself.
    """
    if sae.settings.pre_bias == subtracts:
        return sae.b_enc
    shift_E = (sae.W_enc.double() @ sae.b_dec.double()) * (1 if subtracts else -1)
    return (sae.b_enc.double() + shift_E).float()


def decoder_kind(W_dec: Tensor) -> Literal["unit", "free"]:
    """What `decoder` says of rows like these [E, M]: `unit` if every norm is 1."""
    off = (linalg.vector_norm(W_dec, dim=1) - 1).abs()
    return "unit" if bool((off <= UNIT_TOLERANCE).all()) else "free"
