"""A run whose codes can be asked: its SAEs with their codes, and the text of the rows they share."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from strata_sae.pipeline.config import load
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.queries.label_files import (
    Labels,
    TokenCounts,
    label_record,
    labels_of,
    read_counts,
    read_labels,
)
from strata_sae.pipeline.queries.populations import Population, kept_rows
from strata_sae.pipeline.queries.tokens import TokenIndex
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.routes import route_in
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs import trained as trained_saes
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.label_records import LabelsOf, TokenLabelRecord
from strata_sae.pipeline.runs.records import Ending, SAERecord
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores import CodesStore, Filters, Together


class Text:
    """The token map of a store in memory: [n_rows] each, 17 bytes a row."""

    def __init__(self, stores: Together) -> None:
        self.store = stores.stores[0]
        self.n_rows = self.store.plan.n_rows

    @cached_property
    def token_id(self) -> np.ndarray:
        """int32."""
        return self.store.token_map("token_id", 0, self.n_rows)

    @cached_property
    def document(self) -> np.ndarray:
        """Number in the corpus, int64; in any order, and one that was drawn again stands in two places."""
        return self.store.token_map("document", 0, self.n_rows)

    @cached_property
    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers that occur, int64 [D], rising, and the place of each row among them, int64 [n_rows]."""
        return np.unique(self.document, return_inverse=True)

    @cached_property
    def position(self) -> np.ndarray:
        """Place in the document, int32."""
        return self.store.token_map("position", 0, self.n_rows)

    @cached_property
    def flags(self) -> np.ndarray:
        """uint8: 1 BOS, 2 special, 4 template."""
        return self.store.token_map("flags", 0, self.n_rows)

    @cached_property
    def tokens(self) -> TokenIndex:
        """The rows of each token."""
        return TokenIndex(self.token_id, self.store.tokens)


class CodedSAE:
    """A trained SAE with the codes of all its latents on all rows. Its weights are read when they are asked for."""

    def __init__(self, folder: VariantFolder, stores: Together, filters: Filters, codes: CodesStore) -> None:
        """filters: of the run's training.

        Raises: CheckpointError if the codes are of other weights, or of another store than these; StoreError if these
            lack a site that the SAE reads.
        """
        self.folder, self.stores, self.filters, self.codes = folder, stores, filters, codes
        self.record: SAERecord = read_config(folder).record
        self.training: Ending = read_training(folder, self.record).record
        plan = codes.plan
        if (plan.sae, plan.weights_sha256) != (self.record.fingerprint, self.training.sha256.weights):
            raise CheckpointError(
                f"{folder.codes}: holds codes of other weights than those of the SAE beside it; delete that folder and "
                "run strata codes again"
            )
        for site, wanted in plan.store_ids.items():
            store = stores.at(site)
            if (store.id, store.plan.n_rows) != (wanted, plan.n_rows):
                raise CheckpointError(
                    f"{folder.codes}: holds codes of store {wanted[:16]}, but {store.path} is {store.id[:16]}; set "
                    "store.path to the store they are of, or delete that folder and run strata codes again"
                )
        self._kept: dict[Population, np.ndarray] = {}

    @property
    def name(self) -> str:
        """`<variant>@<site>`."""
        return self.folder.name

    @property
    def d_sae(self) -> int:
        """Latents (count)."""
        return self.codes.plan.d_sae

    @cached_property
    def trained(self) -> TrainedSAE:
        """The SAE itself, on the processor. Raises: CheckpointError if its files are damaged."""
        return trained_saes.load(self.folder)

    @cached_property
    def W_dec(self) -> np.ndarray:
        """float32 [d_sae, d_out]; the other weights are not kept for it. Raises: as `trained`."""
        return trained_saes.load(self.folder).sae.W_dec.detach().numpy()

    @cached_property
    def decoder_norm_E(self) -> np.ndarray:
        """Norms of the decoder rows, float32 [d_sae]."""
        return np.asarray(np.sqrt(np.einsum("em,em->e", self.W_dec, self.W_dec)))

    @property
    def labels_of(self) -> LabelsOf:
        """What labels of its codes depend on."""
        return labels_of(self.record, self.training, self.codes.id, self.filters)

    @cached_property
    def labels(self) -> Labels | None:
        """Which tokens tell best when each latent fires; None where `strata codes` has not made them yet.

        Raises: CheckpointError if they are of other codes, or damaged.
        """
        record = self._label_record()
        return read_labels(self.folder, record) if record else None

    @cached_property
    def token_counts(self) -> TokenCounts | None:
        """On how many rows each latent fires on each token, left on the disk; None and raises as `labels`."""
        record = self._label_record()
        return read_counts(self.folder, record) if record else None

    def _label_record(self) -> TokenLabelRecord | None:
        return label_record(self.folder, self.record, self.training, self.labels_of)

    def kept(self, population: Population = "as_trained") -> np.ndarray:
        """Whether each row belongs to a population: bool [n_rows]."""
        if population not in self._kept:
            route = route_in(self.record)
            self._kept[population] = kept_rows(self.stores, route, self.filters, population)
        return self._kept[population]


class CodedRun:
    """The SAEs of a run that have codes, by name, on one store."""

    def __init__(self, folder: RunFolder, stores: Together, saes: dict[str, CodedSAE]) -> None:
        self.folder, self.stores, self.saes = folder, stores, saes
        self.text = Text(stores)

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.path.resolve().name


def open_coded(path: Path, overrides: Sequence[str] = ()) -> CodedRun:
    """A run whose codes are made, opened from its folder.

    overrides: changes to the run's config, such as `store.path=...` where the store has moved.
    Raises: ConfigError if no SAE has codes; StoreError, CheckpointError if files are not what they should be.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise ConfigError(f"{path}: no folder of a run, which holds config.yaml")
    config = TrainConfig.of(load(run.config, list(overrides)), run.config)
    stores, filters, saes = open_store(config), filters_of(config.training.filters), {}
    for folder in run.trained():
        if CodesStore.is_finished(folder.codes):
            saes[folder.name] = CodedSAE(folder, stores, filters, CodesStore.open(folder.codes))
    if not saes:
        raise ConfigError(f"{path}: no SAE has codes yet; make them with: strata codes {path}")
    return CodedRun(run, stores, saes)
