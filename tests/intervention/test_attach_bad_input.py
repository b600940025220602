"""What cannot be attached is refused: at once where that can be known, else in the forward pass that shows it."""

from typing import Any

import pytest
import torch

import strata_sae as strata
from support.attaching import ModelOf, bad, n_hooks, relu, tokens
from support.judged_run import rough

BAD_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "unknown site": (
        {"site": "blocks.1.hook_resid_pots"},
        "site: there is no site 'blocks.1.hook_resid_pots'.*nearest name: blocks.1.hook_resid_post",
    ),
    "no such layer": ({"site": "blocks.9.hook_resid_post"}, "layer 9 does not exist"),
    "unknown site to write": ({"writes": "lm_heat"}, "there is no site 'lm_heat'.*lm_head"),
    "no site": ({"sae": relu(rough(32), None)}, "does not say whose rows it reads; name the site"),
    "a latent too many": ({"ablate": 64}, "ablate: there is no latent 64; this SAE has the latents 0 to 63"),
    "a negative latent": ({"add": {-1: 1.0}}, "add: there is no latent -1"),
    "no number of a latent": ({"ablate": [1.5]}, "ablate: 'float' object cannot"),
    "twice": ({"ablate": [3], "clamp": {3: 1.0}}, "clamp: latent 3 is ablated, clamped or added to already"),
    "no dict": ({"clamp": [3]}, "clamp: is a list; give a dict"),
    "no value": ({"clamp": {3: "x"}}, "latent 3: 'x' is no number"),
    "not finite": ({"add": {3: float("nan")}}, "latent 3: nan is not finite"),
    "clamp of a wrong rank": ({"clamp": {3: torch.zeros(9)}}, r"latent 3: a tensor of shape \[9\]"),
    "a mask of numbers": ({"where": torch.ones(3, 9)}, "where: give a tensor of bool"),
    "edits that only read": ({"read_only": True, "ablate": [1]}, "read_only: nothing is written"),
    "inference": ({"inference": "k"}, "inference: 'k'; .* selects by its one rule"),
    "no SAE": ({"sae": bad().sae}, "sae: is a ReLU; give what strata.load returned"),
    "no model": (
        {"model": torch.nn.Linear(2, 2)},
        "model: is a Linear; give what AutoModelForCausalLM.from_pretrained returned",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_input_that_cannot_work_is_refused_at_once(name: str, model_of: ModelOf) -> None:
    how, message = BAD_INPUT[name]
    with pytest.raises(strata.ConfigError, match=message) as caught:
        strata.attach(
            how.get("model", model_of()),
            how.get("sae", bad()),
            **{k: v for k, v in how.items() if k not in ("model", "sae")},
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"clamp": {3: torch.zeros(2, 2)}}, r"latent 3: a value for each of \[2, 2\] positions, but .* \[3, 9\]"),
        ({"where": torch.ones(3, 8, dtype=torch.bool)}, r"where: is torch.bool of shape \[3, 8\], .* \[3, 9\]"),
        ({"where": lambda ids_BS: ids_BS}, r"where: is torch.int64 of shape \[3, 9\]"),
        ({"where": lambda ids_BS: None}, "where: is a NoneType"),
        ({"site": "model.rotary_emb"}, "is torch.float32 of shape|site"),
        ({"site": "model.embed_tokens", "writes": "blocks.0.mlp.hook_post"}, "writes: .* has rows of width 48, but"),
    ],
)
def test_what_only_a_forward_pass_shows_is_refused_there(how: Any, message: str, model_of: ModelOf) -> None:
    model = model_of()
    with pytest.raises(strata.ConfigError, match=message), strata.attach(model, bad(), **how):
        model(input_ids=tokens())
    assert n_hooks(model) == 0


def test_a_site_that_does_not_run_is_no_silent_success(model_of: ModelOf) -> None:
    model = model_of()
    model.unused = torch.nn.Linear(2, 2)
    with pytest.raises(strata.ConfigError, match="unused ran 0 times"), strata.attach(model, bad(), "unused"):
        model(input_ids=tokens())


def test_a_model_without_blocks_says_what_to_give(model_of: ModelOf) -> None:
    with pytest.raises(strata.ConfigError, match=r"this GPT2Model has no transformer\.h, .* AutoModelForCausalLM"):
        strata.attach(model_of("gpt2").transformer, bad())


def test_an_sae_of_documents_is_refused(model_of: ModelOf) -> None:
    class PerDocument(type(bad())):
        is_per_document = True

    with pytest.raises(strata.ConfigError, match="standardised by document"):
        strata.attach(model_of(), PerDocument(bad().sae, bad().source))


def test_outside_of_its_block_nothing_is_handed_out(model_of: ModelOf) -> None:
    model, ids_BS = model_of(), tokens()
    attached = strata.attach(model, bad())
    assert n_hooks(model) == 0
    with pytest.raises(ValueError, match="codes are there inside the with block"):
        attached.codes  # noqa: B018
    with attached:
        with pytest.raises(ValueError, match=r"has reached blocks\.1\.hook_resid_post yet"):
            attached.codes  # noqa: B018
        with pytest.raises(ValueError, match="entered once"):
            attached.__enter__()
        model(input_ids=ids_BS)
        kept = attached.codes
    with pytest.raises(ValueError, match="codes are there inside the with block"):
        attached.codes  # noqa: B018
    with pytest.raises(ValueError, match="entered once"), attached:
        pass
    assert kept.shape == (3, 9, 64)
