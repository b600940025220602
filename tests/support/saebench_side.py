"""SAEBench's own losses of the demo model, offline: what its core evaluation calls, on given tokens."""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.runs.judging_records import FormLosses, ModelMetrics
from strata_sae.stores import cache_root

ROOT = Path(__file__).resolve().parents[2]
MAKE = (
    "from strata_sae.pipeline.language_model.folder import model_folder; "
    "from strata_sae.pipeline.settings import ModelSettings; model_folder(ModelSettings(path='demo'))"
)


class Autoencoder(Protocol):
    """What SAEBench asks of an SAE of one site: it calls `decode(encode(x))`."""

    cfg: SimpleNamespace
    device: torch.device

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


def demo_folder() -> Path:
    """The demo model as safetensors; .venv, where its wheel is installed, converts it where that was not done yet."""

    def found() -> list[Path]:
        return [path for path in sorted(cache_root().glob("gguf-*")) if (path / "config.json").is_file()]

    python = ROOT / ".venv/bin/python"
    if not found() and python.exists():
        subprocess.run([python, "-c", MAKE], check=False, capture_output=True, cwd=ROOT)
    if not found():
        pytest.skip("the demo model is not in the cache; run: make demo")
    return found()[0]


def hooked(folder: Path) -> Any:
    """The model as a HookedTransformer in float32. Its loader knows local folders but for one look-up of names.

    It also looks for the base of rotary embeddings where older configs had it, and takes 10,000 where it is not: the
    tables are made again. That its logits are those of transformers is asserted.
    """
    import transformer_lens.loading_from_pretrained as loading
    from transformer_lens import HookedTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    look_up = loading.get_official_model_name
    loading.get_official_model_name = lambda name: name if Path(name).is_dir() else look_up(name)
    try:
        model = HookedTransformer.from_pretrained_no_processing(
            str(folder),
            hf_model=plain,
            tokenizer=AutoTokenizer.from_pretrained(folder),
            dtype=torch.float32,
            device="cpu",
        )
    finally:
        loading.get_official_model_name = look_up
    base, cfg = plain.config.rope_parameters["rope_theta"], model.cfg
    for block in model.blocks:
        tables = block.attn.calculate_sin_cos_rotary(cfg.rotary_dim, cfg.n_ctx, base=base, dtype=cfg.dtype)
        block.attn.rotary_sin, block.attn.rotary_cos = tables
    ids_BS = torch.arange(100, 132)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids_BS), plain(ids_BS).logits, rtol=0, atol=1e-3)
    return model


class Contexts:
    """In the place of SAELens' ActivationsStore: hands out given contexts."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._left: Iterator[Tensor] = iter(batches)

    def get_batch_tokens(self, _: int) -> Tensor:
        return next(self._left)


def losses(sae: Autoencoder, model: Any, batches: Sequence[Tensor], ignored: set[int]) -> dict[str, float]:
    """SAEBench's cross-entropies, KLs and scores, special tokens left as they are. batches: token ids [B, S] each."""
    from sae_bench.evals.core.main import get_downstream_reconstruction_metrics

    with torch.no_grad():
        return get_downstream_reconstruction_metrics(
            sae,
            model,
            Contexts(batches),
            compute_kl=True,
            compute_ce_loss=True,
            n_batches=len(batches),
            eval_batch_size_prompts=len(batches[0]),
            ignore_tokens=ignored,
            exclude_special_tokens_from_reconstruction=True,
        )


def compared(found: ModelMetrics, theirs: dict[str, float]) -> dict[str, tuple[float, float]]:
    """SAEBench's name -> our value and its."""
    form: FormLosses = found.forms["saebench"]
    ours = {
        "ce_loss_without_sae": found.clean_cross_entropy,
        "ce_loss_with_sae": form.with_sae.cross_entropy,
        "ce_loss_with_ablation": form.zero_ablation.cross_entropy,
        "ce_loss_score": form.ce_recovered,
        "kl_div_with_sae": form.with_sae.kl,
        "kl_div_with_ablation": form.zero_ablation.kl,
        "kl_div_score": form.kl_recovered,
    }
    assert ours.keys() == theirs.keys()
    return {name: (float(estimate.value or 0.0), theirs[name]) for name, estimate in ours.items()}
