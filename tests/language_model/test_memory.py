"""Host memory of an extraction: what the layers up to the deepest site take, whatever lies above them in the files."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.language_model.transformers_library import quiet
from support.extraction import extraction_config
from support.tiny_models import CONFIGS, _save_tokenizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")

ROOTS = (Path(__file__).parents[2], Path(__file__).parents[1])
SITE = "blocks.5.hook_resid_post"
BOUND = 0.35
"""Of the checkpoint's bytes. 6 of 24 layers and the embeddings are 0.25 of it."""
FORMS = ("one file", "shards")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """{form: folder of a llama of 24 layers, 385 MiB of random float32}; the files are removed at the end."""
    from transformers import AutoConfig, AutoModelForCausalLM

    parent = tmp_path_factory.mktemp("deep")
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24, "num_key_value_heads": 4}
    config = AutoConfig.for_model("llama", **CONFIGS["llama"] | sizes | {"head_dim": 128})
    folders = {form: parent / form.replace(" ", "-") for form in FORMS}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(folders["one file"])
        model.save_pretrained(folders["shards"], max_shard_size="60MB")
        del model
    for folder in folders.values():
        _save_tokenizer(folder)
    yield folders
    for file in parent.rglob("*.safetensors"):
        file.unlink()


def share_of_the_checkpoint(checkpoint: Path, dtype: str, folder: Path, *way: str) -> float:
    """Most memory held by a process that extracts, less what it held after a tiny extraction, as a share."""
    extraction_config(folder)  # writes the corpus and the tiny model
    program = Path(__file__).parents[1] / "support" / "peak_of_extraction.py"
    command = [sys.executable, str(program), str(folder), str(checkpoint), dtype, SITE, *way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, ROOTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1]) / sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))


@pytest.mark.parametrize(("form", "dtype"), [("one file", "float32"), ("one file", "bfloat16"), ("shards", "bfloat16")])
def test_memory_is_that_of_the_layers_that_run(
    form: str, dtype: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    share = share_of_the_checkpoint(checkpoints[form], dtype, tmp_path)
    print(f"{form}, run in {dtype}: {share:.3f} of the checkpoint")
    assert 0.1 < share <= BOUND


def test_control_a_model_that_is_read_whole_takes_more(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    share = share_of_the_checkpoint(checkpoints["one file"], "bfloat16", tmp_path, "whole")
    print(f"read whole, run in bfloat16: {share:.3f} of the checkpoint")
    assert share > 1 > BOUND
