"""Forward passes over one text: the clean one, which is kept while the text is asked about, and edited ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.edited_pass import EditedPass
from strata_sae.pipeline.intervention.opened_model import OpenedModel
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.language_model.begin import Beginning, place_of
from strata_sae.pipeline.language_model.capture import attach, rows_per_position
from strata_sae.pipeline.language_model.sites import Site
from strata_sae.pipeline.queries.asked_model import Edit

NOT_FINITE = "edits: the model's numbers are no longer finite with them; take smaller amounts"


class Ran(NamedTuple):
    """What a pass over one text of S tokens gave."""

    logits_SV: Tensor
    rows: dict[str, Tensor]
    """Of every site what the model went on with, [1, S, M]."""
    edited: dict[str, Codes]
    """Of the edited SAEs: their codes with the edits."""
    changed_sites: Sequence[str]
    """Sites whose rows may be others than in the clean pass; of that itself: all."""


class PromptPasses:
    """The passes of a model over texts, one after another."""

    def __init__(self, opened: OpenedModel) -> None:
        self._opened = opened
        self._token_ids: list[int] = []
        self._clean: Ran | None = None
        self._beginnings: dict[int, Beginning | None] = {}

    def clean(self, token_ids: list[int]) -> Ran:
        """The pass without edits; that of the text asked about last is kept."""
        if self._clean is None or self._token_ids != token_ids:
            self._clean = None  # its logits make room
            logits_BSV, rows = self._opened.whole.run(torch.tensor([token_ids]))
            self._token_ids, self._clean = token_ids, Ran(logits_BSV[0], rows, {}, list(rows))
        return self._clean

    def edited(self, token_ids: list[int], edits: Sequence[Edit]) -> Ran:
        """With edits; the blocks below the first edited site do not run again where it is the residual stream.

        Raises: ConfigError for an edit that cannot be made, and where numbers are no longer finite.
        """
        clean, ids_BS = self.clean(token_ids), torch.tensor([token_ids])
        edited = EditedPass(self._opened, [edits])
        edited.begin(ids_BS)
        first = edited.changed_sites[0]
        beginning = self._beginning(first)
        with edited.on():
            if beginning is None:
                logits_BSV, rows = self._opened.whole.run(ids_BS)
            else:
                edited.rows.update({site: clean.rows[site] for site in clean.rows if site not in edited.changed_sites})
                stream_BSM = edited.write(first, clean.rows[first])
                with self._captured(edited.changed_sites[1:], ids_BS) as rows:
                    logits_BSV = beginning.run(ids_BS, None, stream_BSM)
        if not bool(logits_BSV.isfinite().all()):
            raise ConfigError(NOT_FINITE)
        return Ran(logits_BSV[0], clean.rows | rows | edited.rows, edited.edited, edited.changed_sites)

    @contextmanager
    def _captured(self, sites: Sequence[str], ids_BS: Tensor) -> Iterator[dict[str, Tensor]]:
        """What these sites give within the block."""
        rows: dict[str, Tensor] = {}

        def receive(site: Site, value: Tensor) -> None:
            rows[site.name] = rows_per_position(value, site, ids_BS.shape).clone()

        handles = attach(self._opened.whole.model, [self._opened.whole.sites[name] for name in sites], receive)
        try:
            yield rows
        finally:
            for handle in handles:
                handle.remove()

    def _beginning(self, site: str) -> Beginning | None:
        """Passes from the block after a site on; None where the site is no output of a block, or a family has none."""
        place = place_of(self._opened.whole, site)
        # A site on the input side of a block would be written twice: by hand, and by its hook when the block runs.
        if place is None or not place.is_stream or self._opened.whole.sites[site].side != "output":
            return None
        if place.block not in self._beginnings:
            try:
                self._beginnings[place.block] = Beginning(self._opened.whole, place.block)
            except ConfigError:  # the family does something between its blocks
                self._beginnings[place.block] = None
        return self._beginnings[place.block]
