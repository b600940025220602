"""Forward passes over texts that grow token by token."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from strata_sae.pipeline.language_model.splice import WholeModel


class Stepping:
    """B texts of one length in a model; each step feeds it their newest tokens, and what it computed is kept.

    A model that gives no `past_key_values` gets the whole texts again at each step.
    """

    def __init__(self, whole: WholeModel, before: Callable[[Tensor], None]) -> None:
        """before: is called with the token ids [B, S] that the next pass is fed, before it runs."""
        self._whole, self._before = whole, before
        self._ids_BS: Tensor | None = None
        self._kept: object | None = None
        taken = inspect.signature(whole.model.forward).parameters
        # Logits of the last token alone: of 32 texts of 1,000 tokens all of them would be gigabytes.
        self._of_the_last = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}

    def logits(self, new_ids_BS: Tensor) -> Tensor:
        """Logits [B, V] after the texts with these tokens at their ends, in the model's dtype, on its device."""
        new_ids_BS = new_ids_BS.to(self._whole.device)
        whole_BS = new_ids_BS if self._ids_BS is None else torch.cat([self._ids_BS, new_ids_BS], dim=1)
        fed_BS = whole_BS if self._kept is None else new_ids_BS
        self._ids_BS = whole_BS
        self._before(fed_BS)
        output = self._whole.step(fed_BS, past_key_values=self._kept, **self._of_the_last)
        self._kept = getattr(output, "past_key_values", None)
        return output.logits[:, -1]
