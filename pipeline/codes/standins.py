"""Until the branches meet: what other helpers write, slowly or not at all. Goes away at the merge."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np

from strata_sae.stores import CodesStore


def top_partners(codes: CodesStore, kept_N: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    if find_spec("strata_sae.pipeline.queries.cofiring"):
        return import_module("strata_sae.pipeline.queries.cofiring").top_partners(codes, kept_N, n)
    d_sae = codes.plan.d_sae
    dense = np.zeros((codes.plan.n_rows, d_sae), np.float32)
    for e in range(d_sae):
        dense[codes.rows_of(e)[0], e] = 1
    together = (dense[kept_N].T @ dense[kept_N]).astype(np.int64)
    np.fill_diagonal(together, 0)
    partners, counts = np.full((d_sae, n), 2**32 - 1, np.uint32), np.zeros((d_sae, n), np.uint32)
    for e in range(d_sae):
        order = [i for i in np.argsort(-together[e], kind="stable")[:n] if together[e, i]]
        partners[e, : len(order)], counts[e, : len(order)] = order, together[e, order]
    return partners, counts


def kept_labels(sae, text) -> None:
    if find_spec("strata_sae.pipeline.queries.labels"):
        import_module("strata_sae.pipeline.queries.labels").kept_labels(sae, text)


def count_E(codes: CodesStore) -> np.ndarray:
    if hasattr(CodesStore, "count_E"):
        return codes.count_E
    return sum(np.diff(codes.segment(i).latent_offset) for i in range(codes.plan.n_segments))


def latents_in(codes: CodesStore, segment: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if hasattr(CodesStore, "latents_in"):
        return codes.latents_in(segment, first, last)
    whole = codes.segment(segment)
    offset = whole.latent_offset[first : last + 1]
    some = slice(int(offset[0]), int(offset[-1]))
    return offset - offset[0], whole.latent_row[some], whole.latent_value[some]
