"""The codes of one SAE of a run: what they are of, what is missing of them, and who makes which part now."""

from dataclasses import dataclass

import torch

from strata_sae.pipeline.codes.encoding import ROWS_PER_TILE, RowsEncoder
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.reading.document_units import document_units
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.runs.claims import Hold, busy, claim_in, codes_of
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.pipeline.runs.trained import load as load_trained
from strata_sae.stores import CodesPlan, CodesStore, Filters, Together
from strata_sae.stores.files.claims import is_claimed


@dataclass(frozen=True)
class World:
    """What all SAEs of a run share while their codes are made."""

    run: RunFolder
    stores: Together
    filters: Filters
    """Of the run's training: of the rows that the tables count, and of those that documents are standardised by."""
    device: torch.device


class Coding:
    """A trained SAE whose codes are made."""

    def __init__(self, world: World, folder: VariantFolder) -> None:
        """Raises: CheckpointError for an SAE of another store, or a damaged one."""
        self.world, self.folder = world, folder
        self.trained: TrainedSAE = load_trained(folder, world.device)
        self.route: Route = route_in(self.trained.record)
        record = self.trained.record
        wanted = record.store_ids or {record.site: record.store_id}
        for site in self.route.reads:
            if (found := world.stores.at(site).id) != wanted[site]:
                raise CheckpointError(
                    f"{folder.config}: trained on store {wanted[site][:16]}, but the store with {site} is "
                    f"{found[:16]}; set store.path to the store it was trained on"
                )

    @property
    def name(self) -> str:
        """`<variant>@<site>`."""
        return self.folder.name

    def encoder(self) -> RowsEncoder:
        """What encodes its rows; documents are measured first where it was trained on rows standardised by them."""
        documents = None
        if self.trained.is_per_document:
            (site,) = self.route.reads
            store, kept = self.world.stores.at(site), self.world.run.documents(site)
            documents = document_units(store, site, self.world.filters, kept)
        return RowsEncoder(self.trained, self.world.stores, self.route, documents, self.world.device)

    def plan(self, n_rows_per_segment: int) -> CodesPlan:
        """What its codes are of."""
        record, first = self.trained.record, self.world.stores.at(self.route.reads[0])
        return CodesPlan(
            store_ids={site: self.world.stores.at(site).id for site in self.route.reads},
            plan_id=record.plan_id,
            sae=record.fingerprint,
            weights_sha256=self.trained.training.sha256.weights,
            site=record.site,
            encoder=f"float32 on {self.world.device.type}, {ROWS_PER_TILE} rows at a time",
            d_sae=self.trained.sae.d_sae,
            n_rows=first.plan.n_rows,
            rows_per_segment=n_rows_per_segment,
        )


def opened(world: World, folder: VariantFolder) -> CodedSAE:
    """An SAE with its finished codes, for queries. Raises: CheckpointError for codes of something else."""
    return CodedSAE(folder, world.stores, world.filters, CodesStore.open(folder.codes))


def is_there(folder: VariantFolder) -> bool:
    """Whether the codes of an SAE are finished."""
    return CodesStore.is_finished(folder.codes)


def claimed(run: RunFolder, folder: VariantFolder, what: str) -> Hold | None:
    """The claim of a part of an SAE's codes; None where another living process makes it.

    Raises: CheckpointError while the run or the SAE is being deleted, or trained.
    """
    hold = claim_in(run, codes_of(folder.name, what))
    # Whoever deletes an SAE claims its name first and then looks for claims of its parts: one of the two is seen.
    if hold is not None and is_claimed(run.claims / folder.name):
        hold.release()
        raise busy(run, [folder.name])
    return hold
