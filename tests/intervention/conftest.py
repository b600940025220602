from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.config.run import TrainConfig
from support.judged_run import judged_config
from support.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one extraction, which all tests of a module read."""
    return tmp_path_factory.mktemp("judged")


@pytest.fixture
def config_of(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    """Settings of a run on it, in a working folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return lambda **changes: judged_config(small, **changes)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """model_type -> a tiny random model as a user loads it: `AutoModelForCausalLM.from_pretrained(folder)`."""
    from transformers import AutoModelForCausalLM

    folders: dict[str, Path] = {}

    def make(model_type: str = "llama", dtype: torch.dtype = torch.float32) -> Any:
        if model_type not in folders:
            folders[model_type] = save_tiny_model(tmp_path_factory.mktemp("attached") / model_type, model_type)
        return AutoModelForCausalLM.from_pretrained(folders[model_type], dtype=dtype).eval()

    return make
