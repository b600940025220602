"""The other libraries' side of whole_job.py: one of the jobs below, in a process of its own.

Each reads a `Job` from the JSON file it is given, and prints what it measured of itself as its last line, JSON too.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

LAYER = 8
MODULE = f"model.layers.{LAYER}"
D_MODEL = 576


@dataclass(frozen=True)
class Job:
    """What is trained, and on what. All numbers of tokens and contexts are those of the train split."""

    model: str
    """Folder of the language model."""
    model_dtype: str
    contexts: str
    """A .npy file of token ids [contexts, tokens]."""
    contexts_a_pass: int
    """Contexts in one forward pass of the language model."""
    buffer_contexts: int
    """Contexts whose rows are mixed in memory."""
    d_sae: int
    batch: int
    n_steps: int
    variants: Sequence[tuple[int, float]] = ()
    """k and learning rate of each SAE."""
    out: str = ""
    begun: float = 0.0
    """When its process was started, by the clock."""

    @property
    def warmup_steps(self) -> int:
        """Updates of linear warm-up."""
        return max(1, self.n_steps // 20)

    @property
    def decay_steps(self) -> int:
        """Updates at the end in which the rate falls to 0."""
        return self.n_steps // 5

    def ids(self) -> Tensor:
        """Token ids [contexts, tokens]."""
        return torch.from_numpy(np.load(self.contexts).astype(np.int64))


def spent(job: Job) -> tuple[float, float]:
    """Seconds by the clock and of the processor since the process was started, imports included."""
    return time.time() - job.begun, time.process_time()


def dictionary_learning(job: Job) -> dict[str, Any]:
    """All SAEs in one trainSAE over its ActivationBuffer, which runs the model as rows are needed.

    The buffer is handed ids in the place of text: it need not tokenise, and its tokens are everybody's.
    """
    from dictionary_learning.buffer import ActivationBuffer
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import trainSAE
    from nnsight import LanguageModel
    from transformers import BatchEncoding

    class Buffer(ActivationBuffer):  # type: ignore[misc]
        wall = processor = 0.0
        n_tokens = 0

        def text_batch(self, batch_size: int | None = None) -> Any:
            ids_BS = torch.stack([next(self.data) for _ in range(batch_size or self.refresh_batch_size)])
            self.n_tokens += ids_BS.numel()
            return BatchEncoding({"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)})

        def refresh(self) -> None:
            wall, processor = time.perf_counter(), time.process_time()
            super().refresh()
            self.wall += time.perf_counter() - wall
            self.processor += time.process_time() - processor

    def contexts() -> Iterator[Tensor]:
        while True:
            yield from ids_NS

    ids_NS = job.ids()
    wall, processor = time.perf_counter(), time.process_time()
    options = {"device_map": "cpu", "dtype": getattr(torch, job.model_dtype), "dispatch": True}
    model = LanguageModel(job.model, patch_llama_scan=False, **options)
    loading = time.perf_counter() - wall, time.process_time() - processor
    buffer = Buffer(
        contexts(),
        model,
        model.model.layers[LAYER],
        d_submodule=D_MODEL,
        n_ctxs=job.buffer_contexts,
        ctx_len=ids_NS.shape[1] - 1,  # rows that a context gives, without the first
        refresh_batch_size=job.contexts_a_pass,
        out_batch_size=job.batch,
        remove_bos=True,
    )
    sizes = {"activation_dim": D_MODEL, "dict_size": job.d_sae, "layer": LAYER, "lm_name": "demo", "device": "cpu"}
    schedule = {
        "steps": job.n_steps,
        "warmup_steps": job.warmup_steps,
        "decay_start": job.n_steps - job.decay_steps,
        "threshold_start_step": job.n_steps // 2,
    }
    trainers = [
        {"trainer": TopKTrainer, "k": k, "lr": rate, "seed": 0, **sizes, **schedule} for k, rate in job.variants
    ]
    trainSAE(buffer, trainers, steps=job.n_steps, save_dir=job.out, device="cpu")
    extraction = [loading[0] + buffer.wall, loading[1] + buffer.processor]
    return {"extraction": extraction, "spent": {len(job.variants): spent(job)}, "tokens": buffer.n_tokens}


def dataset(job: Job) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": job.ids().tolist()})


def saelens_cache(job: Job) -> dict[str, Any]:
    """CacheActivationsRunner: the first row of a context is left out, as dictionary_learning's `remove_bos` does."""
    from sae_lens.cache_activations_runner import CacheActivationsRunner
    from sae_lens.config import CacheActivationsRunnerConfig

    n_contexts, context = job.ids().shape
    shard_rows = job.buffer_contexts // 4 * (context - 1)
    settings = CacheActivationsRunnerConfig(
        dataset_path="none",
        model_name=job.model,
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={"dtype": job.model_dtype},
        model_batch_size=job.contexts_a_pass,
        hook_name=MODULE,
        d_in=D_MODEL,
        training_tokens=n_contexts * (context - 1),
        context_size=context,
        seqpos_slice=(1, None),
        new_cached_activations_path=str(Path(job.out) / "cache"),
        device="cpu",
        buffer_size_gb=(shard_rows + 1) * 4 * D_MODEL / 1e9,
        prepend_bos=False,
        streaming=False,
    )
    found = CacheActivationsRunner(settings, override_dataset=dataset(job)).run()
    assert len(found) == n_contexts
    return {"tokens": n_contexts * context}


