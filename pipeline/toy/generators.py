"""Rows that are sums of known directions, and which directions each row holds."""

import hashlib
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.config.toy import Hierarchy, ParentAlwaysOn, ToySettings
from strata_sae.pipeline.toy.hierarchy import NOTHING, hierarchy_rows, hierarchy_tensors


class Features(NamedTuple):
    """The directions that rows are sums of, float32 [F, d_model], and the parent of each, int32 [F] or NOTHING."""

    directions: np.ndarray
    parent: np.ndarray
    further: dict[str, np.ndarray]
    """What else is fixed of a hierarchy: see `hierarchy_tensors`."""

    def tensors(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        return {"directions": self.directions, "parent": self.parent, **self.further}


class Drawn(NamedTuple):
    """Rows, float32 [B, d_model], and the numbers of the directions that each is the sum of, int32 [B, most of a row].

    A row ends with NOTHING where it holds fewer directions than another. amplitude: by what each direction is
    multiplied, float32 of the same shape, 0 at NOTHING; None where it is 1 everywhere.
    """

    rows: np.ndarray
    active: np.ndarray
    amplitude: np.ndarray | None = None


def features(settings: ToySettings, seed: int) -> Features:
    """All directions. Parents come first, then the children of parent 0, of parent 1, and so on."""
    rng = _generator(seed, "features")
    if isinstance(settings, Hierarchy):
        found = hierarchy_tensors(settings, rng)
        return Features(found.pop("directions"), found.pop("parent"), found)
    if isinstance(settings, ParentAlwaysOn):
        n = 1 + settings.n_children
        columns, _ = np.linalg.qr(rng.standard_normal((settings.d_model, n)))
        directions = np.ascontiguousarray(columns.T, np.float32)  # safetensors writes memory, not strides
        return Features(directions, np.array([NOTHING, *[0] * settings.n_children], np.int32), {})
    parents = _unit(rng.standard_normal((settings.n_parents, settings.d_model)))
    children = _unit(rng.standard_normal((2 * settings.n_parents, settings.d_model))) * settings.perturbation
    numbers = np.arange(settings.n_parents)
    parent = np.concatenate([np.full_like(numbers, NOTHING), np.repeat(numbers, 2)])
    return Features(np.concatenate([parents, children]).astype(np.float32), parent.astype(np.int32), {})


def drawn(settings: ToySettings, known: Features, seed: int, block: int, n_rows: int) -> Drawn:
    """The `n_rows` rows of a block: a function of the arguments, whatever other blocks there are."""
    rng = _generator(seed, "rows", block)
    if isinstance(settings, Hierarchy):
        return Drawn(*hierarchy_rows(settings, known.tensors(), rng, n_rows))
    if isinstance(settings, ParentAlwaysOn):
        child_B = 1 + rng.integers(0, settings.n_children, n_rows)
        child_B = np.where(rng.random(n_rows) < settings.child_probability, child_B, NOTHING)
        active = np.stack([np.zeros_like(child_B), child_B], axis=1)
        noise = settings.noise * rng.standard_normal((n_rows, settings.d_model))
        return Drawn((_sums(known.directions, active) + noise).astype(np.float32), active.astype(np.int32))
    n, k = settings.n_parents, settings.active_parents
    parents_BK = rng.random((n_rows, n)).argsort(axis=1)[:, :k]  # of a random order, the first k: each set alike
    children_BK = n + 2 * parents_BK + rng.integers(0, 2, (n_rows, k))
    active = np.concatenate([parents_BK, children_BK], axis=1)
    return Drawn(_sums(known.directions, active).astype(np.float32), active.astype(np.int32))


def _sums(directions: np.ndarray, active: np.ndarray) -> np.ndarray:
    """For each row, the sum of its directions: float64 [B, d_model]."""
    with_nothing = np.concatenate([directions.astype(np.float64), np.zeros((1, directions.shape[1]))])  # at -1
    rows = with_nothing[active[:, 0]]
    for place in range(1, active.shape[1]):
        rows += with_nothing[active[:, place]]
    return rows


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _generator(seed: int, *what: str | int) -> np.random.Generator:
    """A random stream of its own for every seed and use."""
    digest = hashlib.sha256(repr(("toy", seed, *what)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
