"""A run with a planted tree: a narrow SAE whose latent is an animal, and a wide one that has a latent for each kind.

Rows are sums of unit axes, so what each latent fires on is known from the tokens alone.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from strata_sae.pipeline.codes.build import build_codes
from strata_sae.pipeline.explore.screen import World
from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.opened import open_coded
from strata_sae.stores import Token, write_store
from support.evaluation_folder import D_MODEL, SITE, config_data, write_trained

N_ROWS, DOCUMENT_ROWS = 1500, 30
NARROW, WIDE = f"narrow@{SITE}", f"wide@{SITE}"
CHILDREN = (" cat", " dog", " owl")
"""Words of the parent: axis 0; each has an axis of its own too, 1 to 3."""
N_OTHERS = 30
OTHERS = tuple(f" w{number}" for number in range(N_OTHERS))
"""The first dozen have axes 4 to 15, the others none."""
PARENT, LONELY, N_NARROW, N_WIDE = 0, 7, 8, 13
"""LONELY: the narrow SAE's last latent, whose word the wide one does not know."""


def word_ids() -> np.ndarray:
    """Of each row its word: 0 BOS, 1-3 the children, 4 and more the others."""
    row_N = np.arange(N_ROWS)
    drawn_N = np.random.default_rng(11).integers(1, 1 + len(CHILDREN) + N_OTHERS, N_ROWS)
    return np.where(row_N % DOCUMENT_ROWS == 0, 0, drawn_N)


def documents() -> np.ndarray:
    """Of each row its document, as an extraction leaves them: not in the order of numbers, and number 3 in two pieces."""
    order = np.random.default_rng(5).permutation(N_ROWS // DOCUMENT_ROWS)
    order[order == 4] = 3
    return order[np.arange(N_ROWS) // DOCUMENT_ROWS]


def _rows(word_N: np.ndarray) -> np.ndarray:
    axes = np.zeros((1 + len(CHILDREN) + N_OTHERS, D_MODEL), np.float32)
    axes[1:4, 0] = 1
    axes[range(1, 16), range(1, 16)] = 1
    size_N = 1 + 0.5 * np.random.default_rng(2).random(N_ROWS)
    return (axes[word_N] * size_N[:, None]).astype(np.float32)


def _weights(axes: Sequence[int]) -> dict[str, Tensor]:
    W_enc = torch.eye(D_MODEL)[list(axes)]
    return {"W_enc": W_enc, "W_dec": W_enc.clone(), "b_enc": torch.full((len(axes),), -0.5), "b_dec": torch.zeros(D_MODEL)}


def make_tree(folder: Path, words: Sequence[str] | None = None) -> World:
    """The store, both SAEs, their codes and labels. words: of CHILDREN and OTHERS, in their place."""
    words = [*CHILDREN, *OTHERS] if words is None else list(words)
    word_N, position_N = word_ids(), np.arange(N_ROWS) % DOCUMENT_ROWS
    tokens = {
        "token_id": word_N.astype(np.int32),
        "document": (np.arange(N_ROWS) // DOCUMENT_ROWS).astype(np.int64),
        "position": position_N.astype(np.int32),
        "flags": (position_N == 0).astype(np.uint8),
    }
    vocabulary = {0: Token(b"<bos>", special=True)}
    vocabulary |= {number: Token(word.encode(), special=False) for number, word in enumerate(words, 1)}
    store = write_store(folder / "store", {SITE: _rows(word_N)}, tokens=tokens, vocabulary=vocabulary)
    run = folder / "runs/tree"
    for name, axes in (("narrow", [0, *range(4, 11)]), ("wide", [1, 2, 3, *range(4, 10), *range(11, 15)])):
        write_trained(run, name, store.id, {"architecture": "relu", "d_sae": len(axes)}, _weights(axes))
    data = config_data(folder / "store", {}, {"drop_bos": True})
    (run / "config.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    with contextlib.chdir(folder):
        build_codes(run)
        opened = open_coded(run)
    opened.text.document = documents().astype(np.int64)  # a store of given arrays wants numbers that never fall
    for sae in opened.saes.values():
        kept_labels(sae, opened.text)
    return World.of([opened])
