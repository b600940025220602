"""Host memory and time of loading a model up to a site: only the layers that run are read, or all and then cut.

    python benchmarks/loading.py

The demo model, its files in bfloat16, in processes of their own, first one way, then the other, three times. Memory is
the highest resident set beyond what libraries and a first load, of a model of one narrow layer, left.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.memory import mebibytes
from benchmarks.toy import sized

SITE = sized("blocks.8.hook_resid_post", "blocks.1.hook_resid_post")
DTYPES = ("float32", "bfloat16")
WAYS = ("whole", "cut")
N_TIMES = sized(3, 1)


def write_llama(folder: Path, n_layers: int) -> None:
    """A llama of random weights in bfloat16, narrow."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 300}
    config = LlamaConfig(**sizes, num_hidden_layers=n_layers, max_position_embeddings=64)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def measure(model: str, first: str, dtype: str, way: str) -> tuple[float, float]:
    """Returns: (MiB, seconds) of loading in this process."""
    from strata_sae.pipeline.language_model import weights
    from strata_sae.pipeline.language_model.loading import load
    from strata_sae.pipeline.settings import ModelSettings

    if way == "whole":
        weights._why_whole = lambda *_: "for comparison"
    load(ModelSettings(path=first, device="cpu", dtype=dtype), ["blocks.0.hook_resid_post"])
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak
    before, began = mebibytes("/proc/self/status", "VmRSS"), time.perf_counter()
    load(ModelSettings(path=model, device="cpu", dtype=dtype), [SITE])
    seconds = time.perf_counter() - began
    return mebibytes("/proc/self/status", "VmHWM") - before, seconds


def child(*arguments: str) -> list[float]:
    """What `measure` says in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(number) for number in printed.split()[-2:]]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="strata-loading-") as parent:
        first, deep = Path(parent, "first"), Path(parent, "deep")
        write_llama(first, 1)
        write_llama(deep, 4)
        model = sized("demo", str(deep))
        print(f"{'model.dtype':12s} {'way':6s} {'MiB':>8s} {'seconds':>8s}")
        for dtype in DTYPES:
            found = {way: [] for way in WAYS}
            for _ in range(N_TIMES):
                for way in WAYS:
                    found[way].append(child(model, str(first), dtype, way))
            for way in WAYS:
                mebibyte, seconds = (statistics.median(numbers) for numbers in zip(*found[way], strict=True))
                print(f"{dtype:12s} {way:6s} {mebibyte:8.1f} {seconds:8.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(*measure(*sys.argv[1:]))
