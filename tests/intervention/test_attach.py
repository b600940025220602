"""A model with an SAE attached computes what the definition says, and nothing is left of it afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import strata_sae as strata
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.intervention.attached import _moved
from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.language_model.loading import load as load_whole
from strata_sae.pipeline.language_model.splice import Splice
from strata_sae.pipeline.runs.judging_records import ModelMetrics
from strata_sae.pipeline.runs.record_files import read_record
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import ActivationStore
from support.attaching import ModelOf, bad, foreign, n_hooks, relu, rows_of, same, sparse, tokens
from support.judged_run import MLP_IN, MLP_OUT, STREAM, judged_config, put, rough
from support.small_saes import SAE_SETTINGS
from support.tiny_models import D_MODEL

LAYER = "model.layers.1"


def dense(sae: Any, x_BSM: Tensor, change: Any = lambda codes_BSE: codes_BSE) -> Tensor:
    """The reconstruction of rows, from matrices alone."""
    inner = sae.sae
    x_BSM = x_BSM.float()
    pre = (x_BSM - inner.b_dec) @ inner.W_enc.T + inner.b_enc
    if hasattr(inner.settings, "k"):
        codes = torch.zeros_like(pre)
        values, latents = pre.topk(inner.settings.k, dim=-1)
        codes.scatter_(-1, latents, values.clamp(min=0))
    else:
        codes = pre.clamp(min=0)
    return change(codes) @ inner.W_dec + inner.b_dec


def logits_with(model: Any, ids_BS: Tensor, instead_BSM: Tensor, path: str = LAYER) -> Tensor:
    """Logits with these rows after a layer, by a hook of this test's own."""

    def write(module: Any, args: Any, output: Any) -> Any:
        return instead_BSM if isinstance(output, Tensor) else (instead_BSM, *output[1:])

    handle = model.get_submodule(path).register_forward_hook(write)
    try:
        with torch.no_grad():
            return model(input_ids=ids_BS).logits
    finally:
        handle.remove()


def attached_logits(model: Any, ids_BS: Tensor, sae: Any, **how: Any) -> Tensor:
    with torch.no_grad(), strata.attach(model, sae, **how):
        return model(input_ids=ids_BS).logits


