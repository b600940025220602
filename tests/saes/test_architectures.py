"""What every registered architecture must do."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.schedules import Schedule
from strata_sae.pipeline.trainer.finish import in_raw_units
from support.dense_saes import ENCODERS
from support.small_saes import D_MODEL, D_SAE, make_sae, rows

K = 4
RANKED = ["topk", "batch_topk"]
WITH_K = [*RANKED, "two_child_topk"]
WITHOUT_CUT = [name for name in ARCHITECTURES if name not in {*RANKED, "groupmax"}]
LEARNERS = [name for name, sae in ARCHITECTURES.items() if sae.learns]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_registered_name_is_the_settings_name(architecture):
    assert make_sae(architecture).settings.architecture == architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_and_reconstruction_equal_the_dense_reference(architecture):
    sae, x_BM = make_sae(architecture), rows()
    encoding = sae.encode(x_BM)
    dense = ENCODERS[architecture](x_BM, sae.parameters(), sae.settings)
    torch.testing.assert_close(encoding.codes.to_dense(), dense.codes)
    torch.testing.assert_close(encoding.codes.with_values(encoding.penalised).to_dense(), dense.penalised)
    torch.testing.assert_close(sae.decode(encoding.codes), dense.codes @ sae.W_dec + sae.b_dec)
    assert {name: tuple(w.shape) for name, w in sae.parameters().items()} == sae.shapes(sae.settings, D_MODEL)


@pytest.mark.parametrize("pre_bias", [True, False])
@pytest.mark.parametrize("architecture", ["relu", "topk", "batch_topk"])
def test_a_code_is_a_pre_activation_or_nothing(architecture, pre_bias):
    sae, x_BM = make_sae(architecture, pre_bias=pre_bias), rows()
    encoding = sae.encode(x_BM)
    codes_BE = encoding.codes.to_dense()
    assert codes_BE.shape == encoding.pre_BE.shape == (32, D_SAE)
    assert (codes_BE >= 0).all()
    assert torch.equal(codes_BE[codes_BE > 0], encoding.pre_BE[codes_BE > 0])
    torch.testing.assert_close(encoding.pre_BE, (x_BM - pre_bias * sae.b_dec) @ sae.W_enc.T + sae.b_enc)


@pytest.mark.parametrize("architecture", RANKED)
def test_the_number_of_latents_on_is_k(architecture):
    sae = make_sae(architecture)
    assert sae.encode(rows()).codes.n_active() == 32 * K
    assert sae.target_l0(0.5) == K


@pytest.mark.parametrize("architecture", RANKED)
def test_k_follows_its_schedule(architecture):
    sae = make_sae(architecture, k=Schedule(start=16, end=4, finish=0.5))
    for fraction_done, k in [(0.0, 16), (0.25, 10), (0.5, 4), (1.0, 4)]:
        assert sae.target_l0(fraction_done) == k
        assert sae.encode(rows(), fraction_done=fraction_done).codes.n_active() == 32 * k


@pytest.mark.parametrize("architecture", WITHOUT_CUT)
def test_where_no_single_cut_gives_the_codes_there_is_none_to_calibrate(architecture):
    assert make_sae(architecture).target_l0(1.0) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_at_inference_a_row_does_not_depend_on_its_batch(architecture):
    sae, x_BM = make_sae(architecture), rows()
    together_BE = sae.encode_inference(x_BM).to_dense()
    alone_BE = torch.cat([sae.encode_inference(x_BM[row : row + 1]).to_dense() for row in range(len(x_BM))])
    assert together_BE.count_nonzero() > 0
    torch.testing.assert_close(together_BE, alone_BE, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "batch_topk"])
def test_inference_selects_as_training_does_at_its_end(architecture):
    sae, x_BM = make_sae(architecture), rows()
    torch.testing.assert_close(sae.encode_inference(x_BM).to_dense(), sae.encode(x_BM).codes.to_dense())


def test_selecting_over_the_batch_would_be_seen():
    sae, x_BM = make_sae("batch_topk"), rows()
    together_BE = sae.encode(x_BM).codes.to_dense()
    alone_BE = torch.cat([sae.encode(x_BM[row : row + 1]).codes.to_dense() for row in range(len(x_BM))])
    assert not torch.equal(together_BE > 0, alone_BE > 0)


def test_batch_topk_refuses_inference_without_a_threshold():
    sae = make_sae("batch_topk")
    sae.threshold = None
    with pytest.raises(CheckpointError, match="no threshold"):
        sae.encode_inference(rows())
    sae.threshold = torch.tensor(0.5, dtype=torch.float64)
    codes = sae.encode_inference(rows())
    assert (codes.values[codes.values != 0] > 0.5).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scale", [0.02, 50.0])
def test_folding_the_input_scale_gives_the_same_sae_of_unscaled_rows(architecture, scale):
    """codes(scale * x) / scale and xhat / scale; a key left out of `scales_with_x` is seen."""
    sae, x_BM = make_sae(architecture), rows()
    held = sae.weights() | ({"threshold": sae.threshold} if sae.has_threshold else {})

    def reread(keys) -> tuple[Tensor, Tensor]:
        folded = type(sae)(sae.settings, D_MODEL, in_raw_units(held, scale, keys))
        codes = folded.encode_inference(x_BM)
        return codes.to_dense(), folded.decode(codes)

    codes = sae.encode_inference(scale * x_BM)
    expected = (codes.to_dense() / scale, sae.decode(codes) / scale)
    for found, wanted in zip(reread(sae.scales_with_x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    for key in set(sae.scales_with_x) & held.keys() if sae.learns else ():
        wrong = reread([name for name in sae.scales_with_x if name != key])
        assert any(not torch.allclose(found, wanted) for found, wanted in zip(wrong, expected, strict=True))


@pytest.mark.parametrize("architecture", LEARNERS)
def test_a_workspace_changes_nothing(architecture):
    sae, workspace = make_sae(architecture), Workspace()
    plain = sae.encode(rows())
    for _ in range(2):
        reused = sae.encode(rows(), workspace=workspace)
        assert torch.equal(plain.pre_BE, reused.pre_BE)
        assert torch.equal(plain.codes.to_dense(), reused.codes.to_dense())
    assert reused.pre_BE.data_ptr() == workspace.buffer(*reused.pre_BE.shape, like=reused.pre_BE).data_ptr()


def test_earlier_batches_do_not_change_a_selection():
    used, fresh = make_sae("batch_topk"), make_sae("batch_topk")
    used.encode(rows() * 50)
    assert torch.equal(used.encode(rows()).codes.to_dense(), fresh.encode(rows()).codes.to_dense())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_weights_depend_on_the_generator_alone(architecture):
    settings = make_sae(architecture).settings
    before = torch.random.get_rng_state()
    one, same = (initial_weights(settings, D_MODEL, torch.Generator().manual_seed(5)) for _ in range(2))
    other = initial_weights(settings, D_MODEL, torch.Generator().manual_seed(6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.keys() == ARCHITECTURES[architecture].shapes(settings, D_MODEL).keys()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert torch.equal(one["W_dec"], other["W_dec"]) is not ARCHITECTURES[architecture].learns
    assert torch.equal(one["W_enc"], one["W_dec"])
    assert one["W_enc"].data_ptr() != one["W_dec"].data_ptr()
    torch.testing.assert_close(one["W_dec"].norm(dim=1), torch.ones(settings.d_sae))
    assert not any(one[name].any() for name in one.keys() - {"W_enc", "W_dec", "threshold"})


def test_weights_of_another_shape_are_refused():
    settings = make_sae("topk").settings
    weights = initial_weights(settings, D_MODEL, torch.Generator())
    with pytest.raises(ValueError, match=r"W_enc has shape \(60, 10\)"):
        ARCHITECTURES["topk"](settings, D_MODEL + 1, weights)


@pytest.mark.parametrize(("architecture", "limit"), [*((name, "d_sae") for name in RANKED), ("two_child_topk", "the")])
@pytest.mark.parametrize("k", [61, Schedule(start=61, end=4), Schedule(start=4, end=61)])
def test_k_above_what_there_is_is_refused_naming_both(architecture, limit, k):
    with pytest.raises(ValidationError, match=rf"k \(61\) must not exceed {limit}.* \((60|20)\)"):
        ARCHITECTURES[architecture].Settings(d_sae=D_SAE, k=k)


@pytest.mark.parametrize("architecture", WITH_K)
@pytest.mark.parametrize("k", [0, -3, Schedule(start=8, end=0.2)])
def test_k_below_one_is_refused(architecture, k):
    with pytest.raises(ValidationError, match="at least 1"):
        ARCHITECTURES[architecture].Settings(d_sae=D_SAE, k=k)


@pytest.mark.parametrize("wrong", [{"k": 4.5}, {"k": True}, {"k": 4, "d_sae": 0}, {"k": 4, "kk": 1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        ARCHITECTURES["topk"].Settings(**{"d_sae": D_SAE, **wrong})
