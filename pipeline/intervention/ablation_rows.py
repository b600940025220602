"""Held-out sequences whose latents are ablated: tokens, rows, and which rows are ablated and counted."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.sequences import SPLIT, batches_of, chosen_sequences
from strata_sae.pipeline.language_model.inputs import Inputs, Span
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.reading.feed import to_tensor
from strata_sae.pipeline.reading.routes import route_in

log = logging.getLogger(__name__)


class Group(NamedTuple):
    """G sequences that run together, padded on the right to S tokens."""

    token_ids_GS: Tensor
    position_ids_GS: Tensor | None
    x_GSM: Tensor
    """What the ablated SAE reads, float32; zeros where there is padding."""
    target_GSM: Tensor
    """What it writes."""
    stored: dict[str, Tensor]
    """What else the reader reads, as it is in the store: {site: [G, S, M]}."""
    is_ablated_GS: Tensor
    """Rows of the population, of the ablated SAE."""
    is_counted_GS: Tensor
    """Rows in which effects are counted: of the population of the reader."""


class AblationRows:
    """The chosen held-out sequences; those that hold a row that is not finite are left out."""

    def __init__(
        self, ablator: CodedSAE, reader: CodedSAE | None, population: Population, max_rows: int | None
    ) -> None:
        """Raises: ConfigError where the store holds no held-out rows, or no finite ones."""
        self.route, self._codes = route_in(ablator.record), ablator.codes
        self._reads = () if reader is None else route_in(reader.record).reads
        self._store_of = {site: ablator.stores.at(site) for site in self.route.sites}
        if reader is not None:
            self._store_of |= {site: reader.stores.at(site) for site in self._reads if site not in self._store_of}
        self.store = self._store_of[self.route.writes[0]]
        first, last = self.store.plan.splits.get(SPLIT, (0, 0))
        if first == last:
            raise ConfigError(f"ablate: {self.store.path}: holds no held-out rows, on which effects are measured")
        self._is_ablated_N = ablator.kept(population)
        self._is_counted_N = (reader or ablator).kept(population)
        chosen = chosen_sequences(self.store, max_rows).spans
        self.spans = [span for span in chosen if self._is_finite(span)]
        if n_left_out := len(chosen) - len(self.spans):
            says = "ablate: %d of %d sequences hold a row with a NaN or an infinity and are left out"
            log.warning(says, n_left_out, len(chosen))
        if not self.spans:
            raise ConfigError(f"ablate: every chosen sequence holds a row at {self.route.name} that is not finite")
        self.n_rows = sum(span.length for span in self.spans)

    @property
    def ablated_N(self) -> np.ndarray:
        """Whether each row of the store is one on which latents are ablated: bool [n_rows of the store]."""
        chosen_N = np.zeros(len(self._is_ablated_N), bool)
        for span in self.spans:
            chosen_N[span.start : span.stop] = self._is_ablated_N[span.start : span.stop]
        return chosen_N

    def n_pairs(self, latents: list[int]) -> int:
        """Pairs of a latent and a sequence in which it is active where it is ablated, by the stored codes (count)."""
        sequence_N = np.full(len(self._is_ablated_N), -1)
        for number, span in enumerate(self.spans):
            is_ablated_S = self._is_ablated_N[span.start : span.stop]
            sequence_N[span.start : span.stop] = np.where(is_ablated_S, number, -1)
        found = (np.unique(sequence_N[self._codes.rows_of(latent)[0]]) for latent in latents)
        return sum(int((numbers >= 0).sum()) for numbers in found)

    def groups(self, max_tokens: int, device: torch.device) -> Iterator[Group]:
        """All sequences, in groups of at most so many tokens with their padding, one sequence at least."""
        for spans in batches_of(self.spans, max_tokens):
            ids_GS, positions_GS = Inputs(self.store.plan, self.store.token_map, spans).batch(spans)
            rows = {site: self._padded(site, spans, device) for site in self._store_of}
            yield Group(
                ids_GS.to(device),
                None if positions_GS is None else positions_GS.to(device),
                torch.cat([rows[site] for site in self.route.reads], dim=-1),
                rows[self.route.writes[0]],
                {site: rows[site] for site in self._reads},
                self._masked(self._is_ablated_N, spans).to(device),
                self._masked(self._is_counted_N, spans).to(device),
            )

    def _rows(self, site: str, span: Span) -> np.ndarray:
        return self._store_of[site].rows(site, span.start, span.stop)

    def _is_finite(self, span: Span) -> bool:
        rows = (to_tensor(self._rows(site, span), torch.device("cpu")) for site in self._store_of)
        return all(bool(rows_PM.isfinite().all()) for rows_PM in rows)

    def _padded(self, site: str, spans: list[Span], device: torch.device) -> Tensor:
        rows = [to_tensor(self._rows(site, span), device) for span in spans]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _masked(self, mask_N: np.ndarray, spans: list[Span]) -> Tensor:
        masks = [torch.from_numpy(mask_N[span.start : span.stop]) for span in spans]
        return torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)


def check_ablated(sae: CodedSAE) -> Route:
    """The route of an SAE whose latents can be ablated one by one. Raises: ConfigError where they cannot."""
    route = route_in(sae.record)
    if len(route.writes) > 1:
        raise ConfigError(
            f"ablate: {sae.name} writes {len(route.writes)} sites at once, and a forward pass goes on from one"
        )
    check_plain(sae)
    return route


def check_plain(sae: CodedSAE) -> None:
    """Raises: ConfigError for an SAE whose codes need more than a row."""
    if sae.record.training.input_scale == "per_document":
        raise ConfigError(
            f"ablate: {sae.name} was trained on rows standardised by document, whose mean and deviation an ablation "
            "would change; ask of an SAE with another input_scale"
        )
