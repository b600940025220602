"""Documents packed into one sequence that cannot see each other: each is run as if it stood there alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.language_model.sites import FAMILIES

if TYPE_CHECKING:
    from pipeline.language_model.capture import Capture

_ATTENTION = ("sdpa", "eager")
# transformers keeps documents apart where position ids start again, except in these models, which build their mask
# without looking at position ids.
_MASK_IGNORES_POSITIONS = ("opt",)

SAME_ROW = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 4e-2}
"""Largest |difference| / |row| between two runs of one model over the same tokens, batched in different ways."""


def isolates(model_type: str, attention: str) -> bool:
    """Whether documents can be kept apart in models of this type with this attention implementation."""
    return model_type in FAMILIES and attention in _ATTENTION


def restarted_positions(starts: Sequence[int], length: int) -> Tensor:
    """Position ids [S] of a sequence in which documents begin at `starts`; its first token begins one in any case."""
    places_S = torch.arange(length)
    begins_S = torch.zeros(length, dtype=torch.int64)
    begins_S[list(starts)] = torch.as_tensor(list(starts), dtype=torch.int64)
    return places_S - begins_S.cummax(dim=0).values


def isolating_arguments(model: Any, position_ids_BS: Tensor) -> dict[str, Tensor]:
    """What to pass a model beside the tokens, so that attention stays within each run of rising positions."""
    arguments = {"position_ids": position_ids_BS}
    if model.config.model_type in _MASK_IGNORES_POSITIONS:
        arguments["attention_mask"] = _causal_mask(position_ids_BS, model.dtype, model.config._attn_implementation)
    return arguments


def _causal_mask(position_ids_BS: Tensor, dtype: torch.dtype, attention: str) -> Tensor:
    """[B, 1, S, S]: true where a query (third axis) may see a key; added to the scores in eager attention."""
    document_BS = (position_ids_BS == 0).cumsum(dim=1)
    seen = (document_BS[:, :, None] == document_BS[:, None, :]).tril()[:, None]
    if attention == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def check_isolation(capture: "Capture") -> None:
    """Run two short documents packed and alone. Raises: ConfigError if they see each other, naming the site."""
    first_S, second_S = torch.arange(5, 9), torch.arange(20, 25)
    packed_BS = torch.cat([first_S, second_S])[None]
    positions_BS = restarted_positions([0, len(first_S)], packed_BS.shape[1])[None]
    packed = capture.forward(packed_BS, positions_BS)
    alone = capture.forward(second_S[None])
    for site, rows_BSM in alone.items():
        expected_SM, found_SM = rows_BSM[0].float(), packed[site][0, len(first_S) :].float()
        error = float(((found_SM - expected_SM).norm(dim=1) / expected_SM.norm(dim=1).clamp(min=1e-12)).max())
        allowed = SAME_ROW[str(rows_BSM.dtype).removeprefix("torch.")]
        if not error <= allowed:
            raise ConfigError(
                f"corpus.isolate_documents: this model lets packed documents see each other: a probe's rows at {site} "
                f"are off by {error:.2g} of their length ({allowed} allowed); set it to false, or use mode: sequential"
            )
