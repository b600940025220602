"""SAELens, SAEBench and dictionary_learning scoring rows that lie in memory, in the place of a language model.

Import it only where these libraries are installed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

HOOK = "blocks.8.hook_resid_post"
SPECIAL = 1
"""The token id that both libraries are told to ignore."""


class RowsAsModel:
    """What both libraries ask of a model and of a store of tokens: `run_with_cache` gives the rows of the batch."""

    def __init__(self, rows_NM: Tensor, special_N: Tensor, context: int, n_contexts: int) -> None:
        """`n_contexts`: sequences of a batch, of `context` rows each."""
        self._rows_NM, self._special_N = rows_NM, special_N
        self.context_size, self.store_batch_size_prompts = context, n_contexts
        self._at = 0

    def get_batch_tokens(self, n_contexts: int) -> Tensor:
        """The next token ids: SPECIAL or another one."""
        self._now = slice(self._at, self._at + n_contexts * self.context_size)
        self._at = self._now.stop
        ids_B = torch.where(self._special_N[self._now], SPECIAL, SPECIAL + 1)
        return ids_B.reshape(n_contexts, self.context_size)

    def reset_input_dataset(self) -> None:
        """From the start again."""
        self._at = 0

    def run_with_cache(self, ids: Tensor, **options: Any) -> tuple[None, dict[str, Tensor]]:
        """The rows of the batch whose tokens were given out last."""
        return None, {HOOK: self._rows_NM[self._now].reshape(*ids.shape, -1)}


def saelens_sae(architecture: str, weights: dict[str, Tensor], **settings: Any) -> Any:
    """An SAE of theirs: standard, topk (k) or jumprelu (a threshold among the weights)."""
    from sae_lens import SAE
    from sae_lens.saes.sae import SAEMetadata

    d_sae, d_in = weights["W_dec"].shape
    kind, config = SAE_CLASSES(architecture)
    metadata = SAEMetadata(model_name="rows", hook_name=HOOK, context_size=256, prepend_bos=False)
    sae: SAE = kind(config(d_in=d_in, d_sae=d_sae, dtype="float32", device="cpu", metadata=metadata, **settings))
    theirs = {name: tensor.float() for name, tensor in weights.items()}
    theirs["W_enc"] = theirs["W_enc"].T.contiguous()
    if "threshold" in theirs:
        theirs["threshold"] = theirs["threshold"].expand(d_sae).contiguous()
    sae.load_state_dict(theirs)
    return sae


def SAE_CLASSES(architecture: str) -> tuple[Any, Any]:
    from sae_lens.registry import get_sae_class

    return get_sae_class(architecture)


def saelens_scores(sae: Any, rows: RowsAsModel, n_batches: int) -> dict[str, float]:
    """SAELens' metrics of rows, codes and reconstructions."""
    from sae_lens.evals import get_sparsity_and_variance_metrics
    from sae_lens.training.activation_scaler import ActivationScaler

    rows.reset_input_dataset()
    with torch.no_grad():
        found, densities = get_sparsity_and_variance_metrics(
            sae,
            rows,
            rows,
            ActivationScaler(),
            n_batches=n_batches,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
            eval_batch_size_prompts=rows.store_batch_size_prompts,
            model_kwargs={},
            ignore_tokens=[SPECIAL],
        )
    return {**found, "frac_alive": sum(density > 0 for density in densities["feature_density"]) / sae.cfg.d_sae}


def saebench_scores(sae: Any, rows: RowsAsModel, n_batches: int) -> dict[str, float]:
    """SAEBench's core evaluation without what needs the model above the site."""
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import calculate_misc_metrics, run_evals

    rows.reset_input_dataset()
    sae.cfg.hook_name, sae.cfg.hook_layer, sae.cfg.hook_head_index = HOOK, 8, None
    sae.cfg.architecture_str = "standard"
    config = CoreEvalConfig(
        model_name="rows",
        batch_size_prompts=rows.store_batch_size_prompts,
        n_eval_sparsity_variance_batches=n_batches,
        compute_kl=False,
        compute_ce_loss=False,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        context_size=rows.context_size,
        dataset="local",
    )
    found, features = run_evals(sae, rows, rows, config, ignore_tokens={SPECIAL})
    groups = ("reconstruction_quality", "shrinkage", "sparsity")
    return {name: value for group in groups for name, value in found[group].items()} | calculate_misc_metrics(features)


def dictionary_learning_scores(dictionary: Any, batches: Iterator[Tensor], n_batches: int) -> dict[str, float]:
    """dictionary_learning's `evaluate` of batches of rows."""
    from dictionary_learning.evaluation import evaluate

    return dict(evaluate(dictionary, batches, n_batches=n_batches, device="cpu"))
