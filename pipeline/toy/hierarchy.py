"""Many features in trees, after SynthSAEBench: common and rare ones, children that exclude each other, correlation."""

from statistics import NormalDist

import numpy as np

from strata_sae.pipeline.config.toy import Hierarchy

NOTHING = -1
_PART_ROWS = 1024
"""Rows that are drawn at once (count); it decides the rows, so it never changes."""
_LEAST_OWN_VARIANCE = 0.01
"""What of a feature's variance its correlation with others leaves it at least; the source's number."""


def hierarchy_tensors(settings: Hierarchy, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Everything that is fixed before rows are drawn.

    directions [F, d_model] and bias [d_model]; parent [F]; exclusive [F], whether of its children at most one is on;
    probability [F], with which each is drawn before trees and exclusion; magnitude_mean, magnitude_std [F]; factor
    [F, rank], of the correlation. float32, but for parent int32 and exclusive bool.
    """
    n = settings.n_features
    directions = _pushed_apart(settings, rng.standard_normal((n, settings.d_model)))
    bias = rng.standard_normal(settings.d_model)
    bias *= settings.bias_norm / np.linalg.norm(bias)
    parent = _parents(settings)
    may_exclude = np.flatnonzero(np.bincount(parent[parent >= 0], minlength=n) > 1)
    exclusive = np.zeros(n, bool)
    exclusive[rng.permutation(may_exclude)[: int(len(may_exclude) * settings.exclusive_share)]] = True
    probability = zipf(settings)
    if settings.compensate:
        probability = np.minimum(probability * _compensation(probability, parent, exclusive), 1.0)
    factor = rng.standard_normal((n, settings.correlation_rank)) * settings.correlation_scale
    shared = (factor**2).sum(axis=1)
    too_much = shared > 1 - _LEAST_OWN_VARIANCE
    factor[too_much] *= np.sqrt((1 - _LEAST_OWN_VARIANCE) / shared[too_much])[:, None]
    found = {
        "directions": directions,
        "bias": bias,
        "probability": probability,
        "magnitude_mean": np.linspace(settings.first_magnitude, settings.last_magnitude, n),
        "magnitude_std": np.abs(settings.magnitude_std * (1 + rng.standard_normal(n))),
        "factor": factor,
    }
    as_stored = {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}
    return {**as_stored, "parent": parent.astype(np.int32), "exclusive": exclusive}


def hierarchy_rows(
    settings: Hierarchy, known: dict[str, np.ndarray], rng: np.random.Generator, n_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, float32 [B, d_model]; the features of each, int32 [B, most of a row]; their amplitudes, float32."""
    rows, found = np.empty((n_rows, settings.d_model), np.float32), []
    directions, bias = known["directions"].astype(np.float64), known["bias"].astype(np.float64)
    for start in range(0, n_rows, _PART_ROWS):
        amplitude_BG = _amplitudes(settings, known, rng, min(_PART_ROWS, n_rows - start))
        rows[start : start + _PART_ROWS] = amplitude_BG.astype(np.float32).astype(np.float64) @ directions + bias
        found.append(_listed(amplitude_BG))
    most = max(active.shape[1] for active, _ in found)
    return (
        rows,
        np.concatenate([padded(active, most, NOTHING) for active, _ in found]),
        np.concatenate([padded(amplitude, most, 0.0) for _, amplitude in found]),
    )


def padded(rows: np.ndarray, width: int, with_what: float) -> np.ndarray:
    """Rows made wider, to `width` columns."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=with_what)


def zipf(settings: Hierarchy) -> np.ndarray:
    """Probabilities by rank, float64 [F]: r^-exponent, moved and stretched to lie between the two that are named."""
    power = np.arange(1, settings.n_features + 1, dtype=np.float64) ** -settings.zipf_exponent
    share = (power - power[-1]) / max(power[0] - power[-1], 1e-300)
    if settings.n_features == 1:
        share = np.ones(1)
    return settings.min_probability + (settings.max_probability - settings.min_probability) * share


def _parents(settings: Hierarchy) -> np.ndarray:
    """The parent of each feature: roots come first, then all their children, then all of theirs; int64 [F]."""
    parent = np.full(settings.n_features, NOTHING)
    level, free = np.arange(settings.n_roots), settings.n_roots
    for _ in range(settings.depth):
        of_level = np.repeat(level, settings.n_children)[: settings.n_features - free]
        level = np.arange(free, free + len(of_level))
        parent[level] = of_level
        free += len(of_level)
    return parent


def _compensation(probability: np.ndarray, parent: np.ndarray, exclusive: np.ndarray) -> np.ndarray:
    """By what a probability is multiplied: 1 / the parent's, and 1 + how many siblings are expected where they exclude.

    As the source: what is expected of siblings is the sum of their probabilities over the parent's.
    """
    inside = parent >= 0
    of_parent = probability[parent[inside]]
    children = np.bincount(parent[inside], probability[inside], minlength=len(parent))
    siblings = (children[parent[inside]] - probability[inside]).clip(min=0.0)
    factor = np.ones_like(probability)
    factor[inside] = np.where(exclusive[parent[inside]], 1 + siblings / of_parent, 1.0) / of_parent
    return factor


def _pushed_apart(settings: Hierarchy, directions: np.ndarray) -> np.ndarray:
    """Directions of norm 1 after some steps of Adam on the sum of their squared products, as the source has it."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    first, second = np.zeros_like(unit), np.zeros_like(unit)
    for step in range(1, settings.orthogonal_steps + 1):
        gradient = 4 * len(unit) * ((unit**2).sum(axis=1) - 1)[:, None] * unit
        for start in range(0, len(unit), _PART_ROWS):  # not all products at once: 16,384 features have 2 GB of them
            products = unit[start : start + _PART_ROWS] @ unit.T
            places = np.arange(len(products))
            products[places, start + places] = 0.0
            gradient[start : start + _PART_ROWS] += 4 * products @ unit
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        unit = unit - settings.orthogonal_rate * first / (1 - 0.9**step) / size
    return unit / np.linalg.norm(unit, axis=1, keepdims=True)


def _amplitudes(settings: Hierarchy, known: dict[str, np.ndarray], rng: np.random.Generator, n: int) -> np.ndarray:
    """How strongly each feature is on in each of n rows: float64 [B, F], 0 where it is off."""
    factor, parent = known["factor"].astype(np.float64), known["parent"]
    own = np.sqrt(1 - (factor**2).sum(axis=1))
    normal_BG = rng.standard_normal((n, factor.shape[1])) @ factor.T + own * rng.standard_normal((n, len(factor)))
    on_BG = normal_BG > np.array([_threshold(share) for share in known["probability"].tolist()])
    mean, std = (known[f"magnitude_{name}"].astype(np.float64) for name in ("mean", "std"))
    row_P, feature_P = np.nonzero(on_BG)
    amplitude_BG = np.zeros(on_BG.shape)
    drawn_P = mean[feature_P] + std[feature_P] * rng.standard_normal(len(feature_P))
    amplitude_BG[row_P, feature_P] = drawn_P.clip(min=0.0)
    for level in _levels(parent):
        inside = level[parent[level] >= 0]
        of_parent_BC = amplitude_BG[:, parent[inside]]
        gate_BC = of_parent_BC / mean[parent[inside]] if settings.scale_by_parent else of_parent_BC > 0
        amplitude_BG[:, inside] *= gate_BC
        _exclude(amplitude_BG, [np.flatnonzero(parent == p) for p in level[known["exclusive"][level]]], rng)
    return amplitude_BG


def _exclude(amplitude_BG: np.ndarray, groups: list[np.ndarray], rng: np.random.Generator) -> None:
    """Leave one of the features of each group that are on, drawn at random, in every row."""
    for group in groups:
        on_BC = amplitude_BG[:, group] > 0
        winner_B = np.where(on_BC, rng.random(on_BC.shape), -1.0).argmax(axis=1)
        amplitude_BG[:, group] *= winner_B[:, None] == np.arange(len(group))


def _levels(parent: np.ndarray) -> list[np.ndarray]:
    """The features by their steps from a root, those without a parent first."""
    depth = np.zeros(len(parent), np.int64)
    for feature in np.flatnonzero(parent >= 0):  # a parent has a lower number than its children
        depth[feature] = depth[parent[feature]] + 1
    return [np.flatnonzero(depth == level) for level in range(int(depth.max()) + 1)]


def _threshold(probability: float) -> float:
    """What a normal number exceeds with a probability."""
    return -np.inf if probability >= 1.0 else NormalDist().inv_cdf(1.0 - probability)


def _listed(amplitude_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the features that are on, rising, int32 [B, most of a row], and their amplitudes, float32."""
    row_P, feature_P = np.nonzero(amplitude_BG.astype(np.float32) > 0)
    n_on_B = np.bincount(row_P, minlength=len(amplitude_BG))
    place_P = np.arange(len(row_P)) - np.repeat(np.cumsum(n_on_B) - n_on_B, n_on_B)
    shape = (len(amplitude_BG), int(n_on_B.max(initial=0)))
    active, amplitude = np.full(shape, NOTHING, np.int32), np.zeros(shape, np.float32)
    active[row_P, place_P], amplitude[row_P, place_P] = feature_P, amplitude_BG[row_P, feature_P]
    return active, amplitude
