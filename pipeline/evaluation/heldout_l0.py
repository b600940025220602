"""The L0 of trained SAEs on the rows that `evaluate` scores, and nothing else of them: what matching L0 goes by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.reading.document_units import DocumentUnits, document_units
from strata_sae.pipeline.reading.feed import filters_of, sites_of
from strata_sae.pipeline.reading.heldout_rows import heldout_rows
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.trained import TrainedSAE, load
from strata_sae.stores import Together, joint_mask


class HeldoutL0(NamedTuple):
    """The mean number of active latents of a row, of each SAE, and what rows these were."""

    l0: list[float]
    n_rows: int
    n_documents: int


def check_heldout_rows(config: TrainConfig, stores: Together, route: Route) -> None:
    """Raises: ConfigError if there is no held-out row to measure L0 on."""
    if not joint_mask(sites_of(route, stores), "heldout", filters_of(config.training.filters)).n_rows:
        raise ConfigError(
            f"variants.<name>.match: {stores.path} holds no held-out row of {route.name} that passes training.filters, "
            "so there is no L0 to match; raise heldout_fraction (of corpus or toy) and make the store again, filter "
            "less, or remove match"
        )


@torch.inference_mode()
def heldout_l0(config: TrainConfig, stores: Together, route: Route, folders: Sequence[VariantFolder]) -> HeldoutL0:
    """The L0 of SAEs of one route, from one read of the held-out rows that pass training's filters.

    It is the metric `l0` of metrics.json, of the population `as_trained`.
    Raises: StoreError, CheckpointError.
    """
    device = choose_device(config.training.device, "training.device")
    settings, filters = config.evaluation, filters_of(config.training.filters)
    store = stores.at(route.reads[0])
    saes = [load(folder, device) for folder in folders]
    documents = _documents(config, stores, route, saes)
    active, n_rows, met = [0] * len(saes), 0, set[int]()
    for x_BM, _, row_numbers_B in heldout_rows(stores, route, filters, settings.batch_size, settings.max_rows, device):
        numbers = row_numbers_B.cpu().numpy()
        units = None if documents is None else documents.of(numbers, device)
        for place, sae in enumerate(saes):
            active[place] += sae.encode(x_BM, units).n_active()
        n_rows += len(x_BM)
        document_B = store.token_map("document", int(numbers[0]), int(numbers[-1]) + 1)[numbers - numbers[0]]
        met.update(np.unique(document_B).tolist())
    return HeldoutL0([count / n_rows for count in active], n_rows, len(met))


def _documents(config: TrainConfig, stores: Together, route: Route, saes: Sequence[TrainedSAE]) -> DocumentUnits | None:
    """The units of the documents, if one of the SAEs was trained on rows standardised by them."""
    if not any(sae.is_per_document for sae in saes):
        return None
    (site,) = route.reads
    place = RunFolder(config.run_path()).documents(site)
    return document_units(stores.at(site), site, filters_of(config.training.filters), place)
