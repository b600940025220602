"""Which latents of an SAE are explained: drawn from those that are active often enough on both halves of documents."""

import numpy as np

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.queries.labels import kept_labels, make_labels
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.hashing import sha256


def labelled(run: CodedRun, sae: CodedSAE, *, write: bool) -> None:
    """Give an SAE its token labels if it has none yet. write: to its folder, too."""
    if write:
        kept_labels(sae, run.text)
        return
    try:
        if sae.labels is not None:
            return
    except CheckpointError:  # what a run that writes would make again
        pass
    sae.labels = make_labels(sae, run.text)


def chosen(sae: CodedSAE, n: int, seed: int) -> list[int]:
    """At most n latents, by sha256 of seed and latent: the first are the same whatever n is.

    They have a token label: at least `label_files.LEAST_ROWS` active rows on documents of either parity.
    """
    if sae.labels is None:
        raise ValueError(f"{sae.name}: its token labels come first")
    eligible = np.flatnonzero(np.isfinite(sae.labels.f1)).tolist()
    return sorted(eligible, key=lambda latent: sha256(canonical_json(["interpreted latent", seed, latent])))[:n]
