"""A run of any size whose codes are drawn, not encoded: as many latents and rows as a benchmark wants, in seconds."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.opened import open_coded
from strata_sae.pipeline.runs import trained as trained_saes
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.stores import CodesPlan, SegmentCodes, Token, create_codes, finish_codes, write_segment, write_store
from support.evaluation_folder import D_MODEL, SITE, config_data, random_weights, write_trained

N_WORDS, DOCUMENT_ROWS = 5000, 1000
DENSEST = 0.14
"""Share of the rows on which the densest latent fires, as in the demo."""


class Size(NamedTuple):
    """Of a run."""

    name: str
    n_saes: int
    d_sae: int
    n_rows: int
    k: int
    """Latents a row, on average."""


def make_run(folder: Path, size: Size) -> None:
    """runs/synthetic and its store in a folder."""
    position_N = np.arange(size.n_rows) % DOCUMENT_ROWS
    ranks = np.arange(1, N_WORDS)
    drawn_N = np.random.default_rng(0).choice(ranks, size.n_rows, p=1 / ranks / (1 / ranks).sum())  # as words are
    tokens = {
        "token_id": np.where(position_N == 0, 0, drawn_N).astype(np.int32),
        "document": (np.arange(size.n_rows) // DOCUMENT_ROWS).astype(np.int64),
        "position": position_N.astype(np.int32),
        "flags": (position_N == 0).astype(np.uint8),
    }
    vocabulary = {n: Token(f" w{n}".encode() if n else b"<bos>", special=not n) for n in range(N_WORDS)}
    rows_NM = np.random.default_rng(1).standard_normal((size.n_rows, D_MODEL), np.float32)
    store = write_store(folder / "store", {SITE: rows_NM}, tokens=tokens, vocabulary=vocabulary)
    run = folder / "runs/synthetic"
    for number in range(size.n_saes):
        settings = {"architecture": "topk", "d_sae": size.d_sae, "k": size.k}
        write_trained(run, f"sae{number}", store.id, settings, random_weights(size.d_sae, number))
    data = config_data(folder / "store", {}, {"drop_bos": True})
    (run / "config.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    for number, variant in enumerate(RunFolder(run).trained()):
        _write_codes(variant, size, number)
    with contextlib.chdir(folder):
        opened = open_coded(Path("runs/synthetic"))
        for sae in opened.saes.values():
            kept_labels(sae, opened.text)


def _write_codes(variant: VariantFolder, size: Size, seed: int) -> None:
    trained = trained_saes.load(variant)
    plan = CodesPlan(
        store_ids={trained.record.site: trained.record.store_id},
        plan_id=trained.record.plan_id,
        sae=trained.record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        site=trained.record.site,
        encoder="drawn",
        d_sae=size.d_sae,
        n_rows=size.n_rows,
        rows_per_segment=1 << (size.n_rows - 1).bit_length(),  # one segment, of which all rows are
    )
    codes = _drawn(size, seed)
    create_codes(variant.codes, plan)
    write_segment(variant.codes, plan, 0, codes)
    finish_codes(variant.codes, plan, _table(codes, size))


def _drawn(size: Size, seed: int) -> SegmentCodes:
    """Log-normal densities of `k` latents a row together, rows without choice. P pairs, E latents."""
    rng = np.random.default_rng(seed)
    weight_E = rng.lognormal(0, 1.5, size.d_sae)
    count_E = np.minimum(weight_E / weight_E.sum() * size.n_rows * size.k, DENSEST * size.n_rows).astype(np.int64)
    key_P = np.repeat(np.arange(size.d_sae) * size.n_rows, count_E)
    key_P = np.unique(key_P + rng.integers(0, size.n_rows, len(key_P)))
    latent_P, row_P = np.divmod(key_P, size.n_rows)
    value_P = rng.lognormal(1, 0.5, len(key_P)).astype(np.float32)
    latent_offset = np.searchsorted(latent_P, np.arange(size.d_sae + 1))
    of_row_P = np.sort(row_P * size.d_sae + latent_P)
    row_of_P, of_row_P = np.divmod(of_row_P, size.d_sae)
    row_offset = np.searchsorted(row_of_P, np.arange(size.n_rows + 1))
    return SegmentCodes(row_offset, of_row_P.astype(np.uint32), latent_offset, row_P.astype(np.uint32), value_P)


def _table(codes: SegmentCodes, size: Size) -> dict[str, np.ndarray]:
    """What pages read: counts and largest values are true, partners are the next latents, on one row each."""
    count_E, E = np.diff(codes.latent_offset), np.arange(size.d_sae)
    start_E = codes.latent_offset[:-1].clip(max=len(codes.latent_value) - 1)
    most_E = np.where(count_E > 0, np.maximum.reduceat(codes.latent_value, start_E), 0).astype(np.float32)
    partners = (E[:, None] + np.arange(1, 65)) % size.d_sae
    return {
        "count": count_E,
        "count_all": count_E,
        "max": most_E,
        "mean": most_E / 3.0,
        "mean_square": most_E / 3.0,
        "histogram": np.ones((size.d_sae, 40), np.uint32),
        "top_rows": np.full((size.d_sae, 32), -1, np.int64),
        "top_values": np.zeros((size.d_sae, 32), np.float32),
        "partners": partners.astype(np.uint32),
        "partner_counts": np.ones((size.d_sae, 64), np.uint32),
    }
