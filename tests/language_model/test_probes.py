"""What is assumed of a model is probed: every assumption has a model that breaks it, and real families keep to all."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.probe import PROBES, allowed_difference, assumptions, check_isolation, probe
from strata_sae.pipeline.language_model.sites import FAMILIES, Site
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.settings import ModelSettings

SettingsOf = Callable[..., ModelSettings]
SITE = "blocks.1.hook_resid_post"
PAD = 0  # of the tiny models, and what batches are filled with


def whole(settings: ModelSettings, **changes: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(settings.path, dtype=torch.float32, **changes).eval()


def altered(model: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Capture:
    """The model with what its first layer gives changed by `change(rows [B, S, M], token ids [B, S])`."""
    seen: list[Tensor] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.model.layers[0].register_forward_hook(lambda module, args, output: change(output, seen[-1]))
    return Capture(model, [Site(SITE, "model.layers.1", "output")])


def _dropout(settings: ModelSettings) -> Capture:
    model = whole(settings, attention_dropout=0.5)
    return Capture(model.train(), [Site(SITE, "model.layers.1", "output")])


def _overflow(settings: ModelSettings) -> Capture:
    model = whole(settings).to(torch.float16)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e6)
    return Capture(model, [Site(SITE, "model.layers.1", "output")])


def _skips_padding_in_positions(settings: ModelSettings) -> Capture:
    model = whole(settings)
    plain = model.forward

    def forward(input_ids: Tensor, position_ids: Tensor | None = None, **rest: Any) -> Any:
        if position_ids is None:
            position_ids = ((input_ids != PAD).cumsum(dim=1) - 1).clamp(min=0)
        return plain(input_ids=input_ids, position_ids=position_ids, **rest)

    model.forward = forward
    return Capture(model, [Site(SITE, "model.layers.1", "output")])


def _joins_documents(settings: ModelSettings) -> Capture:
    model = whole(settings)
    plain = model.forward
    model.forward = lambda input_ids, position_ids=None, **rest: plain(input_ids=input_ids, **rest)
    return Capture(model, [Site(SITE, "model.layers.1", "output")])


VIOLATORS: dict[str, Callable[[ModelSettings], Capture]] = {
    "repeated": _dropout,
    "finite": _overflow,
    "neighbours": lambda settings: altered(whole(settings), lambda rows, ids: rows - 0.1 * rows.mean(0, keepdim=True)),
    "batch size": lambda settings: altered(whole(settings), lambda rows, ids: rows + 0.1 * (len(rows) - 1)),
    "causal": lambda settings: altered(whole(settings), lambda rows, ids: rows + 0.1 * rows.roll(-1, dims=1)),
    "padding": lambda settings: altered(
        whole(settings), lambda rows, ids: rows + 0.1 * (ids == PAD).sum(1)[:, None, None]
    ),
    "positions": _skips_padding_in_positions,
    "isolation": _joins_documents,
}


def test_every_assumption_has_a_model_that_breaks_it() -> None:
    assert set(VIOLATORS) == set(PROBES)


@pytest.mark.parametrize("name", PROBES)
def test_a_model_that_breaks_an_assumption_is_refused_by_its_name(name: str, settings_of: SettingsOf) -> None:
    capture = VIOLATORS[name](settings_of("llama"))
    with pytest.raises(ConfigError) as caught:
        check_isolation(capture) if name == "isolation" else probe(capture)
    message = str(caught.value)
    assert PROBES[name].failure in message
    assert message.startswith(f"{PROBES[name].key}: ")
    assert SITE in message
    assert "\n" not in message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_families_keep_to_all(model_type: str, dtype: str, settings_of: SettingsOf) -> None:
    sites = ["blocks.0.hook_attn_out", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post"]
    capture = load(settings_of(model_type, dtype=dtype), sites)
    for name, one in PROBES.items():
        errors = one.measure(capture)
        assert set(errors) == set(sites), name
        assert max(errors.values()) <= allowed_difference(name, dtype), name


def test_loading_probes_the_model(settings_of: SettingsOf, tmp_path: Path) -> None:
    folder = shutil.copytree(settings_of("llama").path, tmp_path / "loud")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][299] = 1e7  # of a token that no probe holds
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = ModelSettings(path=str(folder), device="cpu")
    with pytest.raises(ConfigError, match=r"model\.dtype: this model's weights or rows hold infinities or NaN"):
        load(settings.model_copy(update={"dtype": "float16"}), [SITE])
    load(settings, [SITE])  # the control: float32 holds these numbers


@pytest.mark.parametrize(("is_decoder", "refused"), [(False, True), (True, False)])
def test_an_encoder_that_goes_by_the_name_of_a_causal_model_is_refused(
    is_decoder: bool, refused: bool, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    with quiet():
        model = BertLMHeadModel(BertConfig(vocab_size=300, is_decoder=is_decoder, **sizes))
        model.save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        settings = ModelSettings(path=str(tmp_path), device="cpu", dtype=dtype)
        if refused:
            with pytest.raises(ConfigError, match="depends on the tokens after it"):
                load(settings, ["bert.encoder.layer.1"])
        else:
            load(settings, ["bert.encoder.layer.1"])


def test_a_plan_lists_what_is_assumed() -> None:
    assert assumptions("float32", isolated=True).keys() == PROBES.keys()
    assert assumptions("float32", isolated=False).keys() == PROBES.keys() - {"isolation"}
    assert assumptions("bfloat16", isolated=False)["repeated"] == 0.0


def test_a_forward_pass_that_fails_is_one_line(settings_of: SettingsOf) -> None:
    def fails(rows: Tensor, ids: Tensor) -> Tensor:
        raise RuntimeError('"addmm" not implemented for this type\nsecond line')

    with pytest.raises(ConfigError, match=r"a forward pass of a few tokens fails: RuntimeError: .* try another"):
        probe(altered(whole(settings_of("llama")), fails))
