"""What `Capture` gives is what a plain forward hook on the whole, untouched model gives, to the last bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.sites import FAMILIES, Site
from strata_sae.pipeline.language_model.transformers_library import quiet
from strata_sae.pipeline.settings import ModelSettings

N_LAYERS = 3
SettingsOf = Callable[..., ModelSettings]

# Written by hand from the model code, apart from the table under test.
LAYERS_OF: dict[str, Callable[[Any], nn.ModuleList]] = {
    "gpt2": lambda model: model.transformer.h,
    "gpt_neox": lambda model: model.gpt_neox.layers,
    "llama": lambda model: model.model.layers,
    "mistral": lambda model: model.model.layers,
    "qwen2": lambda model: model.model.layers,
    "qwen3": lambda model: model.model.layers,
    "gemma": lambda model: model.model.layers,
    "gemma2": lambda model: model.model.layers,
    "gemma3_text": lambda model: model.model.layers,
    "gemma3": lambda model: model.model.language_model.layers,
    "opt": lambda model: model.model.decoder.layers,
}
_GEMMA2 = (
    lambda layer: layer.post_attention_layernorm,
    lambda layer: layer.post_feedforward_layernorm,
    lambda layer: layer.mlp.down_proj,
)
PARTS_OF: dict[str, tuple[Callable[[Any], nn.Module], ...]] = {  # attn_out, mlp_out, module that reads mlp.hook_post
    "gpt2": (lambda layer: layer.attn, lambda layer: layer.mlp, lambda layer: layer.mlp.c_proj),
    "gpt_neox": (lambda layer: layer.attention, lambda layer: layer.mlp, lambda layer: layer.mlp.dense_4h_to_h),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": _GEMMA2,
    "opt": (lambda layer: layer.self_attn, lambda layer: layer.fc2, lambda layer: layer.fc2),
}
_PLAIN_PARTS = (lambda layer: layer.self_attn, lambda layer: layer.mlp, lambda layer: layer.mlp.down_proj)
# The module that reads attn.hook_z, and those that give queries, keys and values; none where one gives all three.
ATTENTION_OF: dict[str, Callable[[Any], tuple[nn.Module, tuple[nn.Module, ...]]]] = {
    "gpt2": lambda layer: (layer.attn.c_proj, (layer.attn.c_attn,)),
    "gpt_neox": lambda layer: (layer.attention.dense, (layer.attention.query_key_value,)),
    "opt": lambda layer: (layer.self_attn.out_proj, _projections(layer)),
}
HEADS = 4


def _projections(layer: Any) -> tuple[nn.Module, ...]:
    return layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj


def unfused(model_type: str, value: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of a fused projection's output, as transformers' own code takes them apart."""
    if model_type == "gpt2":
        return value.split(value.shape[-1] // 3, dim=2)
    by_head = value.view(*value.shape[:2], HEADS, -1)
    return tuple(part.flatten(2) for part in by_head.chunk(3, dim=-1))


ATTENTION_KINDS = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
KINDS = (*("hook_resid_pre", *ATTENTION_KINDS, "hook_attn_out"), *("mlp.hook_post", "hook_mlp_out", "hook_resid_post"))
ALL_SITES = [f"blocks.{layer}.{kind}" for layer in range(N_LAYERS) for kind in KINDS]


def whole_model(settings: ModelSettings) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(settings.path, dtype=getattr(torch, settings.dtype)).eval()


def tokens(shape: tuple[int, int] = (2, 7)) -> Tensor:
    return torch.randint(1, 300, shape, generator=torch.Generator().manual_seed(1))


def hooked(model: Any, model_type: str, token_ids_BS: Tensor) -> dict[str, Tensor]:
    """Every site of every layer, by plain hooks."""
    B, S = token_ids_BS.shape
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        seen[name] = value.detach().reshape(B, S, -1).clone()

    def keep_output(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda module, args, output: keep(name, output))

    def keep_input(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda module, args: keep(name, args[0]))

    attn_out, mlp_out, mlp_down = PARTS_OF.get(model_type, _PLAIN_PARTS)
    for index, layer in enumerate(LAYERS_OF[model_type](model)):
        keep_input(f"blocks.{index}.hook_resid_pre", layer)
        keep_output(f"blocks.{index}.hook_resid_post", layer)
        keep_output(f"blocks.{index}.hook_attn_out", attn_out(layer))
        keep_output(f"blocks.{index}.hook_mlp_out", mlp_out(layer))
        keep_input(f"blocks.{index}.mlp.hook_post", mlp_down(layer))
        reads_z, projections = ATTENTION_OF.get(
            model_type, lambda layer: (layer.self_attn.o_proj, _projections(layer))
        )(layer)
        keep_input(f"blocks.{index}.attn.hook_z", reads_z)
        for name, module in zip(ATTENTION_KINDS, projections, strict=False):
            keep_output(f"blocks.{index}.{name}", module)
    with torch.inference_mode():
        model(input_ids=token_ids_BS)
    if model_type in ("gpt2", "gpt_neox"):
        for index in range(N_LAYERS):
            parts = unfused(model_type, seen[f"blocks.{index}.attn.hook_q"])
            seen |= {f"blocks.{index}.{name}": part for name, part in zip(ATTENTION_KINDS, parts, strict=False)}
    return seen


def count_forwards(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_every_family_of_the_table_is_tested() -> None:
    assert set(FAMILIES) == set(LAYERS_OF)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", sorted(LAYERS_OF))
def test_every_site_equals_a_plain_hook(model_type: str, dtype: str, settings_of: SettingsOf) -> None:
    settings = settings_of(model_type, dtype=dtype)
    expected = hooked(whole_model(settings), model_type, tokens())

    captured = load(settings, ALL_SITES).forward(tokens())

    assert captured.keys() == set(ALL_SITES)
    for name in ALL_SITES:
        assert captured[name].dtype == getattr(torch, dtype), name
        assert torch.equal(captured[name], expected[name]), name
        # The control: the neighbouring layer's rows are not these rows.
        layer, kind = int(name[7]), name[9:]
        assert not torch.equal(captured[name], expected[f"blocks.{(layer + 1) % N_LAYERS}.{kind}"]), name


@pytest.mark.parametrize("model_type", sorted(LAYERS_OF))
def test_cut_model_gives_the_rows_of_the_whole_one(model_type: str, settings_of: SettingsOf) -> None:
    settings = settings_of(model_type)
    model = whole_model(settings)
    sites = ["blocks.1.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.1.hook_attn_out"]
    capture = load(settings, sites)
    expected = hooked(model, model_type, tokens())

    captured = capture.forward(tokens())

    assert all(torch.equal(captured[name], expected[name]) for name in sites)
    last_layer = sum(p.numel() for p in LAYERS_OF[model_type](model)[-1].parameters())
    assert sum(p.numel() for p in capture.model.parameters()) <= sum(p.numel() for p in model.parameters()) - last_layer


@pytest.mark.parametrize("model_type", sorted(LAYERS_OF))
def test_resid_post_is_hidden_states_of_transformers(model_type: str, settings_of: SettingsOf) -> None:
    settings = settings_of(model_type)
    with torch.inference_mode():
        hidden_states = whole_model(settings)(input_ids=tokens(), output_hidden_states=True).hidden_states

    captured = load(settings, ALL_SITES).forward(tokens())

    for layer in range(N_LAYERS - 1):
        assert torch.equal(captured[f"blocks.{layer}.hook_resid_post"], hidden_states[layer + 1])
        assert torch.equal(captured[f"blocks.{layer + 1}.hook_resid_pre"], hidden_states[layer + 1])


def test_gemma2_outputs_are_taken_after_the_norms(settings_of: SettingsOf) -> None:
    sites = ["blocks.1.hook_mlp_out", "model.layers.1.mlp"]
    captured = load(settings_of("gemma2"), sites).forward(tokens())
    assert not torch.equal(*captured.values())


def test_explicit_paths_equal_the_sites_they_spell(settings_of: SettingsOf) -> None:
    pairs = {
        "transformer.h.1": "blocks.1.hook_resid_post",
        "transformer.h.1.input": "blocks.1.hook_resid_pre",
        "transformer.h.1.mlp.c_proj.input": "blocks.1.mlp.hook_post",
        "transformer.h.1.attn": "blocks.1.hook_attn_out",
    }
    captured = load(settings_of("gpt2"), [*pairs, *pairs.values()]).forward(tokens())
    assert all(torch.equal(captured[path], captured[name]) for path, name in pairs.items())


def test_input_given_by_keyword_is_found(settings_of: SettingsOf) -> None:
    settings = settings_of("opt")  # calls self_attn(hidden_states=...)
    captured = load(settings, ["model.decoder.layers.1.self_attn.input"]).forward(tokens())
    seen: list[Tensor] = []
    model = whole_model(settings)
    model.model.decoder.layers[1].self_attn_layer_norm.register_forward_hook(lambda m, a, output: seen.append(output))
    with torch.inference_mode():
        model(input_ids=tokens())
    assert torch.equal(captured["model.decoder.layers.1.self_attn.input"], seen[0])


@pytest.mark.parametrize("site", ["model.embed_tokens", "model.norm", "lm_head", "model.layers.0.self_attn.o_proj"])
def test_sites_outside_the_layers(site: str, settings_of: SettingsOf) -> None:
    settings = settings_of("llama")
    model = whole_model(settings)
    seen: list[Tensor] = []
    model.get_submodule(site).register_forward_hook(lambda m, a, output: seen.append(output))
    with torch.inference_mode():
        model(input_ids=tokens())
    assert torch.equal(load(settings, [site]).forward(tokens())[site], seen[0])


def test_many_sites_cost_one_forward_pass(settings_of: SettingsOf) -> None:
    capture = load(settings_of("llama"), ["blocks.0.mlp.hook_post", "blocks.2.hook_resid_post"])
    roots, layers = count_forwards(capture.model), count_forwards(capture.model.model.layers[0])
    for n_passes in (1, 2):
        captured = capture.forward(tokens())
        assert (len(roots), len(layers)) == (n_passes, n_passes)
    assert {name: value.shape[-1] for name, value in captured.items()} == {
        "blocks.0.mlp.hook_post": 48,
        "blocks.2.hook_resid_post": 32,
    }


def test_forward_stops_after_the_deepest_site(settings_of: SettingsOf) -> None:
    model = whole_model(settings_of("llama"))
    this, following = count_forwards(model.model.layers[1]), count_forwards(model.model.layers[2])
    Capture(model, [Site("here", "model.layers.1", "output")]).forward(tokens())
    assert (len(this), len(following)) == (1, 0)


def test_what_lies_above_is_freed(settings_of: SettingsOf) -> None:
    capture = load(settings_of("gemma3"), ["blocks.1.hook_resid_pre"])
    left = {path for path, _ in capture.model.named_modules()}
    assert "model.language_model.layers.0.mlp.down_proj" in left
    assert not {"lm_head", "model.language_model.norm", "model.vision_tower"} & left
    assert "model.language_model.layers.2" not in left
    assert not any(rows.requires_grad for rows in capture.forward(tokens()).values())
    assert not any(module.training for module in capture.model.modules())


@pytest.mark.parametrize("model_type", sorted(LAYERS_OF))
def test_right_padding_changes_nothing(model_type: str, settings_of: SettingsOf) -> None:
    capture = load(settings_of(model_type), ALL_SITES)
    batch_BS = tokens((3, 9))
    others_BS = batch_BS.clone()
    others_BS[:, 5:] = 0  # the pad token of these models
    rows, padded_rows = capture.forward(batch_BS), capture.forward(others_BS)
    alone = capture.forward(batch_BS[:1, :5])
    for name in ALL_SITES:
        assert torch.equal(rows[name][:, :5], padded_rows[name][:, :5]), name
        assert not torch.equal(rows[name][:, 5:], padded_rows[name][:, 5:]), name
        torch.testing.assert_close(rows[name][:1, :5], alone[name], msg=name)
    # The control: padding on the left is seen.
    left = capture.forward(torch.cat([torch.zeros(1, 2, dtype=torch.long), batch_BS[:1, :5]], dim=1))
    assert not torch.allclose(left[ALL_SITES[-1]][:, 2:], alone[ALL_SITES[-1]], atol=1e-3)


def test_captured_rows_outlive_in_place_changes() -> None:
    class AddsInPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.layer = nn.Linear(4, 4)

        def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
            hidden = self.embed(input_ids)
            hidden += 1.0
            return self.layer(hidden)

    model = AddsInPlace().requires_grad_(False)
    sites = [Site("embed", "embed", "output"), Site("layer", "layer", "output")]
    token_ids_BS = torch.tensor([[1, 2]])
    assert torch.equal(Capture(model, sites).forward(token_ids_BS)["embed"], model.embed.weight[token_ids_BS])
