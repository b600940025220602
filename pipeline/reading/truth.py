"""What is true of the rows of a toy's store: its features, their parents, and which of them every row is made of."""

from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from strata_sae.stores import ActivationStore
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import as_object, parse_json

MADE_OF, FEATURES, TRUTH = "toy.json", "toy.safetensors", "truth.safetensors"
"""Extras of the store, which the command toy writes."""
PAIRS = "two_children"
"""The toy whose features are pairs: what is in a row is a parent with one of its two children."""


@dataclass(frozen=True)
class Truth:
    """G features, and which of them are on in each of N rows."""

    features_GM: Tensor
    """float64. Of a toy of pairs: parent + child, the two children of a parent one after the other."""
    parent_G: Tensor
    """int64: the feature whose child each is, or -1."""
    bias_M: Tensor
    """What is added to every row; float64."""
    are_pairs: bool
    """Whether features 2 i and 2 i + 1 are the two children of one parent."""
    active_NK: np.ndarray
    amplitude_NK: np.ndarray | None
    """None: 1 everywhere."""

    @property
    def n_features(self) -> int:
        """Features (count)."""
        return len(self.features_GM)

    def amplitudes(self, numbers_B: np.ndarray, device: torch.device) -> Tensor:
        """How strongly each feature is on in rows by their numbers: float64 [B, G], 0 where it is off."""
        active_BK = torch.from_numpy(self.active_NK[numbers_B]).to(device, torch.int64)
        amplitude_BK = torch.ones_like(active_BK, dtype=torch.float64)
        if self.amplitude_NK is not None:
            amplitude_BK = torch.from_numpy(self.amplitude_NK[numbers_B]).to(device, torch.float64)
        # What is nothing goes to a column of its own, which is dropped.
        amplitude_BG = torch.zeros(len(active_BK), self.n_features + 1, dtype=torch.float64, device=device)
        amplitude_BG.scatter_(1, torch.where(active_BK < 0, self.n_features, active_BK), amplitude_BK)
        return amplitude_BG[:, :-1]


def truth_of(store: ActivationStore, site: str) -> Truth | None:
    """What is true of a store's rows; None if it is no toy's, or a part of one, which does not know single rows.

    Raises: StoreError if the truth is damaged, or does not fit the rows.
    """
    if not {MADE_OF, FEATURES, TRUTH} <= set(store.extras):
        return None
    where = f"{store.path}/extras"
    kind = as_object(parse_json(store.extra(MADE_OF), f"{where}/{MADE_OF}")).get("kind")
    known, truth = _tensors(store, FEATURES), _tensors(store, TRUTH)
    missing = [
        f"{name} of {file}"
        for file, found, name in (
            (FEATURES, known, "directions"),
            (FEATURES, known, "parent"),
            (TRUTH, truth, "active"),
        )
        if name not in found
    ]
    if missing:
        raise StoreError(f"{where}: without {', '.join(missing)}; make the store again with the command toy")
    directions, parent, active = known["directions"], known["parent"].astype(np.int64), truth["active"]
    bias, amplitude = known.get("bias", np.zeros(store.plan.sites[site])), truth.get("amplitude")
    fits = (
        directions.shape == (len(parent), store.plan.sites[site])
        and active.ndim == 2
        and len(active) == store.plan.n_rows
        and (amplitude is None or amplitude.shape == active.shape)
        and active.max(initial=-1) < len(parent)
    )
    if not fits:
        raise StoreError(
            f"{where}: directions {directions.shape}, parent {parent.shape} and active {active.shape} do not fit "
            f"{store.plan.n_rows} rows of width {store.plan.sites[site]}; make the store again with the command toy"
        )
    directions, bias = directions.astype(np.float64), bias.astype(np.float64)
    if kind == PAIRS:  # children alone are never in a row, nor parents
        children = np.flatnonzero(parent >= 0)
        directions = directions[children] + directions[parent[children]]
        active = np.where(active >= children[0], active - children[0], -1)
        parent = np.full(len(children), -1)
    return Truth(
        torch.from_numpy(directions), torch.from_numpy(parent), torch.from_numpy(bias), kind == PAIRS, active, amplitude
    )


def _tensors(store: ActivationStore, name: str) -> dict[str, np.ndarray]:
    try:
        found: dict[str, np.ndarray] = safetensors.numpy.load(store.extra(name))
    except safetensors.SafetensorError as error:
        raise StoreError(f"{store.path}/extras/{name}: no tensors ({error}); make the store again") from None
    return found
