import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.reading.feed import to_tensor
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores.format.encodings import to_float32
from support.small_run import TOPK
from support.small_store import build_store
from support.trained_run import curves


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
    train(make_config({"topk": TOPK}, store=store, n_steps=20), show_progress=False)
    assert curves("topk")[-1]["batch_r2"] > curves("topk")[0]["batch_r2"]


def test_device(monkeypatch):
    for n_cuda, wanted in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n=n_cuda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=n_cuda: n)
        assert choose_device("cpu", "training.device").type == "cpu"
        assert choose_device("auto", "training.device").type == wanted
    assert choose_device("cuda:1", "training.device") == torch.device("cuda:1")


@pytest.mark.parametrize("key", ["training.device", "model.device"])
@pytest.mark.parametrize(
    ("name", "n_cuda", "allowed"), [("cuda", 0, "auto, cpu"), ("cuda:2", 2, "auto, cpu, cuda, cuda:0, cuda:1")]
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch, key, name, n_cuda, allowed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
    with pytest.raises(ConfigError) as refused:
        choose_device(name, key)
    assert str(refused.value) == f"{key}: {name!r} is not allowed here; allowed: {allowed}"


def test_training_never_loads_a_language_model():
    program = (
        "import sys, strata_sae.pipeline.trainer.train; print(sorted({'transformers', 'datasets'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
