from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.settings import ModelSettings
from support.tiny_models import save_tiny_model


@pytest.fixture(scope="session")
def model_folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """model_type -> a folder with a float32 model of random weights, and a tokenizer."""
    made: dict[str, Path] = {}

    def make(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = save_tiny_model(tmp_path_factory.mktemp("models") / model_type, model_type)
        return made[model_type]

    return make


@pytest.fixture
def settings_of(model_folder_of: Callable[[str], Path]) -> Callable[..., ModelSettings]:
    def make(model_type: str, **changes: Any) -> ModelSettings:
        return ModelSettings(path=str(model_folder_of(model_type)), device="cpu", **changes)

    return make
