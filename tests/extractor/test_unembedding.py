"""`store.unembedding`: the head that a store keeps gives the logits of the model itself, and is off by default."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.extractor.plan import described
from strata_sae.pipeline.language_model.unembedding import find_head
from strata_sae.pipeline.reading.unembedding import UNEMBEDDING, UNEMBEDDING_TOKENS, Head, KeptHead, head_of_bytes
from strata_sae.pipeline.reading.which_store import satisfies
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import ActivationStore, StoreError
from support.extraction import extraction_config
from support.tiny_models import D_MODEL, VOCABULARY, save_tiny_model

ASKED = {"unembedding": True, "sites": ["blocks.0.hook_resid_post"]}
FAMILIES = {
    "llama": ("rms", ""),
    "gpt2": ("layer", ""),
    "gpt_neox": ("layer", ""),
    "gemma": ("rms", ""),
    "gemma2": ("rms", "final_logit_softcapping 30"),
}


def made(config: ExtractConfig) -> ActivationStore:
    extract(config)
    return ActivationStore.open(config.store_path())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kept_head_gives_the_models_logits(tmp_path: Path, family: str) -> None:
    """Rows of the last block, through the hand formula of the norm and the kept head, are lm_head(norm(rows))."""
    from transformers import AutoModelForCausalLM

    config = extraction_config(
        tmp_path, model_type=family, store=ASKED, corpus={"n_tokens": 200}, model={"dtype": "float32"}
    )
    kept = KeptHead(made(config))
    assert (kept.head.norm, kept.head.left_out) == FAMILIES[family]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / f"model-{family}").eval()
    ids_BS = torch.arange(20)[None]
    with torch.inference_mode():
        last_BSM: Any = []
        norm = model.get_submodule(find_head(config.model).norm or "")
        handle = norm.register_forward_pre_hook(lambda _, args: last_BSM.append(args[0]))
        logits_BSV = model(ids_BS).logits[0].double().numpy()
        handle.remove()
    rows_BM = last_BSM[0][0].double().numpy()
    if kept.head.norm == "layer":
        rows_BM = rows_BM - rows_BM.mean(1, keepdims=True)
    sizes_B1 = np.sqrt((rows_BM**2).mean(1, keepdims=True) + kept.head.eps)
    found_BV = np.stack([kept.head.effects(row_M) for row_M in rows_BM]) / sizes_B1
    # The bias of GPT-2's norm is the same change of the logits for every row: nothing of a direction's effect.
    bias_M = getattr(norm, "bias", None)
    if bias_M is not None:
        found_BV = found_BV + (model.get_output_embeddings().weight @ bias_M).detach().double().numpy()
    if family == "gemma2":
        found_BV = 30 * np.tanh(found_BV / 30)
    scale = np.abs(logits_BSV).max()
    assert np.abs(found_BV - logits_BSV).max() < 2e-3 * scale  # float16 keeps a weight to 5e-4 of it
    assert np.abs(found_BV[:, ::-1] - logits_BSV).max() > 0.1 * scale


def test_every_token_of_the_vocabulary_has_a_text(tmp_path: Path) -> None:
    store = made(extraction_config(tmp_path, store=ASKED, corpus={"n_tokens": 200}))
    assert {UNEMBEDDING, UNEMBEDDING_TOKENS} <= set(store.extras)
    tokens = KeptHead(store).tokens
    assert sorted(tokens) == list(range(VOCABULARY))
    assert len(store.tokens) < VOCABULARY
    assert {number: tokens[number] for number in store.tokens} == store.tokens
    assert tokens[VOCABULARY - 1].text == f"<{VOCABULARY - 1}>"  # the model has more rows than the tokenizer tokens


def test_the_plan_is_as_it_was_where_it_is_not_asked_for(tmp_path: Path) -> None:
    plain = extraction_config(tmp_path, corpus={"n_tokens": 200}, store={"sites": ASKED["sites"]})
    store = made(plain)
    assert "unembedding" not in json.dumps(store.plan.config)
    assert store.extras == ["token_bytes.json"]
    asked = extraction_config(tmp_path, corpus={"n_tokens": 200}, store=ASKED)
    with pytest.raises(ConfigError, match=r"store\.unembedding: was false, is true"):
        extract(asked)
    assert not satisfies(store.plan, asked)
    beside = asked.model_copy(update={"store": asked.store.model_copy(update={"path": str(tmp_path / "kept")})})
    kept = made(beside)
    assert satisfies(kept.plan, plain)
    assert satisfies(kept.plan, asked)
    assert (kept.rows(ASKED["sites"][0], 0, 200) == store.rows(ASKED["sites"][0], 0, 200)).all()


def test_a_plan_says_its_size_before_it_is_made(tmp_path: Path) -> None:
    lines = described(extraction_config(tmp_path, store=ASKED, corpus={"n_tokens": 200}), show_progress=False).lines
    [line] = [line for line in lines if line.startswith("unembedding")]
    assert f"{VOCABULARY} tokens x {D_MODEL} in float16" in line
    assert not (tmp_path / "store").exists()


def test_a_head_behind_more_than_a_norm_is_refused(tmp_path: Path) -> None:
    """OPT-350M projects rows to narrower ones between its norm and its unembedding."""
    config = extraction_config(tmp_path, model_type="opt", store=ASKED)
    with pytest.raises(ConfigError, match=r"store\.unembedding: of OPTForCausalLM, .*project_out lie between"):
        extract(config)
    assert not (tmp_path / "store").exists()


def test_only_the_heads_tensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    from strata_sae.pipeline.language_model import weights
    from strata_sae.pipeline.language_model.unembedding import read_head

    read: list[str] = []
    stored = weights._stored

    def watched(*args: Any) -> Any:
        import contextlib

        class Noting(dict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                read.append(name)
                return super().__getitem__(name)

        @contextlib.contextmanager
        def inner() -> Any:
            with stored(*args) as state:
                yield Noting(state)

        return inner()

    monkeypatch.setattr(weights, "_stored", watched)
    folder = save_tiny_model(tmp_path / "model", "llama")
    settings = ModelSettings(path=str(folder), device="cpu")
    read_head(settings, find_head(settings))
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert len(list(file.keys())) > 20
    assert {name for name in read if "layers" in name} == set()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    head = Head(np.ones((3, 2), np.float16), np.ones(2, np.float32), "rms", 1e-6, "")
    data = head.to_bytes()
    back = head_of_bytes(data, "here")
    assert (back.W_U.tolist(), back.norm, back.eps) == (head.W_U.tolist(), "rms", 1e-6)
    hostile = [
        data[:-1],
        data[:20],
        b"",
        b"\xff" * 64,
        data.replace(b"F16", b"F32"),
        data.replace(b'"rms"', b'"odd"'),
        data.replace(b"[3,2]", b"[9,2]"),
    ]
    for bad in hostile:
        with pytest.raises(StoreError, match="^here: (no unembedding|not readable)"):
            head_of_bytes(bad, "here")
