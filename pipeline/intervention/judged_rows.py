"""The stored rows of chosen sequences: what is read and written, which rows pass the filters, and their mean."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.losses import Predicted, predicted
from strata_sae.pipeline.intervention.sequences import SPLIT, Chosen, batches_of
from strata_sae.pipeline.language_model.inputs import Inputs, Span
from strata_sae.pipeline.reading.feed import side_by_side, sites_of
from strata_sae.stores import Filters, Together, joint_mask

log = logging.getLogger(__name__)

_SPECIAL = Filters(drop_bos=True, drop_special=True)


class Batch(NamedTuple):
    """Sequences that run together.

    Shapes: token_ids_BS, position_ids_BS [B, S], padded on the right; x_PM [P, d_in], what is read of their P rows;
    target_PM [P, d_out], what is written; numbers_P [P], the rows in the store; place_P [P], where each lies in the
    flat [B * S]; passes_P, ordinary_P [P], whether the row passes the filters, and whether its token is not special.
    """

    token_ids_BS: Tensor
    position_ids_BS: Tensor | None
    x_PM: Tensor
    target_PM: Tensor
    numbers_P: np.ndarray
    place_P: Tensor
    passes_P: Tensor
    ordinary_P: Tensor
    predicted: Predicted

    def in_place(self, rows_PM: Tensor) -> Tensor:
        """Rows as the model has them: [B, S, M], zeros where there is padding."""
        B, S = self.token_ids_BS.shape
        if len(rows_PM) == B * S:
            return rows_PM.unflatten(0, (B, S))
        padded_PM = rows_PM.new_zeros(B * S, rows_PM.shape[1])
        padded_PM[self.place_P.to(rows_PM.device)] = rows_PM
        return padded_PM.unflatten(0, (B, S))


class JudgedRows:
    """The rows of a route in the chosen sequences; sequences that hold a row that is not finite are left out."""

    def __init__(
        self, stores: Together, route: Route, filters: Filters, chosen: Chosen, max_tokens: int, device: torch.device
    ) -> None:
        """Read every row once. Raises: ConfigError if no sequence is left, or no row passes the filters."""
        self._stores, self._route, self.device = stores, route, device
        self._store = stores.at(route.writes[0])
        self._max_tokens = max_tokens
        self._passes_N = self._passing(filters)
        self.spans, self.mean_M = self._look(chosen.spans)
        self.n_left_out = len(chosen.spans) - len(self.spans)
        if self.n_left_out:
            log.warning(
                "%s: %d of %d sequences hold a row with a NaN or an infinity and are left out of the losses",
                route.name,
                self.n_left_out,
                len(chosen.spans),
            )
        self.n_rows = sum(span.length for span in self.spans)
        self.n_heldout_documents = chosen.n_heldout_documents
        document_N = np.concatenate([self._map("document", span) for span in self.spans])
        found, at = np.unique(document_N, return_index=True)
        self.documents: list[int] = found[np.argsort(at)].tolist()
        self._place_of = {document: place for place, document in enumerate(self.documents)}

    def _passing(self, filters: Filters) -> np.ndarray:
        """Whether each held-out row passes the filters at all sites of the route."""
        first, last = self._store.plan.splits[SPLIT]
        mask = joint_mask(sites_of(self._route, self._stores), SPLIT, filters)
        passes_N = np.zeros(last - first, bool)
        for block in mask.blocks.tolist():
            passes_N[mask.rows_in(block) + block * self._store.plan.rows_per_chunk - first] = True
        return passes_N

    def _look(self, spans: Sequence[Span]) -> tuple[list[Span], Tensor]:
        """The sequences of finite rows, and the mean of what is written over their rows that pass: float32 [M]."""
        kept, total_M, n_rows = [], None, 0
        for span in spans:
            x_PM, target_PM = self._read(span)
            if not (bool(x_PM.isfinite().all()) and bool(target_PM.isfinite().all())):
                continue
            kept.append(span)
            passing_PM = target_PM[torch.from_numpy(self._of(span)).to(target_PM.device)].double()
            total_M = passing_PM.sum(dim=0) + (0.0 if total_M is None else total_M)
            n_rows += len(passing_PM)
        if total_M is None:
            raise ConfigError(
                f"evaluation.with_model: every chosen sequence holds a row at {self._route.name} with a NaN or an "
                "infinity, so no loss can be measured there"
            )
        if n_rows == 0:
            raise ConfigError(
                f"training.filters: let no row of the chosen held-out sequences pass at {self._route.name}, so no row "
                "would be replaced; filter less"
            )
        return kept, (total_M / n_rows).float()

    def batches(self) -> Iterator[Batch]:
        """All sequences, in batches."""
        for spans in batches_of(self.spans, self._max_tokens):
            inputs = Inputs(self._store.plan, self._store.token_map, spans)
            token_ids_BS, position_ids_BS = inputs.batch(spans)
            read = [self._read(span) for span in spans]
            flags_P = np.concatenate([self._map("flags", span) for span in spans])
            document_P = np.concatenate([self._map("document", span) for span in spans])
            lengths = [span.length for span in spans]
            S = token_ids_BS.shape[1]
            place_P = torch.cat([row * S + torch.arange(length) for row, length in enumerate(lengths)])
            ordinary_P = torch.from_numpy((flags_P & _SPECIAL.flag_mask()) == 0)
            document_of_P = torch.tensor([self._place_of[document] for document in document_P.tolist()])
            yield Batch(
                token_ids_BS,
                position_ids_BS,
                torch.cat([x_PM for x_PM, _ in read]),
                torch.cat([target_PM for _, target_PM in read]),
                np.concatenate([np.arange(span.start, span.stop) for span in spans]),
                place_P,
                torch.from_numpy(np.concatenate([self._of(span) for span in spans])),
                ordinary_P,
                predicted(
                    token_ids_BS,
                    lengths,
                    *(_spread(of_P, place_P, token_ids_BS) for of_P in (ordinary_P, document_of_P)),
                ),
            )

    def _of(self, span: Span) -> np.ndarray:
        first, _ = self._store.plan.splits[SPLIT]
        return self._passes_N[span.start - first : span.stop - first]

    def _map(self, field: str, span: Span) -> np.ndarray:
        return self._store.token_map(field, span.start, span.stop)

    def _read(self, span: Span) -> tuple[Tensor, Tensor]:
        """What is read and what is written of a sequence: float32 [P, d_in] and [P, d_out]; one tensor for an SAE."""
        route = self._route
        of_site = {site: self._stores.at(site).rows(site, span.start, span.stop) for site in route.sites}
        x_PM = side_by_side([of_site[site] for site in route.reads], None, self.device)
        if route.reads == route.writes:
            return x_PM, x_PM
        return x_PM, side_by_side([of_site[site] for site in route.writes], None, self.device)


def _spread(of_P: Tensor, place_P: Tensor, token_ids_BS: Tensor) -> Tensor:
    """Numbers of rows as [B, S], zeros where there is padding."""
    flat_P = of_P.new_zeros(token_ids_BS.numel())
    flat_P[place_P] = of_P
    return flat_P.reshape(token_ids_BS.shape)
