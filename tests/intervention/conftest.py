from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_models import save_tiny_model


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
