"""A trained SAE of the TopK family selects by k or by its threshold: both against loops over single rows."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.saes import ARCHITECTURES
from support.small_saes import D_SAE, make_sae, rows

K, THRESHOLD = 4, 0.8


def made(architecture: str, **options):
    sae = make_sae(architecture, **options)
    sae.threshold = torch.tensor(THRESHOLD, dtype=torch.float64)
    return sae


def by_loops(sae, inference: str) -> np.ndarray:
    """Row by row and latent by latent, in numpy."""
    W_enc, W_dec, b_enc, b_dec = (getattr(sae, name).numpy() for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    codes_BE = np.zeros((len(rows()), D_SAE))
    for code_E, x_M in zip(codes_BE, rows().numpy(), strict=True):
        value_E = [float(W_enc[latent] @ (x_M - b_dec) + b_enc[latent]) for latent in range(D_SAE)]
        contributes = sae.settings.rank_by == "contribution"
        rank_E = [v * np.sqrt((W_dec[i] ** 2).sum()) if contributes else v for i, v in enumerate(value_E)]
        largest = sorted(range(D_SAE), key=lambda latent: -rank_E[latent])[:K]
        for latent in range(D_SAE):
            chosen = latent in largest if inference == "k" else rank_E[latent] > THRESHOLD
            if chosen and value_E[latent] > 0:
                code_E[latent] = value_E[latent]
    return codes_BE


@pytest.mark.parametrize("rank_by", ["pre_activation", "contribution"])
@pytest.mark.parametrize("inference", ["k", "threshold"])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_codes_equal_the_loops(architecture, inference, rank_by):
    sae = made(architecture, inference=inference, decoder="free", rank_by=rank_by)
    sae.W_dec *= 1 + torch.rand(D_SAE, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    other = {"k": "threshold", "threshold": "k"}[inference]
    expected, others = by_loops(sae, inference), by_loops(sae, other)
    np.testing.assert_allclose(sae.encode_inference(rows()).to_dense().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert sae.inferences() == [inference, other]
    for codes, wanted in zip(sae.encode_as(rows(), [inference, other]), (expected, others), strict=True):
        np.testing.assert_allclose(codes.to_dense().numpy(), wanted, rtol=1e-12, atol=1e-12)
    assert not np.allclose(expected, others), "control: the two forms differ on these rows"


def test_each_has_its_usual_form():
    assert {name: made(name).inferences()[0] for name in ("topk", "batch_topk")} == {
        "topk": "k",
        "batch_topk": "threshold",
    }
    assert make_sae("topk").inferences() == ["k"], "without a threshold there is one form"


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in ("topk", "batch_topk")])
def test_the_others_have_no_choice(architecture):
    assert make_sae(architecture).inferences() == []
    with pytest.raises(ValidationError, match="inference"):
        make_sae(architecture, inference="k")


def test_a_topk_sae_without_its_threshold_is_refused_where_it_selects_by_it():
    sae = make_sae("topk", inference="threshold")
    assert sae.inferences() == ["threshold", "k"]
    with pytest.raises(CheckpointError, match="this topk SAE has no threshold yet"):
        sae.encode_inference(rows())