def saelens_sae(job: Job, k: int) -> Any:
    from sae_lens import TopKTrainingSAEConfig

    return TopKTrainingSAEConfig(d_in=D_MODEL, d_sae=job.d_sae, k=k, dtype="float32", device="cpu")


def saelens_common(job: Job) -> dict[str, Any]:
    """Settings of both of its trainings."""
    from sae_lens.config import LoggingConfig

    return {
        "model_name": job.model,
        "model_class_name": "AutoModelForCausalLM",
        "model_from_pretrained_kwargs": {"dtype": job.model_dtype},
        "dataset_path": "none",
        "streaming": False,
        "training_tokens": job.n_steps * job.batch,
        "train_batch_size_tokens": job.batch,
        "n_batches_in_buffer": job.buffer_contexts,
        "lr_end": 0.0,
        "lr_warm_up_steps": job.warmup_steps,
        "lr_decay_steps": job.decay_steps,
        "prepend_bos": False,
        "device": "cpu",
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": None,
    }


def saelens(job: Job) -> dict[str, Any]:
    """One training a variant from the cache, one after the other in a process; the model is loaded once.

    It reads the cache in slices of a quarter of its buffer: of its settings the quick ones, see loaders.py.
    """
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
    from sae_lens.load_model import load_model

    kwargs = {"dtype": job.model_dtype}
    model = load_model("AutoModelForCausalLM", job.model, "cpu", kwargs, hook_names=[MODULE])
    tokens, done = dataset(job), {}
    for number, (k, rate) in enumerate(job.variants):
        settings = LanguageModelSAERunnerConfig(
            sae=saelens_sae(job, k),
            hook_name=MODULE,
            context_size=job.ids().shape[1] - 1,
            use_cached_activations=True,
            cached_activations_path=str(Path(job.out) / "cache"),
            store_batch_size_prompts=job.buffer_contexts // 4,
            lr=rate,
            output_path=str(Path(job.out) / f"trainer_{number}"),
            **saelens_common(job),
        )
        LanguageModelSAETrainingRunner(settings, override_dataset=tokens, override_model=model).run()
        done[number + 1] = spent(job)
    return {"spent": done}


def saelens_together(job: Job) -> dict[str, Any]:
    """All SAEs over one stream of rows, without a cache. They share a learning rate: its config has one."""
    from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig

    settings = MultiSAETrainingRunnerConfig(
        saes={f"trainer_{number}": saelens_sae(job, k) for number, (k, _) in enumerate(job.variants)},
        hook_names=MODULE,
        context_size=job.ids().shape[1],
        seqpos_slice=(1, None),
        store_batch_size_prompts=job.contexts_a_pass,
        lr=job.variants[0][1],
        output_path=job.out,
        **saelens_common(job),
    )
    runner = MultiSAETrainingRunner(settings, override_dataset=dataset(job))
    store, extraction = runner.activations_store, [0.0, 0.0]
    run_model = store.get_multi_hook_activations

    def measured(ids_BS: Tensor) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        found = run_model(ids_BS)
        extraction[0] += time.perf_counter() - wall
        extraction[1] += time.process_time() - processor
        measured.n_tokens += ids_BS.numel()  # type: ignore[attr-defined]
        return found

    measured.n_tokens = 0  # type: ignore[attr-defined]
    store.get_multi_hook_activations = measured
    runner.run()
    n_tokens = measured.n_tokens  # type: ignore[attr-defined]
    return {"extraction": extraction, "spent": {len(job.variants): spent(job)}, "tokens": n_tokens}


JOBS: dict[str, Callable[[Job], dict[str, Any]]] = {
    job.__name__: job for job in (dictionary_learning, saelens_cache, saelens, saelens_together)
}


def write(job: Job, path: Path) -> None:
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")


def reconstruction(side: str, folder: Path) -> Any:
    """An SAE that a job of this side saved, as that library has it, with `encode` and `decode`."""
    if side == "dictionary_learning":
        from dictionary_learning.trainers.top_k import AutoEncoderTopK

        return AutoEncoderTopK.from_pretrained(folder / "ae.pt")
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder), device="cpu")


if __name__ == "__main__":
    print("\n" + json.dumps(JOBS[sys.argv[1]](Job(**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))))))
