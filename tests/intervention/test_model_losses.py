"""What the language model loses with reconstructions in the place of stored rows, on a tiny model and by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.intervention import intervene as stage
from strata_sae.pipeline.intervention.intervene import intervene
from strata_sae.pipeline.intervention.passes import Passes
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.sites import FAMILIES
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import ActivationStore, Filters
from support.judged_run import MLP_IN, MLP_OUT, STREAM, identity, judged_config, losses_of, put, rough
from support.tiny_models import D_MLP, D_MODEL, save_tiny_model


def by_hand(config: TrainConfig, form: str, what: str) -> tuple[float, float, float]:
    """Clean cross-entropy, and cross-entropy and KL with other rows at STREAM: a whole pass a sequence, float64."""
    store = ActivationStore.open(config.store_path())
    whole = load(config.model, [STREAM], whole=True)
    first, last = store.plan.splits["heldout"]
    passing_N = torch.zeros(last - first, dtype=torch.bool)
    for _, numbers in store.in_order(
        STREAM, "heldout", Filters(drop_bos=True, drop_special=True, max_norm_multiple=2.0), 64
    ):
        passing_N[torch.from_numpy(numbers) - first] = True
    ordinary_N = torch.from_numpy(store.token_map("flags", first, last) == 0)
    rows_NM = torch.from_numpy(store.float_rows(STREAM, first, last))
    ids_N = torch.from_numpy(store.token_map("token_id", first, last)).long()
    weights, clean, ce, kl = rough(D_MODEL), [], [], []
    replaced_N = passing_N if form == "population" else ordinary_N
    for start in range(0, last - first, 32):
        part = slice(start, min(start + 32, last - first))
        x_SM, ids_S = rows_NM[part], ids_N[part]
        made_SM = torch.relu(x_SM @ weights["W_enc"].T) @ weights["W_dec"] if what == "sae" else torch.zeros_like(x_SM)
        instead_SM = torch.where(replaced_N[part, None], made_SM, x_SM)
        if (what, form) == ("zero", "saebench"):
            instead_SM = torch.zeros_like(x_SM)
        p_SV, q_SV = (predictions(whole, ids_S, rows_SM) for rows_SM in (x_SM, instead_SM))
        kept_S = ordinary_N[part]
        for found, of in ((clean, p_SV), (ce, q_SV)):
            found += [-float(of[s, ids_S[s + 1]]) for s in range(len(ids_S) - 1) if kept_S[s]]
        kl += [float((p_SV[s].exp() * (p_SV[s] - q_SV[s])).sum()) for s in range(len(ids_S)) if kept_S[s]]
    return math.fsum(clean) / len(clean), math.fsum(ce) / len(ce), math.fsum(kl) / len(kl)


def predictions(whole: Any, ids_S: torch.Tensor, rows_SM: torch.Tensor) -> torch.Tensor:
    """Log-probabilities float64 [S, V]: the blocks after STREAM, and the head, called one after the other."""
    inner = whole.model.model
    with torch.inference_mode():
        x_BSM = rows_SM[None]
        places = torch.arange(len(ids_S))[None]
        rotary = inner.rotary_emb(x_BSM, places)
        x_BSM = inner.layers[2](x_BSM, position_embeddings=rotary, attention_mask=None, position_ids=places)
        return whole.model.lm_head(inner.norm(x_BSM))[0].double().log_softmax(-1)


@pytest.mark.parametrize("form", ["population", "saebench"])
def test_losses_are_those_of_whole_sequences_by_hand(form: str, config_of: Callable[..., TrainConfig]) -> None:
    config = config_of(evaluation={"with_model": {"max_rows": None}})
    folder = put(config, "rough", rough(D_MODEL), [STREAM])
    intervene(config)
    found = losses_of(folder)
    losses = found.forms[form]
    clean, ce, kl = by_hand(config, form, "sae")
    _, zero_ce, zero_kl = by_hand(config, form, "zero")
    assert found.clean_cross_entropy.value == pytest.approx(clean, rel=1e-6)
    assert losses.with_sae.cross_entropy.value == pytest.approx(ce, rel=1e-6)
    assert losses.with_sae.kl.value == pytest.approx(kl, rel=1e-5)
    assert losses.zero_ablation.cross_entropy.value == pytest.approx(zero_ce, rel=1e-6)
    assert losses.zero_ablation.kl.value == pytest.approx(zero_kl, rel=1e-5)
    assert losses.ce_recovered.value == pytest.approx((zero_ce - ce) / (zero_ce - clean), rel=1e-4)
    assert losses.kl_recovered.value == pytest.approx(1 - kl / zero_kl, rel=1e-4)
    assert abs(ce - clean) > 1e-3, "the control: this SAE loses something"
    assert found.begins == "stored rows"


def test_the_identity_recovers_exactly_all_and_a_zero_sae_exactly_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without special tokens in the text, every row but an outlier is replaced in SAEBench's form, too."""
    monkeypatch.chdir(tmp_path)
    config = judged_config(tmp_path, corpus={"prepend_bos": False}, training={"filters": {"max_norm_multiple": 2.0}})
    folders = {
        site: [put(config, "same", identity(width), [site]), put(config, "none", identity(width, 0.0), [site])]
        for site, width in ((STREAM, D_MODEL), (MLP_OUT, D_MODEL), ("blocks.1.mlp.hook_post", D_MLP))
    }
    intervene(config)
    for same, none in folders.values():
        for form in ("population", "saebench"):
            kept, lost = losses_of(same).forms[form], losses_of(none).forms[form]
            assert (kept.ce_recovered.value, kept.kl_recovered.value, kept.with_sae.kl.value) == (1.0, 1.0, 0.0)
            assert kept.ce_recovered_of_mean.value == kept.kl_recovered_of_mean.value == 1.0
            assert (lost.ce_recovered.value, lost.kl_recovered.value) == (0.0, 0.0)
            assert lost.zero_ablation == lost.with_sae
        assert lost.n_replaced_rows == losses_of(none).n_rows


