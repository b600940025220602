import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import TOPK
from small_store import build_store
from trained_run import curves

from pipeline.rows import choose_device, to_tensor
from pipeline.trainer.train import train
from stores.encodings import to_float32


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
def test_every_encoding_becomes_exact_float32_of_its_own(dtype):
    bits = np.random.default_rng(0).integers(0, 2**15 - 2**11, size=(5, 4), dtype=np.uint16)
    rows = bits if dtype == np.uint16 else bits.view(np.float16).astype(dtype)
    rows.flags.writeable = False
    x_BM = to_tensor(rows, torch.device("cpu"))
    assert x_BM.dtype == torch.float32
    assert np.array_equal(x_BM.numpy(), to_float32(rows))
    x_BM += 1  # the store's rows stay as they are
    assert not np.array_equal(x_BM.numpy(), to_float32(rows))


def test_training_on_a_bfloat16_store(make_config, tmp_path):
    store = build_store(tmp_path / "half", 2000, encoding="bfloat16", shard_bytes=2**20)
    train(make_config({"topk": TOPK}, store=store, n_steps=20), report_progress=False)
    assert curves("topk")[-1]["batch_r2"] > curves("topk")[0]["batch_r2"]


def test_device():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")


def test_training_never_loads_a_language_model():
    program = "import sys, pipeline.trainer.train; print(sorted({'transformers', 'datasets'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
