"""Documents packed into one sequence that cannot see each other: each is run as if it stood there alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strata_sae.pipeline.language_model.sites import FAMILIES

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
