"""Forward passes of one site: from its stored rows, or from the block it lies in, or whole where neither is known."""

from typing import Literal

from torch import Tensor

from strata_sae.pipeline.language_model.begin import Beginning, place_of
from strata_sae.pipeline.language_model.splice import Splice, WholeModel

Begins = Literal["stored rows", "the block of the site", "the tokens"]


class Passes:
    """What a model predicts with given rows at a site; of a batch the layers below the site run once at most."""

    def __init__(self, whole: WholeModel, site: str) -> None:
        """Raises: ConfigError if the model does not run from that site on as it runs whole."""
        self._whole, self._site = whole, site
        place = place_of(whole, site)
        self._beginning = None if place is None or place.block == 0 else Beginning(whole, place.block)
        self._is_stream = place is not None and place.is_stream
        self.begins: Begins = "the tokens"
        """Where a pass begins. Below the first block there is nothing but the tokens."""
        if self._is_stream:
            self.begins = "stored rows"
        elif self._beginning is not None:
            self.begins = "the block of the site"

    def begin(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None) -> None:
        """Take up a batch; at a site inside a block this runs the blocks below it."""
        self._inputs = self._begun = token_ids_BS, position_ids_BS
        self._stream_BSM: Tensor | None = None
        if self._beginning is not None and not self._is_stream:
            self._stream_BSM = self._beginning.stream(token_ids_BS, position_ids_BS)
        self._begun_stream_BSM = self._stream_BSM

    def take(self, sequence_B: Tensor) -> None:
        """Which sequences of the batch the next passes are of; each may be named several times."""
        ids_BS, positions_BS = self._begun
        places_B = sequence_B.to(ids_BS.device)
        self._inputs = ids_BS[places_B], None if positions_BS is None else positions_BS[places_B]
        if self._begun_stream_BSM is not None:
            self._stream_BSM = self._begun_stream_BSM[sequence_B.to(self._begun_stream_BSM.device)]

    def logits(self, rows_BSM: Tensor) -> Tensor:
        """Logits [B, S, V] of the batch with these rows, in the model's dtype on its device, at the site."""
        if self._beginning is None:
            with Splice(self._whole, self._site, lambda _: rows_BSM):
                return self._whole.run(*self._inputs).logits_BSV
        if self._stream_BSM is None:
            return self._beginning.run(*self._inputs, rows_BSM)
        with Splice(self._whole, self._site, lambda _: rows_BSM):
            return self._beginning.run(*self._inputs, self._stream_BSM)

    def captured(self, rows_BSM: Tensor) -> dict[str, Tensor]:
        """What the sites behind this one give with these rows: {site: [B, S, M]}; nothing runs after the last one."""
        if self._beginning is None:
            with Splice(self._whole, self._site, lambda _: rows_BSM):
                return self._whole.forward(*self._inputs)
        if self._stream_BSM is None:
            return self._beginning.forward(*self._inputs, rows_BSM)
        with Splice(self._whole, self._site, lambda _: rows_BSM):
            return self._beginning.forward(*self._inputs, self._stream_BSM)
