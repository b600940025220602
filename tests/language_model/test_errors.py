"""Every way to name a model or a site wrongly ends in one ConfigError that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.loading import describe, load, load_tokenizer
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]
SITE = "blocks.0.hook_resid_post"


@pytest.fixture
def copied(settings_of: SettingsOf, tmp_path: Path) -> ModelSettings:
    """A llama folder to damage."""
    return ModelSettings(path=str(shutil.copytree(settings_of("llama").path, tmp_path / "llama")), device="cpu")


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("blocks.3.hook_resid_post", r"layer 3 does not exist.* 3 layers, so blocks\.0 to blocks\.2"),
        ("blocks.0.hook_resid_pots", r"hook_attn_out.*nearest name: blocks\.0\.hook_resid_post"),
        ("model.layers.0.mpl", r"nearest name: model\.layers\.0\.mlp"),
        ("model.layers", r"runs 0 times"),
        ("model.rotary_emb", r"must be floats of shape"),
        ("model.input", r"no site|a site must be floats|is a NoneType|not a tensor|must be floats"),
    ],
)
def test_bad_sites(site: str, message: str, settings_of: SettingsOf) -> None:
    for function in (describe, load):
        with pytest.raises(ConfigError, match=message) as caught:
            function(settings_of("llama"), [SITE, site])
        assert "store.sites" in str(caught.value)
        assert site in str(caught.value)


def test_vision_modules_do_not_run_on_text(settings_of: SettingsOf) -> None:
    with pytest.raises(ConfigError, match="runs 0 times in a forward pass over text"):
        describe(settings_of("gemma3"), ["model.vision_tower"])


def test_family_without_a_table_takes_module_paths(tmp_path: Path) -> None:
    from transformers import GPTJConfig, GPTJForCausalLM

    GPTJForCausalLM(GPTJConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)).save_pretrained(tmp_path)
    settings = ModelSettings(path=str(tmp_path), device="cpu")
    with pytest.raises(ConfigError, match=r"known for gemma, .*, not for 'gptj', where a site is a module's path"):
        load(settings, [SITE])
    rows = load(settings, ["transformer.h.0"]).forward(torch.tensor([[1, 2]]))["transformer.h.0"]
    assert rows.shape == (1, 2, 16)


@pytest.mark.parametrize("path", ["/no/such/folder", "no/such/folder", "./missing", "missing.gguf"])
def test_missing_paths(path: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: there is no (folder|file) "):
        load_tokenizer(ModelSettings(path=path))


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"'someone/model' is neither .* the hub cannot be reached; check"):
        describe(ModelSettings(path="someone/model"), [SITE])


def test_hub_model_comes_from_its_snapshot(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    source = Path(settings_of("llama").path)
    snapshot = shutil.copytree(source, source.parent / "snapshots" / commit, dirs_exist_ok=True)
    asked: list[tuple[str, str | None]] = []

    def download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    provenance = describe(ModelSettings(path="someone/model", revision="main"), [SITE]).provenance
    assert (provenance["model"], provenance["revision"]) == ("someone/model", commit)
    assert asked == [("someone/model", "main")]


def test_hub_error_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> str:
        raise OSError("403 gated\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"cannot get 'someone/model' .*403 gated; check .* `hf auth login`$"):
        describe(ModelSettings(path="someone/model"), [SITE])


def test_folder_without_config(copied: ModelSettings) -> None:
    (Path(copied.path) / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"llama has no config\.json; give the folder"):
        load(copied, [SITE])


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "nonesuch"}'])
def test_bad_config(copied: ModelSettings, content: str) -> None:
    (Path(copied.path) / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot read config\.json"):
        load(copied, [SITE])


def test_folder_without_weights(copied: ModelSettings) -> None:
    (Path(copied.path) / "model.safetensors").unlink()
    for function in (describe, load):
        with pytest.raises(ConfigError, match=r"holds no weights; expected model\.safetensors"):
            function(copied, [SITE])


def test_truncated_weights(copied: ModelSettings) -> None:
    weights = Path(copied.path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot read the weights: SafetensorError"):
        load(copied, [SITE])


def test_missing_shard(copied: ModelSettings) -> None:
    folder = Path(copied.path)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"lacks model-1\.safetensors, model-2\.safetensors"):
        load(copied, [SITE])


def test_weights_that_lack_a_tensor_are_not_made_up(copied: ModelSettings) -> None:
    from safetensors.torch import load_file, save_file

    weights = Path(copied.path) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 tensors .*model\.layers\.1\.mlp\.down_proj\.weight"):
        load(copied, ["blocks.1.hook_resid_post"])
    load(copied, ["blocks.0.hook_resid_post"])  # below the hole nothing is missing


def test_weights_of_another_shape(copied: ModelSettings) -> None:
    config = Path(copied.path) / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(content | {"intermediate_size": 64}), encoding="utf-8")
    for function in (describe, load):
        with pytest.raises(
            ConfigError, match=r"3 tensors .*mlp\.down_proj\.weight: \[32, 48\] in the file, \[32, 64\]"
        ):
            function(copied, ["blocks.0.mlp.hook_post"])


def test_a_longest_text_that_is_no_number_is_refused_by_name(copied: ModelSettings) -> None:
    settings = Path(copied.path) / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps(content | {"model_max_length": "x"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="model_max_length is no number"):
        load_tokenizer(copied)


def test_folder_without_tokenizer(copied: ModelSettings) -> None:
    for path in Path(copied.path).glob("*token*"):
        path.unlink()
    with pytest.raises(ConfigError, match="cannot read the tokenizer's files"):
        load_tokenizer(copied)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_bad_device(copied: ModelSettings, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.device: '{device}' is not allowed here; allowed: auto, cpu"):
        load(copied.model_copy(update={"device": device}), [SITE])


def test_damaged_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, or is it?")
    with pytest.raises(ConfigError, match=r"bad\.gguf cannot be read as a causal language model"):
        load_tokenizer(ModelSettings(path=str(tmp_path / "bad.gguf")))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix not in {".lock", ".partial"}]