class Counted:
    """Calls of each block of a model, from its own forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self._patch = monkeypatch

    def watch(self, whole: Any) -> Any:
        layers = whole.model.model.layers
        self.calls = [0] * len(layers)
        for number, layer in enumerate(layers):
            self._patch.setattr(layer, "forward", self._counting(number, layer.forward))
        return whole

    def _counting(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[number] += 1
            return forward(*args, **kwargs)

        return call


@pytest.mark.parametrize(
    ("reads", "writes", "below"),
    [([STREAM], None, [0, 0, None]), ([MLP_OUT], None, [1, None, None]), ([MLP_IN], [MLP_OUT], [1, None, None])],
    ids=["residual", "mlp", "transcoder"],
)
def test_blocks_below_a_site_run_once_a_batch_or_never(
    reads: list[str],
    writes: list[str] | None,
    below: list[int | None],
    config_of: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variant = {"sae": {"architecture": "relu", "d_sae": 64}, "objective": {"reconstruction": {}}}
    if writes:
        variant |= {"reads": reads, "writes": writes}
        variant["sae"] |= {"pre_bias": False, "initial": {"encoder": "independent"}}
    config = config_of(variants={"a": variant, "b": variant}, evaluation={"with_model": {"max_rows": None}})
    for seed, name in enumerate("ab"):
        put(config, name, rough(D_MODEL, seed=seed), reads, writes)
    counted = Counted(monkeypatch)
    real = stage.load_model
    monkeypatch.setattr(stage, "load_model", lambda *args: counted.watch(real(*args)))
    n_batches = []
    begin = stage.Passes.begin

    def begins(self: stage.Passes, *args: Any) -> None:
        if not n_batches:
            counted.calls = [0] * len(counted.calls)  # those of the checks before
        n_batches.append(1)
        begin(self, *args)

    monkeypatch.setattr(stage.Passes, "begin", begins)
    intervene(config)
    n_passes = 1 + 2 * (2 + 2)  # clean; in each form two ablations and two SAEs
    assert len(n_batches) > 1
    assert counted.calls == [len(n_batches) * (n_passes if n is None else n) for n in below]


def test_rows_in_float32_give_the_bits_of_the_whole_pass(config_of: Callable[..., TrainConfig]) -> None:
    """Of a pass of the same shape: a batch of another shape may be summed in another order, by the model itself."""
    config = config_of()
    whole = load(config.model, [STREAM, MLP_IN, MLP_OUT], whole=True)
    ids_BS = torch.randint(1, 300, (3, 32), generator=torch.Generator().manual_seed(0))
    plain = whole.run(ids_BS)
    for site in (STREAM, MLP_IN, MLP_OUT):
        passes = Passes(whole, site)
        passes.begin(ids_BS, None)
        rows_BSM = plain.captured[site]
        assert torch.equal(passes.logits(rows_BSM), plain.logits_BSV), site
        rounded_BSM = rows_BSM.bfloat16().float()
        assert not torch.equal(passes.logits(rounded_BSM), plain.logits_BSV), "the control"


@pytest.mark.parametrize("encoding", ["bfloat16", "int8"])
def test_rounded_rows_change_the_cross_entropy_by_less_than_a_thousandth(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Path
) -> None:
    found = {}
    for kind, folder in (("float32", small), (encoding, tmp_path)):
        (tmp_path / kind).mkdir()
        monkeypatch.chdir(tmp_path / kind)
        config = judged_config(folder, store={"encoding": kind}, evaluation={"with_model": {"max_rows": None}})
        found[kind] = put(config, kind, identity(D_MODEL), [STREAM])
        intervene(config)
        found[kind] = losses_of(found[kind]).clean_cross_entropy.value
    exact, rounded = found["float32"], found[encoding]
    print(f"{encoding}: clean cross-entropy {rounded:.7f}, float32 {exact:.7f}, relative {rounded / exact - 1:.1e}")
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_passes_of_every_family_begin_at_the_site(model_type: str, tmp_path: Path) -> None:
    sites = [f"blocks.{n}.{kind}" for n, kind in [(0, "hook_resid_pre"), (1, "hook_attn_out"), (2, "hook_resid_post")]]
    folder = save_tiny_model(tmp_path / model_type, model_type)
    whole = load(ModelSettings(path=str(folder), device="cpu"), sites, whole=True)
    ids_BS = torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    plain = whole.run(ids_BS)
    for site in sites:
        passes = Passes(whole, site)
        passes.begin(ids_BS, None)
        assert torch.equal(passes.logits(plain.captured[site]), plain.logits_BSV), site
        assert not torch.equal(passes.logits(plain.captured[site].flip(-1)), plain.logits_BSV), site
        if site != sites[-1]:
            turned_B = torch.tensor([1, 0, 1])
            passes.take(turned_B)
            found_BSM = passes.captured(plain.captured[site][turned_B])[sites[-1]]
            torch.testing.assert_close(found_BSM, plain.captured[sites[-1]][turned_B], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found_BSM, plain.captured[sites[-1]][turned_B.flip(0) - 1], atol=1e-2), "control"
    assert torch.equal(whole.run(ids_BS).logits_BSV, plain.logits_BSV), "the blocks are back"