def test_its_cross_entropy_is_that_of_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same splice on the same rows: `saebench` replaces the rows of ordinary tokens, `population` others."""
    monkeypatch.chdir(tmp_path)
    config = judged_config(tmp_path, evaluation={"with_model": {"max_rows": None}})
    folder = put(config, "rough", rough(D_MODEL), [STREAM])
    route = put(config, "rough", {**rough(D_MODEL, seed=3)}, [MLP_IN], [MLP_OUT])
    config = TrainConfig.model_validate(
        config.model_dump(mode="json", exclude_unset=True)
        | {
            "variants": {
                "rough": {"sae": {"architecture": "relu", "d_sae": 64}, "objective": {"reconstruction": {}}},
                "across": {
                    "sae": {
                        "architecture": "relu",
                        "d_sae": 64,
                        "pre_bias": False,
                        "initial": {"encoder": "independent"},
                    },
                    "objective": {"reconstruction": {}},
                    "reads": [MLP_IN],
                    "writes": [MLP_OUT],
                },
            }
        }
    )
    intervene(config)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(config.model.path).eval()
    for one in (folder, route):
        expected = read_record(one.model_metrics, ModelMetrics).record
        found = cross_entropy(model, config, strata.load(one.path))
        assert found == pytest.approx(expected.forms["saebench"].with_sae.cross_entropy.value, rel=1e-6)
        clean = expected.clean_cross_entropy.value
        assert abs(found - clean) > 1e-4, "the control: this SAE loses something"
        assert abs(cross_entropy(model, config, strata.load(one.path), everywhere=True) - found) > 1e-6, (
            "and the mask acts"
        )


def cross_entropy(model: Any, config: TrainConfig, sae: Any, *, everywhere: bool = False) -> float:
    """Of the held-out sequences, a row that counts if its own token is ordinary."""
    store = ActivationStore.open(config.store_path())
    first, last = store.plan.splits["heldout"]
    special = [0]
    ids_N = torch.from_numpy(store.token_map("token_id", first, last)).long()
    ordinary_N = torch.from_numpy(store.token_map("flags", first, last) == 0)
    assert torch.equal(ordinary_N, ids_N != 0)
    losses: list[float] = []
    where = None if everywhere else (lambda ids_BS: ~torch.isin(ids_BS, torch.tensor(special)))
    with torch.no_grad(), strata.attach(model, sae, where=where):
        for start in range(0, last - first, 32):
            ids_S, kept_S = (of[start : min(start + 32, last - first)] for of in (ids_N, ordinary_N))
            log_SV = model(input_ids=ids_S[None]).logits[0].double().log_softmax(-1)
            losses += [-float(log_SV[s, ids_S[s + 1]]) for s in range(len(ids_S) - 1) if kept_S[s]]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["hook_resid_pre", "attn.hook_v", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"])
@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "llama", "gemma2", "gemma3", "opt"])
def test_every_family_and_site_as_evaluation_splices_it(
    model_type: str, kind: str, model_of: ModelOf, tmp_path: Path
) -> None:
    site, ids_BS = f"blocks.1.{kind}", tokens()
    model = model_of(model_type)
    whole = load_whole(ModelSettings(path=model.name_or_path, device="cpu"), [site], whole=True)
    width = whole.run(ids_BS).captured[site].shape[-1]
    sae = bad(width, site)
    plain = attached_logits(model, ids_BS, same(width, site))
    assert torch.equal(plain, model(input_ids=ids_BS).logits), "the identity changes no bit"
    assert torch.equal(plain, whole.run(ids_BS).logits_BSV)
    with Splice(whole, site, lambda x_BSM: dense(sae, x_BSM).to(x_BSM.dtype)):
        expected = whole.run(ids_BS).logits_BSV
    found = attached_logits(model, ids_BS, sae)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - plain).abs().max() > 100 * (found - expected).abs().max(), "the control"
    assert n_hooks(model) == 0


@pytest.mark.parametrize("make", [bad, sparse], ids=["dense codes", "sparse codes"])
def test_edits_are_those_of_the_dense_reference(make: Any, model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(), tokens(), make()
    x_BSM = rows_of(model, ids_BS, LAYER)
    codes_BSE = dense_codes(model, ids_BS, sae)
    busy = (codes_BSE != 0).flatten(0, 1).float().mean(0).topk(3).indices.tolist()

    def expected(change: Any) -> Tensor:
        return logits_with(model, ids_BS, dense(sae, x_BSM, change))

    def column(latent: int, value: Any) -> Any:
        return lambda codes: codes.index_copy(-1, torch.tensor([latent]), value(codes[..., latent])[..., None])

    kept = expected(lambda codes: codes)
    a, b = busy[:2]
    for how, change in [
        ({"ablate": a}, column(a, torch.zeros_like)),
        ({"ablate": [a, b]}, lambda codes: column(b, torch.zeros_like)(column(a, torch.zeros_like)(codes))),
        ({"clamp": {b: 3.5}}, column(b, lambda values: torch.full_like(values, 3.5))),
        ({"clamp": {b: torch.arange(27.0).view(3, 9)}}, column(b, lambda values: torch.arange(27.0).view(3, 9))),
        ({"add": {a: 2.0}}, column(a, lambda values: values + 2.0)),
        (
            {"ablate": torch.tensor([a]), "add": {b: torch.tensor(-1.0)}},
            lambda c: column(b, lambda v: v - 1)(column(a, torch.zeros_like)(c)),
        ),
    ]:
        found = attached_logits(model, ids_BS, sae, **how)
        torch.testing.assert_close(found, expected(change), rtol=1e-4, atol=1e-5)
        assert (found - kept).abs().max() > 1e-3, f"{how}: the control"


def dense_codes(model: Any, ids_BS: Tensor, sae: Any) -> Tensor:
    with torch.no_grad(), strata.attach(model, sae, read_only=True) as attached:
        model(input_ids=ids_BS)
        return attached.codes.to_dense()


def test_without_latents_the_bias_is_left(model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(), tokens(), bad()
    found = attached_logits(model, ids_BS, sae, ablate=range(64))
    expected = logits_with(model, ids_BS, sae.sae.b_dec.expand(3, 9, -1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(
        attached_logits(model, ids_BS, relu({**rough(32), "W_dec": torch.zeros(64, 32), "b_dec": sae.sae.b_dec})),
        expected,
    )


def test_with_the_error_kept_nothing_changes_but_by_edits(model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(), tokens(), sparse()
    plain = attached_logits(model, ids_BS, same())
    assert torch.equal(attached_logits(model, ids_BS, sae, error=True), plain)
    assert not torch.equal(attached_logits(model, ids_BS, sae), plain), "the control"
    steered = attached_logits(model, ids_BS, sae, error=True, add={7: 4.0})
    x_BSM = rows_of(model, ids_BS, LAYER)
    torch.testing.assert_close(
        steered, logits_with(model, ids_BS, x_BSM + 4.0 * sae.sae.W_dec[7]), rtol=1e-4, atol=1e-5
    )


def test_only_the_positions_of_the_mask_are_replaced(model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(), tokens(), bad()
    x_BSM = rows_of(model, ids_BS, LAYER)
    mask_BS = ids_BS % 2 == 0
    expected = logits_with(model, ids_BS, torch.where(mask_BS[..., None], dense(sae, x_BSM), x_BSM))
    for where in (mask_BS, lambda ids_BS: ids_BS % 2 == 0):
        torch.testing.assert_close(attached_logits(model, ids_BS, sae, where=where), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(attached_logits(model, ids_BS, sae), expected, atol=1e-3), "the control"
    with torch.no_grad(), strata.attach(model, sae, where=mask_BS, ablate=[0, 1, 2]) as attached:
        model(input_ids=ids_BS)
        before, after = attached.codes.to_dense(), attached.edited_codes.to_dense()
    assert torch.equal(before[~mask_BS], after[~mask_BS])
    assert torch.equal(after[mask_BS], before[mask_BS] * (torch.arange(64) > 2))


@pytest.mark.parametrize("make", [bad, sparse], ids=["dense codes", "sparse codes"])
def test_codes_lie_where_their_tokens_do(make: Any, model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(), tokens(), make()
    x_BSM = rows_of(model, ids_BS, LAYER)
    with torch.no_grad(), strata.attach(model, sae, read_only=True) as attached:
        logits = model(input_ids=ids_BS).logits
        codes = attached.codes
    assert torch.equal(logits, attached_logits(model, ids_BS, same())), "read_only writes nothing"
    codes_BSE = codes.to_dense()
    assert codes.shape == tuple(codes_BSE.shape) == (3, 9, sae.sae.d_sae)
    for b, s in [(0, 0), (1, 4), (2, 8)]:
        assert torch.allclose(codes_BSE[b, s], sae.encode(x_BSM[b, s][None]).to_dense()[0], atol=1e-5)
    entries = codes.entries()
    again = torch.zeros_like(codes_BSE)
    again[entries.sequence_P, entries.position_P, entries.latent_P] = entries.value_P
    assert torch.equal(again, codes_BSE)
    assert torch.equal(codes.of([5, 3]), codes_BSE[..., [5, 3]])
    with pytest.raises(IndexError, match="latents 0 to"):
        codes.of([-1])


def test_a_transcoder_reads_one_site_and_writes_another(model_of: ModelOf) -> None:
    model, ids_BS = model_of(), tokens()
    sae = relu(rough(32, seed=2), "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out")
    x_BSM = rows_of(model, ids_BS, "model.layers.0")
    inner = sae.sae
    instead = (x_BSM @ inner.W_enc.T).clamp(min=0) @ inner.W_dec
    expected = logits_with(model, ids_BS, instead, "model.layers.1.mlp")
    torch.testing.assert_close(attached_logits(model, ids_BS, sae), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(strata.ConfigError, match=r"'blocks.0.hook_mlp_out' runs before 'blocks.1.hook_resid_pre'"):
        attached_logits(model, ids_BS, sae, writes="blocks.0.hook_mlp_out")
    assert n_hooks(model) == 0


def test_attachments_nest(model_of: ModelOf) -> None:
    model, ids_BS, first, second = model_of(), tokens(), bad(site="blocks.0.hook_resid_post"), bad()
    with torch.no_grad(), strata.attach(model, first) as below, strata.attach(model, second) as above:
        both = model(input_ids=ids_BS).logits
        assert not torch.equal(below.codes.to_dense(), above.codes.to_dense())
        x_BSM = dense(first, rows_of(model_of(), ids_BS, "model.layers.0"))
    alone = model_of()
    stream = {}
    alone.model.layers[1].register_forward_hook(
        lambda m, a, out: stream.setdefault("x", out if isinstance(out, Tensor) else out[0])
    )
    logits_with(alone, ids_BS, x_BSM, "model.layers.0")
    expected = logits_with(model, ids_BS, dense(second, stream["x"]))
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4)
    assert n_hooks(model) == 0


@pytest.mark.parametrize("how", [{}, {"add": {3: 5.0}, "error": True}], ids=["reconstruct", "steer"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_generate_with_a_cache_gives_what_it_gives_without(model_type: str, how: Any, model_of: ModelOf) -> None:
    model, ids_BS = model_of(model_type), tokens(2, 6)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids_BS)}
    plain = model.generate(ids_BS, **options)
    with strata.attach(model, bad(), **how) as attached:
        cached = model.generate(ids_BS, use_cache=True, **options)
        assert attached.codes.shape == (2, 1, 64), "one position a step"
        again = model.generate(ids_BS, use_cache=False, **options)
        assert attached.codes.shape == (2, 13, 64)
    assert torch.equal(cached, again)
    assert not torch.equal(cached, plain), "the control"
    assert torch.equal(model.generate(ids_BS, **options), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sae_computes_in_float32_in_a_model_of_half_precision(dtype: torch.dtype, model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(dtype=dtype), tokens(), bad()
    x_BSM = rows_of(model, ids_BS, LAYER)
    assert x_BSM.dtype == dtype
    expected = logits_with(model, ids_BS, dense(sae, x_BSM).to(dtype))
    found = attached_logits(model, ids_BS, sae)
    assert found.dtype == dtype
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
    assert torch.equal(attached_logits(model, ids_BS, sae, error=True), attached_logits(model, ids_BS, same()))


@pytest.mark.parametrize("make", [bad, sparse], ids=["dense codes", "sparse codes"])
def test_gradients_are_those_of_the_dense_form(make: Any, model_of: ModelOf) -> None:
    model, ids_BS, sae = model_of(), tokens(1), make()
    amount = torch.tensor(2.0, requires_grad=True)
    embedded = model.get_input_embeddings()(ids_BS).detach().requires_grad_()
    with torch.enable_grad(), strata.attach(model, sae, add={3: amount}) as attached:
        score = model(inputs_embeds=embedded).logits[0, -1, 5]
        codes = attached.codes.flat.values
        by_attach = torch.autograd.grad(score, [embedded, amount, codes])
    other, stream = model_of(), {}

    def write(module: Any, args: Any, output: Any) -> Any:
        x_BSM = output if isinstance(output, Tensor) else output[0]
        stream["codes"] = codes_BSE = dense_of(sae, x_BSM)
        changed = codes_BSE + amount * (torch.arange(codes_BSE.shape[-1]) == 3)
        written = changed @ sae.sae.W_dec + sae.sae.b_dec
        return written if isinstance(output, Tensor) else (written, *output[1:])

    other.model.layers[1].register_forward_hook(write)
    expected = torch.autograd.grad(other(inputs_embeds=embedded).logits[0, -1, 5], [embedded, amount, stream["codes"]])
    for found, wanted in zip(by_attach[:2], expected[:2], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        assert wanted.abs().max() > 0
    assert by_attach[2].abs().max() > 0


def dense_of(sae: Any, x_BSM: Tensor) -> Tensor:
    inner = sae.sae
    pre = (x_BSM - inner.b_dec) @ inner.W_enc.T + inner.b_enc
    if not hasattr(inner.settings, "k"):
        return pre.clamp(min=0)
    values, latents = pre.topk(inner.settings.k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, latents, values.clamp(min=0))


@pytest.mark.parametrize("architecture", sorted(SAE_SETTINGS))
def test_every_architecture_reconstructs_with_gradients_as_without(architecture: str, model_of: ModelOf) -> None:
    from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights

    settings = ARCHITECTURES[architecture].Settings(
        **{"d_sae": 60, **SAE_SETTINGS[architecture]} | ({"d_sae": 32} if architecture == "identity" else {})
    )
    sae = ARCHITECTURES[architecture](settings, 32, initial_weights(settings, 32, torch.Generator().manual_seed(0)))
    if sae.has_threshold:
        sae.threshold = torch.tensor(0.3, dtype=torch.float64)
    model, ids_BS = model_of(), tokens(1)
    found = attached_logits(model, ids_BS, foreign(sae))
    embedded = model.get_input_embeddings()(ids_BS).detach().requires_grad_()
    with torch.enable_grad(), strata.attach(model, foreign(sae)):
        with_gradients = model(inputs_embeds=embedded).logits
    torch.testing.assert_close(with_gradients, found, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(with_gradients[0, -1].norm(), embedded)
    assert bool(gradient.isfinite().all())
    assert gradient.abs().max() > 0


def test_hooks_are_gone_after_an_error_too(model_of: ModelOf) -> None:
    model, ids_BS = model_of(), tokens()
    plain = attached_logits(model, ids_BS, same())
    with strata.attach(model, bad()):
        assert n_hooks(model) == 4
    with pytest.raises(ZeroDivisionError), strata.attach(model, bad()):
        raise ZeroDivisionError
    with pytest.raises(strata.ConfigError, match=r"width 32, but .* reads 48"), strata.attach(model, bad(48)):
        model(input_ids=ids_BS)
    assert n_hooks(model) == 0
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids_BS).logits, plain)


def test_a_model_below_its_head_is_seen_and_embeddings_may_be_given(model_of: ModelOf) -> None:
    model, ids_BS = model_of("opt"), tokens()
    sae = bad(48, "blocks.1.mlp.hook_post")
    with torch.no_grad(), strata.attach(model, sae) as attached:
        whole = model(input_ids=ids_BS).logits
        model.model(ids_BS)
        assert attached.codes.shape == (3, 9, 96)
        embedded = model.get_input_embeddings()(ids_BS)
        again = model(inputs_embeds=embedded, attention_mask=torch.ones_like(ids_BS)).logits
    torch.testing.assert_close(whole, again)


def test_an_sae_on_another_device_is_copied_and_stays_where_it_is() -> None:
    """The meta device stands for a GPU: every tensor must be there, the threshold included."""
    sae = sparse()
    sae.sae.threshold = torch.tensor(0.3, dtype=torch.float64)
    moved = _moved(sae, torch.device("meta"))
    assert {value.device.type for value in vars(moved.sae).values() if isinstance(value, Tensor)} == {"meta"}
    assert moved.sae.settings == sae.sae.settings
    assert {value.device.type for value in vars(sae.sae).values() if isinstance(value, Tensor)} == {"cpu"}
    assert _moved(sae, torch.device("cpu")) is sae
