"""A small run whose codes are made: two SAEs at one site of a store with text, and hand-made weights."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.queries.opened import CodedRun, open_coded
from strata_sae.stores import Token, write_store
from support.evaluation_folder import D_MODEL, SITE, config_data, random_weights, write_trained

N_ROWS, DOCUMENT_ROWS = 1200, 30
RUN = Path("runs/run")
WORDS = ["<bos>", *(f" w{number}" for number in range(1, 39)), "<script>alert(1)</script>"]
"""Of token 0, 1, ...: the first is special."""
SAES: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk", "d_sae": 48, "k": 4},
    "wide": {"architecture": "topk", "d_sae": 96, "k": 4},
}


def token_map() -> dict[str, np.ndarray]:
    """Forty documents of thirty rows, each beginning with BOS."""
    row_N = np.arange(N_ROWS)
    position_N = row_N % DOCUMENT_ROWS
    drawn_N = np.random.default_rng(7).integers(1, len(WORDS), N_ROWS)
    return {
        "token_id": np.where(position_N == 0, 0, drawn_N).astype(np.int32),
        "document": (row_N // DOCUMENT_ROWS).astype(np.int64),
        "position": position_N.astype(np.int32),
        "flags": (position_N == 0).astype(np.uint8),
    }


def rows() -> np.ndarray:
    """Each token has a direction of its own, so latents are about tokens; BOS rows are long."""
    tokens, rng = token_map(), np.random.default_rng(3)
    direction_VM = rng.standard_normal((len(WORDS), D_MODEL)).astype(np.float32)
    rows_NM = direction_VM[tokens["token_id"]] + 0.1 * rng.standard_normal((N_ROWS, D_MODEL)).astype(np.float32)
    return (rows_NM * np.where(tokens["position"] == 0, 30, 1)[:, None]).astype(np.float32)


def make(folder: Path) -> Path:
    """The store, and runs/run with two SAEs and their codes. Returns: the run's folder."""
    vocabulary = {number: Token(word.encode(), special=not number) for number, word in enumerate(WORDS)}
    store = write_store(folder / "store", {SITE: rows()}, tokens=token_map(), vocabulary=vocabulary)
    for seed, (name, settings) in enumerate(SAES.items()):
        write_trained(folder / RUN, name, store.id, settings, random_weights(settings["d_sae"], seed))
    data = config_data(folder / "store", {}, {"drop_bos": True})
    (folder / RUN / "config.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with contextlib.chdir(folder):
        build_codes(folder / RUN)
    return folder / RUN


def opened(folder: Path) -> CodedRun:
    """The run made in a folder, opened."""
    return open_coded(folder / RUN)
