"""Widths and provenance, without weights in memory."""

import getpass
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strata_sae.pipeline.input_files import file_sha256
from strata_sae.pipeline.language_model.loading import describe, load, load_tokenizer
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]
FAMILIES = ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3", "opt"]
GROUPED = [model_type for model_type in FAMILIES if model_type not in ("gpt2", "gpt_neox", "opt")]  # 2 of 4 heads share
KINDS = ("hook_resid_pre", "hook_attn_out", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")
KINDS += ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
SITES = [f"blocks.{layer}.{kind}" for layer in range(2) for kind in KINDS]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_widths_are_those_of_the_captured_rows(model_type: str, settings_of: SettingsOf) -> None:
    settings = settings_of(model_type, dtype="bfloat16")
    captured = load(settings, SITES).forward(torch.ones(1, 4, dtype=torch.long))
    description = describe(settings, SITES)
    widths = description.widths
    assert description.max_positions == 64
    assert list(widths) == SITES
    assert widths == {name: value.shape[-1] for name, value in captured.items()}
    assert set(widths.values()) == {32, 48} | ({16} if model_type in GROUPED else set())
    assert widths["blocks.1.attn.hook_q"] == widths["blocks.1.attn.hook_z"] == 32
    assert widths["blocks.1.attn.hook_k"] == widths["blocks.1.attn.hook_v"] == (16 if model_type in GROUPED else 32)


def test_a_plan_says_which_part_of_a_fused_projection_a_site_is(settings_of: SettingsOf) -> None:
    sites = ["blocks.1.attn.hook_k", "blocks.1.attn.hook_z"]
    found = {family: describe(settings_of(family), sites).provenance["hooks"] for family in ("gpt2", "gpt_neox", "opt")}
    assert found == {
        "gpt2": {
            sites[0]: "output of transformer.h.1.attn.c_attn, part 2 of 3",
            sites[1]: "input of transformer.h.1.attn.c_proj",
        },
        "gpt_neox": {
            sites[0]: "output of gpt_neox.layers.1.attention.query_key_value, part 2 of 3 of each of 4 heads",
            sites[1]: "input of gpt_neox.layers.1.attention.dense",
        },
        "opt": {
            sites[0]: "output of model.decoder.layers.1.self_attn.k_proj",
            sites[1]: "input of model.decoder.layers.1.self_attn.out_proj",
        },
    }


def test_widths_of_explicit_paths(settings_of: SettingsOf) -> None:
    sites = ["model.layers.1.mlp.gate_proj", "model.embed_tokens", "lm_head", "model.layers.0.mlp.down_proj.input"]
    assert list(describe(settings_of("llama"), sites).widths.values()) == [48, 32, 300, 48]


def test_weights_are_not_loaded(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)
    assert describe(settings_of("llama"), SITES).widths["blocks.0.hook_resid_post"] == 32
    with pytest.raises(Exception, match="the weights were loaded"):  # the control: this is how weights are loaded
        load(settings_of("llama"), SITES)


def test_provenance_names_files_and_versions(settings_of: SettingsOf) -> None:
    settings = settings_of("gemma2", dtype="bfloat16")
    folder = Path(settings.path)
    provenance = describe(settings, SITES).provenance
    weights, tokenizer, software = (provenance[name] for name in ("weights_sha256", "tokenizer", "software"))
    assert provenance["model"] == "gemma2"
    assert provenance["architecture"] == "Gemma2ForCausalLM"
    assert provenance["attention"] == "eager"  # Gemma 2 caps attention logits, which sdpa cannot
    assert provenance["dtype"] == "bfloat16"
    assert provenance["weight_files_sha256"] == {"model.safetensors": file_sha256(folder / "model.safetensors")}
    assert provenance["config_sha256"] == file_sha256(folder / "config.json")
    assert len(weights) == len(tokenizer["tokenizer_sha256"]) == len(tokenizer["chat_template_sha256"]) == 64
    assert (tokenizer["bos_token_id"], tokenizer["eos_token_id"]) == (0, 0)
    assert software["torch"] == torch.__version__
    assert provenance["hooks"]["blocks.1.hook_mlp_out"] == "output of model.layers.1.post_feedforward_layernorm"


def test_provenance_is_the_same_anywhere_and_private(settings_of: SettingsOf, tmp_path: Path) -> None:
    original = Path(settings_of("llama").path)
    copy = shutil.copytree(original, tmp_path / "home" / "llama")
    records = [
        json.dumps(describe(ModelSettings(path=str(path), device="cpu"), SITES).provenance, sort_keys=True)
        for path in (original, copy)
    ]
    assert records[0] == records[1]
    assert str(tmp_path) not in records[0]
    assert "/" not in records[0]
    assert getpass.getuser() not in json.loads(records[0])["model"]


def test_provenance_sees_changed_weights(settings_of: SettingsOf, tmp_path: Path) -> None:
    copy = shutil.copytree(settings_of("llama").path, tmp_path / "llama")
    settings = ModelSettings(path=str(copy))
    before = describe(settings, SITES).provenance["weights_sha256"]
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert describe(settings, SITES).provenance["weights_sha256"] != before


def test_sharded_weights_are_hashed_one_by_one(settings_of: SettingsOf, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = settings_of("llama")
    model = AutoModelForCausalLM.from_pretrained(settings.path)
    shutil.copytree(settings.path, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "m", max_shard_size="40KB")
    sharded = ModelSettings(path=str(tmp_path / "m"), device="cpu")
    assert len(describe(sharded, SITES).provenance["weight_files_sha256"]) > 1
    token_ids_BS = torch.tensor([[1, 2, 3]])
    whole, parts = (load(which, SITES).forward(token_ids_BS) for which in (settings, sharded))
    assert all(torch.equal(whole[name], parts[name]) for name in SITES)


def test_older_weight_files_are_read_too(settings_of: SettingsOf, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = settings_of("opt")
    folder = shutil.copytree(settings.path, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(Path(settings.path) / "model.safetensors"), folder / "pytorch_model.bin")
    older = ModelSettings(path=str(folder), device="cpu")
    assert list(describe(older, SITES).provenance["weight_files_sha256"]) == ["pytorch_model.bin"]
    rows, expected = (load(which, SITES).forward(torch.tensor([[1, 2, 3]])) for which in (older, settings))
    assert all(torch.equal(rows[name], expected[name]) for name in SITES)


def test_importing_the_package_does_not_import_transformers() -> None:
    code = "import sys, strata_sae.pipeline.language_model; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_printed_or_logged(
    settings_of: SettingsOf, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging

    settings = settings_of("gpt2")
    logging.set_verbosity_warning()
    logging.warning_once.cache_clear()
    logging.add_handler(caplog.handler)  # its loggers do not propagate
    before = logging.WARNING, logging.is_progress_bar_enabled()
    capfd.readouterr()
    try:
        describe(settings, SITES)
        load(settings, SITES).forward(torch.zeros(2, 4, dtype=torch.long))
        load_tokenizer(settings)
    finally:
        logging.remove_handler(caplog.handler)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
