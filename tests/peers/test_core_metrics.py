"""Every core metric that we share with SAEBench 0.6.0 and dictionary_learning, on equal rows and SAEs."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.populations import Populations
from strata_sae.pipeline.evaluation.scores import Scores
from strata_sae.pipeline.evaluation.totals import Totals
from support.library_evaluators import RowsAsModel, dictionary_learning_scores, saebench_scores, saelens_sae
from support.scored_in_memory import scored_in_memory, spans_in_memory, trained_in_memory

pytestmark = pytest.mark.peers

D_MODEL, D_SAE, K, CONTEXT, N_CONTEXTS, N_BATCHES = 32, 96, 8, 64, 4, 3
SCORED = CONTEXT * N_CONTEXTS - N_CONTEXTS
"""Rows of a batch without the special one of each context."""
TOLERANCE = 1e-5
SAEBENCH = {
    "sb_explained_variance": "explained_variance",
    "sb_explained_variance_legacy": "explained_variance_legacy",
    "explained_variance_legacy": "explained_variance_legacy",
    "sb_mse": "mse",
    "sb_cossim": "cossim",
    "cosine_similarity": "cossim",
    "sb_l2_norm_in": "l2_norm_in",
    "sb_l2_norm_out": "l2_norm_out",
    "sb_l2_ratio": "l2_ratio",
    "norm_ratio": "l2_ratio",
    "sb_relative_reconstruction_bias": "relative_reconstruction_bias",
    "relative_reconstruction_bias_per_batch": "relative_reconstruction_bias",
    "sb_l0": "l0",
    "l0": "l0",
    "sb_l1": "l1",
    "l1": "l1",
    "sb_frac_alive": "frac_alive",
    "frac_alive": "frac_alive",
    "encoder_max_cosine_mean": "average_max_encoder_cosine_sim",
    "decoder_max_cosine_mean": "average_max_decoder_cosine_sim",
}
"""Our name -> theirs."""
DICTIONARY_LEARNING = {
    "dl_l2_loss": "l2_loss",
    "dl_l1_loss": "l1_loss",
    "dl_l0": "l0",
    "dl_frac_variance_explained": "frac_variance_explained",
    "dl_cossim": "cossim",
    "dl_l2_ratio": "l2_ratio",
    "dl_relative_reconstruction_bias": "relative_reconstruction_bias",
    "dl_frac_alive": "frac_alive",
}


def rows() -> tuple[Tensor, Tensor]:
    """Off-centre rows, and which tokens are special: the first of each context, whose rows are long."""
    generator = torch.Generator().manual_seed(0)
    special_N = torch.arange(CONTEXT * N_CONTEXTS * N_BATCHES) % CONTEXT == 0
    x_NM = torch.randn(len(special_N), D_MODEL, generator=generator) + 0.7
    return torch.where(special_N[:, None], 20.0 * x_NM, x_NM), special_N


def weights(architecture: str, *, odd: bool) -> dict[str, Tensor]:
    """Of an SAE; odd: with latents that are never active, always active, and of zeros."""
    generator = torch.Generator().manual_seed(1)
    W_EM = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1)
    found = {"W_enc": W_EM, "W_dec": W_EM.clone(), "b_enc": torch.zeros(D_SAE), "b_dec": torch.full((D_MODEL,), 0.4)}
    if architecture == "relu":
        found["b_enc"] -= 1.0
    if architecture == "batch_topk":
        found["threshold"] = torch.tensor(1.2, dtype=torch.float64)
    if odd:
        found["b_enc"][:9] -= 100.0
        found["b_enc"][9:12] += 8.0
        found["W_enc"][12:15], found["W_dec"][15:18] = 0.0, 0.0
    return found


OURS: dict[str, dict[str, Any]] = {"relu": {}, "topk": {"k": K}, "batch_topk": {"k": K}}
THEIRS = {"relu": "standard", "topk": "topk", "batch_topk": "jumprelu"}


def our_scores(architecture: str, found: dict[str, Tensor], x_NM: Tensor, special_N: Tensor) -> dict[str, float]:
    sae = {"architecture": architecture, "d_sae": D_SAE, **OURS[architecture]}
    if architecture == "batch_topk":
        sae["inference"] = "threshold"
    populations = Populations(are_one=False)
    special, size = special_N.numpy(), CONTEXT * N_CONTEXTS
    scores = Scores(trained_in_memory(sae, found, D_MODEL), populations)
    (measured,) = scored_in_memory([scores], populations, spans_in_memory(x_NM, special, ~special, size))
    return {name: np.nan if value is None else value for name, value in measured.items()}


def wrong(ours: dict[str, float], theirs: dict[str, float], names: dict[str, str]) -> list[str]:
    """What differs by more than the tolerance."""
    return [
        f"{our}: {ours[our]} is not {theirs[their]}"
        for our, their in names.items()
        if ours[our] != pytest.approx(theirs[their], rel=TOLERANCE, abs=1e-9)
    ]


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("architecture", OURS)
def test_saebench(architecture: str, odd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Totals, "batch_rows", SCORED)
    (x_NM, special_N), found = rows(), weights(architecture, odd=odd)
    settings = {"topk": {"k": K, "rescale_acts_by_decoder_norm": False}}.get(architecture, {})
    sae = saelens_sae(THEIRS[architecture], found, **settings)
    theirs = saebench_scores(sae, RowsAsModel(x_NM, special_N, CONTEXT, N_CONTEXTS), N_BATCHES)
    ours = our_scores(architecture, found, x_NM, special_N)
    assert wrong(ours, theirs, SAEBENCH) == []
    assert ours["sb_explained_variance"] != pytest.approx(ours["r2_pooled"], rel=1e-2), "the forms differ"
    if odd:
        assert ours["dead_latents"] >= 9
        assert ours["l0"] >= 3
    moved = our_scores(architecture, found, 1.001 * x_NM, special_N)  # control: a thousandth is seen
    assert len(wrong(moved, theirs, SAEBENCH)) >= 8


def dictionary(architecture: str, found: dict[str, Tensor]) -> Any:
    """The same SAE of theirs."""
    from dictionary_learning.dictionary import AutoEncoder
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    sae = AutoEncoderTopK(D_MODEL, D_SAE, K) if architecture == "topk" else AutoEncoder(D_MODEL, D_SAE)
    sae.encoder.weight.data, sae.encoder.bias.data = found["W_enc"], found["b_enc"]
    sae.decoder.weight.data = found["W_dec"].T.contiguous()
    (sae.b_dec if architecture == "topk" else sae.bias).data = found["b_dec"]
    return sae


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("architecture", ["relu", "topk"])
def test_dictionary_learning(architecture: str, odd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Totals, "batch_rows", SCORED)
    (x_NM, special_N), found = rows(), weights(architecture, odd=odd)
    batches = x_NM[~special_N].split(SCORED)
    theirs = dictionary_learning_scores(dictionary(architecture, found), iter(batches), N_BATCHES)
    ours = our_scores(architecture, found, x_NM, special_N)
    assert wrong(ours, theirs, DICTIONARY_LEARNING) == []
    other = dictionary_learning_scores(dictionary(architecture, found), iter(x_NM.split(SCORED)), N_BATCHES)
    assert len(wrong(ours, other, DICTIONARY_LEARNING)) >= 6, "control: special rows among them are seen"
