"""A store of made-up words whose first letter its rows know, labelled rows beside it, and hand-made SAEs of both."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.reading.labelled import ARRAYS, LABELS, LabelledPart, array_sha256, labelled_root
from strata_sae.stores import ActivationStore, Token, write_store
from support.evaluation_folder import D_MODEL, SITE, config_data, identity_weights, random_weights, write_trained

TASK, SEED = "87_glue_cola", 0
WORDS = (
    [f" {first}{n}" for first in "sabcstss" for n in "opqrtuvwxy"]
    + list(".,;:!?")
    + [f" {n}" for n in range(10)]
    + [" z0"]
)
"""81 words, half of which begin with s and one with z, 6 signs and 10 numbers."""
MODEL = {"weights_sha256": "ab" * 32, "config_sha256": "cd" * 32, "dtype": "float32", "attention": "sdpa"}
SETTINGS: dict[str, Any] = {"tasks": [TASK], "token_tasks": ["first_letter_s"], "texts": 240, "token_rows": 600}


def token_rows(n_rows: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [N] and rows [N, M]: number 0 of a row is high where its word begins with s, the rest is noise."""
    rng = np.random.default_rng(seed)
    token_id = rng.integers(0, len(WORDS), n_rows)
    begins = np.array([word.strip()[0] == "s" for word in WORDS])[token_id]
    rows = rng.standard_normal((n_rows, D_MODEL)).astype(np.float32)
    rows[:, 0] = np.where(begins, 1.5, 0.0) + rng.standard_normal(n_rows)
    return token_id.astype(np.int32), rows


def labelled(path: Path, y_N: np.ndarray, *, name: str = TASK, texts: int = 240, **changes: Any) -> ActivationStore:
    """A labelled store as `Labeller.store` writes it; number 1 of a row knows the label."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((len(y_N), D_MODEL)).astype(np.float32)
    rows[:, 1] += 2.0 * (y_N if y_N.ndim == 1 else y_N[:, 0])
    about = LabelledPart(
        kind="probing",
        name=name,
        model=MODEL,
        sites=[SITE],
        n_train=len(y_N),
        max_tokens=128,
        truncate="left",
        prepend_bos=False,
        texts_sha256="0" * 64,
        labels_sha256={"target": array_sha256(y_N)},
        details={"drawn": {"texts": texts, "max_tokens": 128, "seed": SEED}, "classes": ["no", "yes"]},
    ).model_copy(update=changes)
    extras = {LABELS: about.spelt(), ARRAYS: safetensors.numpy.save({"target": y_N})}
    splits = {"train": (0, len(y_N)), "heldout": (len(y_N), len(y_N))}
    return write_store(path / about.folder_name(), {SITE: rows}, splits=splits, extras=extras)


def probed_run(
    folder: Path, *, n_documents: int = 20, one_class: bool = False, vocabulary: bool = True, **probing: Any
) -> TrainConfig:
    """A store of 3,000 rows, all of them held out, and a run of two SAEs on it, in the working folder."""
    token_id, rows = token_rows()
    if one_class:
        token_id[:] = 1
    tokens = {
        "token_id": token_id,
        "document": np.sort(np.arange(len(rows)) % n_documents),
        "position": np.concatenate([np.arange(len(part)) for part in np.array_split(rows, n_documents)]),
    }
    words = {n: Token(word.encode(), special=False) for n, word in enumerate(WORDS)} if vocabulary else None
    splits = {"train": (0, 0), "heldout": (0, len(rows))}
    store = write_store(folder / "store", {SITE: rows}, tokens=tokens, vocabulary=words, splits=splits)
    run = folder / "runs" / "run"
    write_trained(run, "identity", store.id, {"architecture": "relu", "d_sae": 2 * D_MODEL}, identity_weights())
    write_trained(run, "topk", store.id, {"architecture": "topk", "d_sae": 64, "k": 4}, random_weights(64, seed=1))
    data = config_data(folder / "store", {"probing": SETTINGS | probing}, {})
    return TrainConfig.of(RunConfig.model_validate(data), "config.yaml")


def with_labelled(config: TrainConfig, y_N: np.ndarray, **changes: Any) -> ActivationStore:
    """The labelled store of a run."""
    root = labelled_root(config)
    root.mkdir(parents=True, exist_ok=True)
    return labelled(root, y_N, **changes)
