"""What every registered architecture must do."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.saes import ARCHITECTURES, initial_weights
from pipeline.saes.base import SAE, Workspace
from pipeline.schedules import Schedule

D_MODEL, D_SAE, K = 10, 64, 4
WITH_K = [name for name in ARCHITECTURES if name != "relu"]


def make_sae(architecture: str, **changes) -> SAE:
    knobs = {"d_sae": D_SAE, **({"k": K} if architecture in WITH_K else {}), **changes}
    settings = ARCHITECTURES[architecture].Config(**knobs)
    weights = initial_weights(settings, D_MODEL, torch.Generator().manual_seed(0))
    sae = ARCHITECTURES[architecture](settings, D_MODEL, {name: w.double() for name, w in weights.items()})
    sae.b_dec += torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return sae


def rows(n: int = 32) -> Tensor:
    return torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_registered_name_is_the_settings_name(architecture):
    assert make_sae(architecture).settings.architecture == architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_and_signs(architecture):
    sae, x_BM = make_sae(architecture), rows()
    encoding = sae.encode(x_BM)
    codes_BE = encoding.codes.to_dense()
    assert codes_BE.shape == encoding.pre_BE.shape == (32, D_SAE)
    assert (codes_BE >= 0).all()
    on_BE = codes_BE > 0
    assert torch.equal(codes_BE[on_BE], encoding.pre_BE[on_BE])
    torch.testing.assert_close(encoding.pre_BE, (x_BM - sae.b_dec) @ sae.W_enc.T + sae.b_enc)
    torch.testing.assert_close(sae.decode(encoding.codes), codes_BE @ sae.W_dec + sae.b_dec)
    assert {name: tuple(w.shape) for name, w in sae.parameters().items()} == {
        "W_enc": (D_SAE, D_MODEL),
        "W_dec": (D_SAE, D_MODEL),
        "b_enc": (D_SAE,),
        "b_dec": (D_MODEL,),
    }


@pytest.mark.parametrize("architecture", WITH_K)
def test_the_number_of_latents_on_is_k(architecture):
    sae = make_sae(architecture)
    assert sae.encode(rows()).codes.n_active() == 32 * K
    assert sae.target_l0(0.5) == K


@pytest.mark.parametrize("architecture", WITH_K)
def test_k_follows_its_schedule(architecture):
    sae = make_sae(architecture, k=Schedule(start=16, end=4, finish=0.5))
    for progress, k in [(0.0, 16), (0.25, 10), (0.5, 4), (1.0, 4)]:
        assert sae.target_l0(progress) == k
        assert sae.encode(rows(), progress=progress).codes.n_active() == 32 * k


def test_relu_keeps_every_positive_pre_activation():
    sae = make_sae("relu")
    encoding = sae.encode(rows())
    assert torch.equal(encoding.codes.to_dense(), encoding.pre_BE.relu())
    assert sae.target_l0(1.0) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_at_inference_a_row_does_not_depend_on_its_batch(architecture):
    sae, x_BM = make_sae(architecture), rows()
    sae.threshold = torch.tensor(0.8, dtype=torch.float64)
    together_BE = sae.encode_inference(x_BM).to_dense()
    alone_BE = torch.cat([sae.encode_inference(x_BM[row : row + 1]).to_dense() for row in range(len(x_BM))])
    assert together_BE.count_nonzero() > 0
    torch.testing.assert_close(together_BE, alone_BE, rtol=1e-12, atol=1e-12)


def test_selecting_over_the_batch_would_be_seen():
    sae, x_BM = make_sae("batch_topk"), rows()
    together_BE = sae.encode(x_BM).codes.to_dense()
    alone_BE = torch.cat([sae.encode(x_BM[row : row + 1]).codes.to_dense() for row in range(len(x_BM))])
    assert not torch.equal(together_BE > 0, alone_BE > 0)


def test_batch_topk_refuses_inference_without_a_threshold():
    sae = make_sae("batch_topk")
    with pytest.raises(CheckpointError, match="no threshold"):
        sae.encode_inference(rows())
    sae.threshold = torch.tensor(0.5, dtype=torch.float64)
    codes = sae.encode_inference(rows())
    assert (codes.values[codes.values != 0] > 0.5).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_workspace_changes_nothing(architecture):
    sae, workspace = make_sae(architecture), Workspace()
    plain = sae.encode(rows())
    for _ in range(2):
        reused = sae.encode(rows(), workspace=workspace)
        assert torch.equal(plain.pre_BE, reused.pre_BE)
        assert torch.equal(plain.codes.to_dense(), reused.codes.to_dense())
    assert reused.pre_BE.data_ptr() == workspace.buffer(32, D_SAE, like=reused.pre_BE).data_ptr()


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
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["W_dec"], other["W_dec"])
    assert torch.equal(one["W_enc"], one["W_dec"])
    assert one["W_enc"].data_ptr() != one["W_dec"].data_ptr()
    torch.testing.assert_close(one["W_dec"].norm(dim=1), torch.ones(D_SAE))
    assert not one["b_enc"].any()
    assert not one["b_dec"].any()


def test_weights_of_another_shape_are_refused():
    settings = make_sae("topk").settings
    weights = initial_weights(settings, D_MODEL, torch.Generator())
    with pytest.raises(ValueError, match=r"W_enc has shape \(64, 10\)"):
        ARCHITECTURES["topk"](settings, D_MODEL + 1, weights)


@pytest.mark.parametrize("architecture", WITH_K)
@pytest.mark.parametrize("k", [65, Schedule(start=65, end=4), Schedule(start=4, end=65)])
def test_k_above_d_sae_is_refused_naming_both(architecture, k):
    with pytest.raises(ValidationError, match=r"k \(65\) must not exceed d_sae \(64\)"):
        ARCHITECTURES[architecture].Config(d_sae=D_SAE, k=k)


@pytest.mark.parametrize("architecture", WITH_K)
@pytest.mark.parametrize("k", [0, -3, Schedule(start=8, end=0.2)])
def test_k_below_one_is_refused(architecture, k):
    with pytest.raises(ValidationError, match="at least 1"):
        ARCHITECTURES[architecture].Config(d_sae=D_SAE, k=k)


@pytest.mark.parametrize("wrong", [{"k": 4.5}, {"k": True}, {"k": 4, "d_sae": 0}, {"k": 4, "kk": 1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        ARCHITECTURES["topk"].Config(**{"d_sae": D_SAE, **wrong})
