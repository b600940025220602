"""What single architectures promise beyond the common contract."""

import pytest
import torch
from pydantic import ValidationError

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.objective import TERMS, check_terms
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from support.small_saes import D_MODEL, D_SAE, make_sae, rows


def test_relu_keeps_every_positive_pre_activation():
    encoding = make_sae("relu").encode(rows())
    assert torch.equal(encoding.codes.to_dense(), encoding.pre_BE.relu())


def test_a_tied_relu_has_one_matrix_and_shows_readers_two():
    sae = make_sae("relu", tied=True)
    assert sae.parameters().keys() == {"W_dec", "b_enc", "b_dec"}
    assert sae.W_enc is sae.W_dec
    held = sae.weights()
    assert held.keys() == {"W_enc", "W_dec", "b_enc", "b_dec"}
    assert torch.equal(held["W_enc"], held["W_dec"])
    assert held["W_enc"].data_ptr() != held["W_dec"].data_ptr()
    untied = ARCHITECTURES["relu"](ARCHITECTURES["relu"].Settings(d_sae=D_SAE), D_MODEL, held)
    assert torch.equal(untied.encode(rows()).pre_BE, sae.encode(rows()).pre_BE)


def test_a_gate_and_its_magnitude_are_two_decisions():
    """Latents with open gates and magnitude 0 are penalised and not active; with closed gates none is active."""
    sae = make_sae("gated")
    sae.b_mag += 0.5
    sae.b_mag[: D_SAE // 2] -= 5.0
    encoding = sae.encode(rows())
    codes_BE, gate_BE = encoding.codes.to_dense(), encoding.pre_BE
    magnitude_BE = (sae.r_mag.exp() * (gate_BE - sae.b_gate) + sae.b_mag).relu()
    assert ((gate_BE > 0) & (codes_BE == 0)).any()
    assert ((gate_BE <= 0) & (magnitude_BE > 0)).any()
    torch.testing.assert_close(codes_BE, torch.where(gate_BE > 0, magnitude_BE, 0.0))


def test_a_threshold_is_held_at_0():
    sae = make_sae("jump_relu")
    sae.threshold -= 100.0
    sae.constrain()
    assert torch.equal(sae.threshold, torch.zeros(D_SAE, dtype=torch.float64))


def test_thresholds_start_where_the_settings_say():
    settings = ARCHITECTURES["jump_relu"].Settings(d_sae=D_SAE)
    weights = initial_weights(settings, D_MODEL, torch.Generator())
    assert torch.equal(weights["threshold"], torch.full((D_SAE,), 0.001))


@pytest.mark.parametrize("target", [0.0, -1.0])
def test_a_target_of_none_is_refused(target):
    with pytest.raises(ValidationError, match="greater than 0"):
        TERMS["l0"].Settings(target=target)


@pytest.mark.parametrize("kind", ["target", "per_row"])
def test_a_target_of_more_than_all_latents_is_refused(kind):
    settings = ARCHITECTURES["jump_relu"].Settings(d_sae=D_SAE)
    terms = {"reconstruction": TERMS["reconstruction"].Settings(), "l0": TERMS["l0"].Settings(kind=kind, target=61.0)}
    with pytest.raises(ValueError, match=r"target \(61\) must not exceed d_sae \(60\)"):
        check_terms(terms, settings)


@pytest.mark.parametrize("options", [{"kind": "penalty", "target": 3.0}, {"kind": "target", "scale": 2.0}])
def test_a_knob_that_plays_no_part_is_refused(options):
    with pytest.raises(ValidationError, match="plays no part"):
        TERMS["l0"].Settings(**options)


def test_compat_with_ste_to_input_is_refused():
    with pytest.raises(ValidationError, match="has no ste_to_input"):
        ARCHITECTURES["jump_relu"].Settings(d_sae=D_SAE, ste_to_input=True, compat="dictionary_learning")


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_ranking_by_contribution_is_the_same_sae_with_the_norms_in_the_encoder(architecture):
    """Contributions do not change when norms move from W_dec to W_enc; pre-activations do, and other latents win."""
    sae, x_BM = make_sae(architecture, decoder="free", rank_by="contribution"), rows()
    norm_E = torch.rand(D_SAE, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    sae.W_dec *= norm_E[:, None]
    folded = type(sae)(sae.settings, D_MODEL, sae.weights())
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    by_rank = type(sae)(sae.settings.model_copy(update={"rank_by": "pre_activation"}), D_MODEL, folded.parameters())
    codes = sae.encode(x_BM).codes
    for other in (folded, by_rank):
        torch.testing.assert_close(other.encode(x_BM).codes.to_dense(), codes.to_dense() * norm_E)
        torch.testing.assert_close(other.decode(other.encode(x_BM).codes), sae.decode(codes))
        other.threshold = sae.threshold
        torch.testing.assert_close(
            other.encode_inference(x_BM).to_dense(), sae.encode_inference(x_BM).to_dense() * norm_E
        )
    torch.testing.assert_close(sae.encode(x_BM).cut.to_dense(), by_rank.encode(x_BM).codes.to_dense())
    torch.testing.assert_close(sae.pre_activations(x_BM), by_rank.pre_activations(x_BM))
    plain = type(sae)(by_rank.settings, D_MODEL, sae.parameters())
    assert not torch.equal(plain.encode(x_BM).codes.to_dense() > 0, codes.to_dense() > 0)


def test_ranking_by_contribution_needs_norms_that_differ():
    with pytest.raises(ValidationError, match="needs decoder: free; decoder 'unit'"):
        ARCHITECTURES["topk"].Settings(d_sae=D_SAE, k=4, rank_by="contribution")


def test_groups_of_unequal_size_are_refused():
    with pytest.raises(ValidationError, match=r"d_sae \(66\) must be a multiple of k \(4\); try d_sae 64"):
        ARCHITECTURES["groupmax"].Settings(d_sae=66, k=4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_identity_reconstructs_every_bit(scale):
    sae = make_sae("identity")
    sae.b_dec += 1.0  # as training puts it at the data's centre
    x_BM = (rows() * scale).float()
    assert torch.equal(sae.decode(sae.encode_inference(x_BM)), x_BM)
    reread = ARCHITECTURES["identity"](sae.settings, D_MODEL, sae.weights())
    assert not reread.b_dec.any()
    assert torch.equal(rows() @ reread.W_enc.T, rows())


def test_the_identity_learns_nothing_and_has_the_width_of_its_rows():
    settings = ARCHITECTURES["identity"].Settings(d_sae=D_MODEL)
    with pytest.raises(ValueError, match="term 'l1' has nothing to train in 'identity'"):
        check_terms(
            {"reconstruction": TERMS["reconstruction"].Settings(), "l1": TERMS["l1"].Settings(weight=1.0)}, settings
        )
    with pytest.raises(ConfigError, match=r"sae\.d_sae: 10, but .* as its rows are wide: 12"):
        initial_weights(settings, 12, torch.Generator())
