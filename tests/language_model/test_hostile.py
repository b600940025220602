"""A model's folder from anybody: every odd file ends in one ConfigError that names it, and no foreign code runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.loading import describe, load, load_tokenizer
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]
SITE = "blocks.0.hook_resid_post"
NESTED = b"[" * 100_000


@pytest.fixture
def folder(settings_of: SettingsOf, tmp_path: Path) -> Path:
    return shutil.copytree(settings_of("llama").path, tmp_path / "llama")


def refused(folder: Path, function: Callable[..., Any], *sites: str) -> str:
    with pytest.raises(ConfigError) as caught:
        function(ModelSettings(path=str(folder), device="cpu"), *([[*sites]] if sites else []))
    message = str(caught.value)
    assert message.startswith("model.path: ")
    assert "\n" not in message
    return message


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "n_layer", "decoder_layers", "num_blocks", "num_local_experts", "n_routed_experts"]
)
@pytest.mark.parametrize("value", [10_001, 10**7, 10**18])
def test_more_layers_or_experts_than_any_model_has(folder: Path, key: str, value: int) -> None:
    change_config(
        folder, text_config={key: value} if value == 10**7 else {}, **({key: value} if value != 10**7 else {})
    )
    assert f"{key} is {value:,}; at most" in refused(folder, describe, SITE)


def test_modules_are_bounded_whatever_the_key_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strata_sae.pipeline.language_model.survey.MAX_MODULES", 20)
    assert "a model of more than 20 modules" in refused(folder, describe, SITE)


@pytest.mark.parametrize("data", [NESTED, b"[]", b"7", b"null", b"\xff\xfe", b"", b'{"a": 1, "a": 2}', b"9" * 5000])
def test_config_files_that_are_none(folder: Path, data: bytes) -> None:
    (folder / "config.json").write_bytes(data)
    for function in (describe, load):
        assert "cannot read config.json" in refused(folder, function, SITE)


def test_infinity_in_a_config_is_what_transformers_writes(folder: Path) -> None:
    change_config(folder, time_step_limit=[0.0, float("inf")])
    assert "Infinity" in (folder / "config.json").read_text(encoding="utf-8")
    describe(ModelSettings(path=str(folder), device="cpu"), [SITE])


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": -1},
        {"hidden_size": "many"},
        {"hidden_size": 2**62},
        {"num_attention_heads": 0},
        {"vocab_size": 2**40},
        {"vocab_size": None},
        {"rope_scaling": {"rope_type": "nonsense"}},
        {"hidden_act": "nonsense"},
        {"layer_types": ["nonsense"]},
        {"model_type": 7},
        {"architectures": 7, "model_type": "t5"},
        {"auto_map": 7, "model_type": "t5"},
    ],
    ids=str,
)
def test_configs_that_make_no_sense(folder: Path, changes: dict[str, Any]) -> None:
    change_config(folder, **changes)
    refused(folder, describe, SITE)


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "/etc/passwd", "..", ".", "", "sub/model.safetensors", "a\\b", "a\0b"]
)
def test_an_index_names_files_beside_it_and_no_others(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    for function in (describe, load):
        assert "which is not a plain name of a file beside it" in refused(folder, function, SITE)


@pytest.mark.parametrize(
    "data", [NESTED, b"[]", b'{"weight_map": 7}', b'{"weight_map": ["a"]}', b'{"weight_map": {"a": 7}}', b"{}", b"\xff"]
)
def test_an_index_that_is_none(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(data)
    assert "model.safetensors.index.json" in refused(folder, describe, SITE)


def test_weights_that_the_config_names_itself_are_refused(folder: Path) -> None:
    change_config(folder, transformers_weights="../elsewhere.safetensors")
    assert "transformers_weights" in refused(folder, describe, SITE)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", NESTED, b'{"model": {"type": "BPE", "vocab": 7}}', b"\xff" * 100])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_files_that_are_none(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    if name == "tokenizer_config.json" and data.startswith(b"{"):
        load_tokenizer(ModelSettings(path=str(folder), device="cpu"))  # says nothing, and need not
    else:
        assert "cannot read the tokenizer's files" in refused(folder, load_tokenizer)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 16, (2**62).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"{}"]
)
def test_weight_files_that_are_none(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    for function in (describe, load):
        refused(folder, function, SITE)


def test_code_of_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    change_config(
        folder, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    )
    refused(folder, describe, SITE)
    refused(folder, load, SITE)
    change_config(folder, model_type="llama")
    describe(ModelSettings(path=str(folder), device="cpu"), [SITE])
    assert not (tmp_path / "ran").exists()


def test_the_hub_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(ConfigError, match=r"this user has no home folder; set HF_HOME"):
        describe(ModelSettings(path="someone/model"), [SITE])
