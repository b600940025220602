"""A model's head: its final norm and its unembedding, found without weights and read without those of the blocks."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.language_model.loading import config_from
from strata_sae.pipeline.language_model.survey import Survey, build, forget_padding, weightless
from strata_sae.pipeline.language_model.transformers_library import CausalModel, ModelConfig, quiet
from strata_sae.pipeline.language_model.weights import parts_of
from strata_sae.pipeline.settings import ModelSettings

KEY = "store.unembedding"
_AFTER_W_U = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
"""Keys of config.json by which families change logits after the unembedding: Gemma 2, Granite, Cohere, Falcon H1."""


class FoundHead(NamedTuple):
    """Where the head of a model lies, and how large it is."""

    survey: Survey
    unembedding: str
    """Path of the module."""
    norm: str | None
    """Path of the final norm; None: there is none."""
    n_tokens: int
    width: int
    left_out: str
    """What the model does between the norm and the logits beyond W_U; empty where that is nothing."""


class ReadHead(NamedTuple):
    """The numbers of a head."""

    W_U: Tensor
    """[V, M], in the dtype that the model runs in."""
    norm_weight: Tensor
    """float32 [M], as it multiplies."""
    norm: str
    """`rms`, `layer` or `none`."""
    eps: float


def find_head(settings: ModelSettings) -> FoundHead:
    """The head of a model, from its config alone.

    Raises: ConfigError where other weights lie between the last block and the unembedding than those of one norm.
    """
    config = config_from(model_folder(settings).path, settings)
    with quiet(), weightless():
        model = build(config, trust_remote_code=settings.trust_remote_code)
        forget_padding(model)
        paths = {module: path for path, module in model.named_modules()}
        head = model.get_output_embeddings()
        if head is None or head not in paths or not hasattr(head, "weight"):
            raise _unlike(model, "no module turns rows into logits")
        order = _weighted(model, paths)
        n_tokens, width = head.weight.shape
        bias = getattr(head, "bias", None) is not None
    at = order.index(paths[head]) if paths[head] in order else len(order)
    after = [path for path in order[:at] if not any(step.isdigit() for step in path.split("."))]
    last_block = max((place for place, path in enumerate(order[:at]) if path not in after), default=-1)
    between = order[last_block + 1 : at]
    if len(between) > 1:
        raise _unlike(model, f"{', '.join(between)} lie between its last block and its unembedding")
    norm = between[0] if between else None
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    source = tied.get(f"{paths[head]}.weight")
    needed = {paths[head], norm, source.removesuffix(".weight") if source else None} - {None}
    survey = Survey(
        sites=(),
        widths={},
        entered=frozenset(path for path in needed if path is not None),
        module_paths=frozenset(path for path in paths.values() if path),
        tied=tied,
        model_class=type(model),
        attention=str(model.config._attn_implementation),
    )
    return FoundHead(survey, paths[head], norm, n_tokens, width, _left_out(config, bias))


def _weighted(model: CausalModel, paths: dict[nn.Module, str]) -> list[str]:
    """The modules with weights of their own, in the order in which they run over text."""
    order: list[str] = []

    def note(module: nn.Module, *_: object) -> None:
        order.append(paths[module])

    for module in paths:
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(note)
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=False)
    return order


def _left_out(config: ModelConfig, bias: bool) -> str:
    set_to = {key: getattr(config.get_text_config(), key, None) for key in _AFTER_W_U}
    said = [f"{key} {value:g}" for key, value in set_to.items() if isinstance(value, int | float) and value != 1]
    return ", ".join([*said, *(["the bias of the unembedding"] if bias else [])])


def read_head(settings: ModelSettings, found: FoundHead) -> ReadHead:
    """The head's weights; of a safetensors file no others are read.

    Raises: ConfigError as `load`, or where the final norm is neither an RMSNorm nor a LayerNorm.
    """
    folder = model_folder(settings).path
    config = config_from(folder, settings)
    model = parts_of(folder, settings, config, found.survey)
    W_U = model.get_submodule(found.unembedding).get_parameter("weight").detach()
    if found.norm is None:
        return ReadHead(W_U, torch.ones(found.width), "none", 0.0)
    with torch.inference_mode():
        norm = model.get_submodule(found.norm).float()
        eps = next((float(v) for name in _EPS if isinstance(v := getattr(norm, name, None), int | float)), 0.0)
        kind, weight_M = _measured(norm, found.width) or (None, None)
    if kind is None or weight_M is None:
        raise _unlike(model, f"{found.norm} ({type(norm).__name__}) is neither an RMSNorm nor a LayerNorm")
    return ReadHead(W_U, weight_M, kind, eps)


_EPS = ("variance_epsilon", "eps", "epsilon")


def _measured(norm: nn.Module, width: int) -> tuple[str, Tensor] | None:
    """Kind and weight of a norm, from what it does to rows: families differ in whether they multiply by w or 1 + w.

    The rows are large, so that eps does not count in float32.
    """
    generator = torch.Generator().manual_seed(0)
    rows_BM = (
        1000 * (1 + torch.rand(4, width, generator=generator)) * torch.sign(torch.randn(4, width, generator=generator))
    )
    found_BM, bias_M = norm(rows_BM[None])[0], norm(torch.zeros(1, 1, width))[0, 0]
    own = getattr(norm, "weight", None)
    candidates = [torch.ones(width)] if own is None else [own.float(), 1 + own.float()]
    for kind in ("rms", "layer"):
        centred_BM = rows_BM - rows_BM.mean(1, keepdim=True) if kind == "layer" else rows_BM
        unit_BM = centred_BM / centred_BM.square().mean(1, keepdim=True).sqrt()
        for weight_M in candidates:
            if torch.allclose(unit_BM * weight_M + bias_M, found_BM, rtol=1e-4, atol=1e-5):
                return kind, weight_M.clone()
    return None


def _unlike(model: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f"{KEY}: of {type(model).__name__}, {why}, so promoted tokens cannot be had by one product; set it to false"
    )
