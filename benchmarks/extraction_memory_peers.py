"""Memory that extracting takes beyond the model: Strata against SAELens's CacheActivationsRunner on the same tokens.

    make peers && .venv-peers/bin/python benchmarks/extraction_memory_peers.py

The model is a GPT-2 of one layer with random weights, from a folder, and runs two contexts at a time, so that what it
takes itself hides no writer. A shard (our unit, SAELens's buffer) has the same number of bytes on both sides, and two
are written. `anonymous` is how far the process's own memory exceeds what it was once the model had run, sampled every
5 ms; `resident` is the kernel's own peak, mapped files included.
"""

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import sized, skipped

D_MODEL = 512
CONTEXT = 128
BATCH = 2
N_WORDS = 128
N_SHARDS = 2
SHARD_BYTES = sized((2**25, 2**26), (2**21,))
CHUNK_BYTES = sized(2**21, 2**19)
SITE = "blocks.0.hook_resid_post"
MODULE = "transformer.h.0"
TARGET = 0.3


def make_model(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({str(word): word for word in range(N_WORDS)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="0", eos_token="0").save_pretrained(folder)
    shape = GPT2Config(
        vocab_size=N_WORDS, n_positions=CONTEXT, n_embd=D_MODEL, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0
    )
    with contextlib.redirect_stderr(io.StringIO()):  # where it draws a progress bar
        GPT2LMHeadModel(shape).save_pretrained(folder)


def saelens(folder: Path, shard_bytes: int) -> Callable[[], None]:
    from datasets import Dataset
    from sae_lens.cache_activations_runner import CacheActivationsRunner
    from sae_lens.config import CacheActivationsRunnerConfig

    n_rows = N_SHARDS * shard_bytes // (4 * D_MODEL)
    tokens = (np.arange(n_rows).reshape(-1, CONTEXT) % N_WORDS).tolist()
    settings = CacheActivationsRunnerConfig(
        dataset_path="none",
        model_name=str(folder / "model"),
        model_class_name="AutoModelForCausalLM",
        model_batch_size=BATCH,
        hook_name=MODULE,
        d_in=D_MODEL,
        training_tokens=n_rows,
        context_size=CONTEXT,
        new_cached_activations_path=str(folder / "cache"),
        shuffle=False,
        device="cpu",
        buffer_size_gb=shard_bytes / 1e9,
        prepend_bos=False,
        streaming=False,
    )
    assert settings.n_buffers == N_SHARDS
    runner = CacheActivationsRunner(settings, override_dataset=Dataset.from_dict({"input_ids": tokens}))
    runner.activations_store.get_raw_llm_batch()
    return lambda: written(runner.run(), n_rows)


def written(dataset: Any, n_rows: int) -> None:
    assert len(dataset) * CONTEXT == n_rows


def strata(folder: Path, shard_bytes: int) -> Callable[[], None]:
    import torch
    from transformers import AutoModelForCausalLM

    from strata_sae.pipeline.extractor.unit_filler import UnitFiller
    from strata_sae.pipeline.language_model.capture import Capture
    from strata_sae.pipeline.language_model.sites import Site
    from strata_sae.stores.files.filesystem import FileSystem
    from strata_sae.stores.format.vocabulary import Token
    from strata_sae.stores.writing.planning import create_store, layout

    n_rows = N_SHARDS * shard_bytes // (4 * D_MODEL)
    row_N = np.arange(n_rows)
    tokens = {
        "token_id": (row_N % N_WORDS).astype(np.int32),
        "document": row_N // CONTEXT,
        "position": (row_N % CONTEXT).astype(np.int32),
        "flags": np.zeros(n_rows, np.uint8),
    }
    sizes = layout({SITE: D_MODEL}, "float32", CHUNK_BYTES, shard_bytes)
    plan = create_store(
        folder / "store",
        iter([tokens]),
        {word: Token(b"%d" % word, special=False) for word in range(N_WORDS)},
        n_rows=n_rows,
        n_documents=n_rows // CONTEXT,
        splits={"train": (0, n_rows), "heldout": (n_rows, n_rows)},
        sites={SITE: D_MODEL},
        encoding="float32",
        compressor="none",
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=sizes.rows_per_unit,
        config={
            "corpus": {"mode": "packed", "context_length": CONTEXT},
            "model": {"batch_tokens": BATCH * CONTEXT, "dtype": "float32"},
        },
        provenance={},
    )
    assert plan.n_units == N_SHARDS
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    capture = Capture(model, [Site(SITE, MODULE, "output")])
    capture.forward(torch.zeros((BATCH, CONTEXT), dtype=torch.int64))

    def fill() -> None:
        filler = UnitFiller(FileSystem(), folder / "store", plan, capture, lambda n_rows: None)
        for unit in range(plan.n_units):
            filler.fill(unit)
        filler.close()

    return fill


def growth(prepare: Callable[[Path, int], Callable[[], None]], folder: Path, shard_bytes: int) -> tuple[float, float]:
    """MiB of anonymous and of resident memory that the job takes beyond what there was before it."""
    import torch
    from memory import mebibytes

    torch.set_num_threads(1)
    status = "/proc/self/status"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        job = prepare(folder, shard_bytes)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak
        before, resident = mebibytes(status, "RssAnon"), mebibytes(status, "VmRSS")
        peaks, done = [before], threading.Event()

        def sample() -> None:
            while not done.wait(0.005):
                peaks.append(mebibytes(status, "RssAnon"))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            job()
        finally:  # a thread that goes on would keep this process, and whoever waits for it, for ever
            done.set()
            sampler.join()
    return max(peaks) - before, mebibytes(status, "VmHWM") - resident


def main() -> int:
    if find_spec("sae_lens") is None:
        return skipped(
            "no sae_lens here; run: make peers && .venv-peers/bin/python benchmarks/extraction_memory_peers.py"
        )
    from loaders import in_a_process

    os.environ["HF_HUB_OFFLINE"] = "1"
    heads = ("MiB beyond the start", "strata", "saelens", "ratio", "target")
    print("{:40s} {:>8} {:>8} {:>7} {:>7}".format(*heads), flush=True)
    for shard_bytes in SHARD_BYTES:
        found = []
        for prepare in (strata, saelens):
            with tempfile.TemporaryDirectory(prefix="strata-memory-") as name:
                in_a_process(make_model, Path(name) / "model")
                found.append(in_a_process(growth, prepare, Path(name), shard_bytes))
        for kind, ours, theirs in zip(("anonymous", "resident"), *found, strict=True):
            what = f"shards of {shard_bytes // 2**20} MiB, {kind}"
            print(f"{what:40s} {ours:8.1f} {theirs:8.1f} {ours / theirs:7.3f} {TARGET:7.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
