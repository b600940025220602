"""A splice writes where `Capture` reads: what comes after follows from it, what comes before does not, and it goes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.probe import check_sites
from strata_sae.pipeline.language_model.sites import FAMILIES, Site
from strata_sae.pipeline.language_model.splice import Splice, WholeModel
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]
ATTENTION = ["attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z"]
KINDS = ["hook_resid_pre", *ATTENTION, "hook_attn_out", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"]
SITES = [f"blocks.1.{kind}" for kind in KINDS]


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(1, 300, (3, 9), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_whole_model_gives_the_logits_of_transformers_and_the_rows_of_a_cut_one(
    model_type: str, dtype: str, settings_of: SettingsOf
) -> None:
    settings = settings_of(model_type, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(settings.path, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        expected_BSV = model(input_ids=tokens(), use_cache=False).logits
    whole = load(settings, SITES, whole=True)
    logits_BSV, captured = whole.run(tokens())
    assert torch.equal(logits_BSV, expected_BSV)
    cut = load(settings, SITES).forward(tokens())
    assert captured.keys() == cut.keys() == set(SITES)
    assert all(torch.equal(captured[site], cut[site]) for site in SITES)
    assert all(torch.equal(row, cut[site]) for site, row in whole.forward(tokens()).items())


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_writing_back_what_was_read_changes_no_bit_and_zeros_change_what_comes_after(
    model_type: str, site: str, settings_of: SettingsOf
) -> None:
    whole = load(settings_of(model_type), SITES, whole=True)
    plain, seen = whole.run(tokens()), []
    with Splice(whole, site, lambda x_BSM: seen.append(x_BSM.clone()) or x_BSM):
        same = whole.run(tokens())
    assert torch.equal(seen[0], plain.captured[site])
    assert torch.equal(same.logits_BSV, plain.logits_BSV)
    with Splice(whole, site, torch.zeros_like):
        zeros = whole.run(tokens())
    assert not torch.equal(zeros.logits_BSV, plain.logits_BSV)
    order = list(whole.sites)
    for name in order[: order.index(site) + 1]:
        assert torch.equal(zeros.captured[name], plain.captured[name]), name
    assert torch.equal(whole.run(tokens()).logits_BSV, plain.logits_BSV), "the hook is gone"


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_residual_stream_of_another_text_gives_the_logits_of_that_text(
    model_type: str, site: str, settings_of: SettingsOf
) -> None:
    whole = load(settings_of(model_type), [site], whole=True)
    other = whole.run(tokens(1))
    with Splice(whole, site, lambda _: other.captured[site]):
        assert torch.equal(whole.run(tokens(0)).logits_BSV, other.logits_BSV)


def test_a_splice_below_changes_what_is_captured_above(settings_of: SettingsOf) -> None:
    capture = load(settings_of("llama"), ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
    with Splice(capture, "blocks.0.hook_resid_post", torch.zeros_like):
        changed = capture.forward(tokens())
    plain = capture.forward(tokens())
    assert torch.equal(changed["blocks.0.hook_resid_post"], plain["blocks.0.hook_resid_post"])
    assert not torch.equal(changed["blocks.1.hook_resid_post"], plain["blocks.1.hook_resid_post"])


def test_splices_nest_in_the_order_in_which_they_were_entered(settings_of: SettingsOf) -> None:
    site = "blocks.0.hook_resid_post"
    whole = load(settings_of("gpt2"), [site], whole=True)
    with Splice(whole, site, lambda x_BSM: x_BSM + 1), Splice(whole, site, torch.zeros_like):
        both = whole.run(tokens()).logits_BSV
    with Splice(whole, site, torch.zeros_like):
        assert torch.equal(whole.run(tokens()).logits_BSV, both)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_queries_keys_and_values_are_what_their_names_say(model_type: str, settings_of: SettingsOf) -> None:
    """By what attention is: without queries a row of z is the mean of the values that it sees."""
    q, k, v, z = (f"blocks.0.{kind}" for kind in ATTENTION)
    whole = load(settings_of(model_type), [q, k, v, z], whole=True)
    plain = whole.run(tokens()).captured
    n_seen = 4 if model_type in ("mistral", "gemma2", "gemma3_text", "gemma3") else 9  # a window of 4 tokens
    value_BSHM = plain[v].unflatten(-1, (-1, 8))  # heads of 8
    value_BSHM = value_BSHM.repeat_interleave(4 // value_BSHM.shape[2], dim=2)  # heads that share a value
    mean_BSM = torch.stack([value_BSHM[:, max(0, s + 1 - n_seen) : s + 1].mean(1) for s in range(9)], 1).flatten(2)
    for site in (q, k):
        with Splice(whole, site, torch.zeros_like):
            found = whole.run(tokens()).captured[z]
        torch.testing.assert_close(found, mean_BSM, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain[z], mean_BSM, rtol=1e-2, atol=1e-3), "the control"

    def rows_changed(site: str) -> list[bool]:
        def write(x_BSM: Tensor) -> Tensor:
            changed_BSM = x_BSM.clone()
            changed_BSM[:, 5] = changed_BSM[:, 5].flip(-1) + 1
            return changed_BSM

        with Splice(whole, site, write):
            found = whole.run(tokens()).captured[z]
        return [not torch.equal(found[:, s], plain[z][:, s]) for s in range(9)]

    assert rows_changed(q) == [s == 5 for s in range(9)]
    seen_from = [s >= 5 and s - 5 < n_seen for s in range(9)]
    assert rows_changed(k) == rows_changed(v) == seen_from


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda x_BSM: x_BSM[:, :-1], ValueError),
        (lambda x_BSM: x_BSM.double(), ValueError),
        (lambda x_BSM: x_BSM.to("meta"), ValueError),
        (lambda x_BSM: 1 // 0, ZeroDivisionError),
    ],
    ids=["shape", "dtype", "device", "error"],
)
def test_a_write_that_fails_is_an_error_and_leaves_no_hook(
    write: Callable[[Tensor], Tensor], error: type[Exception], settings_of: SettingsOf
) -> None:
    site = "blocks.1.hook_mlp_out"
    whole = load(settings_of("gpt2"), [site], whole=True)
    before = whole.run(tokens()).logits_BSV
    with pytest.raises(error), Splice(whole, site, write):
        whole.run(tokens())
    assert torch.equal(whole.run(tokens()).logits_BSV, before)


def test_a_site_that_was_not_asked_for_cannot_be_written(settings_of: SettingsOf) -> None:
    whole = load(settings_of("gpt2"), ["blocks.1.hook_mlp_out"], whole=True)
    with pytest.raises(KeyError, match=r"blocks\.0\.hook_mlp_out"):
        Splice(whole, "blocks.0.hook_mlp_out", torch.zeros_like)


class Named(NamedTuple):
    hidden: Tensor
    note: str


class Handing(nn.Module):
    """A model of one module that gets its input by name and gives it in some form; the logits are its rows."""

    def __init__(self, form: Callable[[Tensor], object], back: Callable[[object], Tensor]) -> None:
        super().__init__()
        self.inner, self.table, self.back = Inner(form), nn.Embedding(300, 5), back

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        self.given = self.inner(note=None, hidden=self.table(input_ids))
        return SimpleNamespace(logits=self.back(self.given))


class Inner(nn.Module):
    def __init__(self, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.form = form

    def forward(self, hidden: Tensor, note: None) -> object:
        return self.form(hidden)


FORMS = {
    "tensor": (lambda x: x, lambda given: given),
    "tuple": (lambda x: (x, "kept"), lambda given: given[0]),
    "list": (lambda x: [x, "kept"], lambda given: given[0]),
    "named tuple": (lambda x: Named(x, "kept"), lambda given: given.hidden),
    "model output": (lambda x: BaseModelOutput(last_hidden_state=x, attentions=(x,)), lambda given: given[0]),
    "positions in one axis": (lambda x: x.flatten(0, 1), lambda given: given.reshape(3, 9, 5)),
}


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("form", FORMS)
def test_what_a_module_hands_on_keeps_its_form(form: str, side: str) -> None:
    model = Handing(*FORMS[form])
    whole = WholeModel(model, [Site("inner", "inner", side)])
    plain = whole.run(tokens())
    given = model.given
    with Splice(whole, "inner", lambda x_BSM: 2 * x_BSM):
        doubled = whole.run(tokens())
    assert torch.equal(doubled.logits_BSV, 2 * plain.logits_BSV)
    assert type(model.given) is type(given)
    if form == "named tuple":
        assert model.given.note == "kept"
    if form == "model output":
        assert model.given.last_hidden_state is model.given[0]
        assert model.given.attentions is not None


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_sites_of_every_family_lie_where_the_model_computes_with_them(
    model_type: str, settings_of: SettingsOf
) -> None:
    check_sites(load(settings_of(model_type), SITES, whole=True))


def test_rows_that_the_model_does_not_compute_with_are_refused(
    settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(settings_of("llama"), SITES, whole=True)
    layer = whole.model.get_submodule("model.layers.1.mlp")

    def beside(x_BSM: Tensor) -> Tensor:
        inner_BSM = layer.act_fn(layer.gate_proj(x_BSM)) * layer.up_proj(x_BSM)
        layer.down_proj(inner_BSM)  # the hooks run, and what they give is thrown away
        return nn.functional.linear(inner_BSM, layer.down_proj.weight)

    monkeypatch.setattr(layer, "forward", beside)
    with pytest.raises(ConfigError, match=r"blocks\.1\.mlp\.hook_post: the model computes its logits without"):
        check_sites(whole)
    monkeypatch.undo()
    check_sites(whole)
