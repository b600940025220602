"""A model without its weights: which modules run, in which order, and how wide each site is."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.pipeline.language_model.capture import attach, rows_per_position
from strata_sae.pipeline.language_model.sites import Site, site_of
from strata_sae.pipeline.language_model.transformers_library import CausalModel, ModelConfig


@dataclass(frozen=True)
class Survey:
    """The sites in order of execution, their widths, and the modules that the deepest of them needs."""

    sites: tuple[Site, ...]
    widths: dict[str, int]
    entered: frozenset[str]
    """Paths of the modules that start to run before the deepest site is reached, or at it; of a whole model, of all."""
    module_paths: frozenset[str]
    """Paths of all modules of the whole model."""
    tied: dict[str, str]
    """Parameters that the config declares to be one tensor: the later name -> the one it is a copy of."""
    model_class: type[CausalModel]
    attention: str

    @property
    def architecture(self) -> str:
        """The name of the model's class in transformers."""
        return self.model_class.__name__


def survey(config: ModelConfig, site_names: Sequence[str], *, trust_remote_code: bool, whole: bool = False) -> Survey:
    """Run the model that `config` describes without weights: shapes, no numbers, no memory.

    Args:
        whole: all modules that run are needed, not only those up to the deepest site.

    Raises: ConfigError for a site that does not exist, does not run, runs twice, or is not one row per token.

    """
    with weightless():
        model = build(config, trust_remote_code=trust_remote_code)
        forget_padding(model)
        module_paths = [path for path, _ in model.named_modules() if path]
        sites = [site_of(model, name) for name in dict.fromkeys(site_names)]
        entered, values = _run(model, sites)
    order = [site for site, _, _ in values]
    for site in sites:
        if order.count(site) != 1:
            raise ConfigError(
                f"store.sites: {site.name!r}: {site.module_path} runs {order.count(site)} times in a forward pass "
                f"over text; name a module that runs once"
            )
    _, _, n_entered = values[-1]
    return Survey(
        sites=tuple(order),
        widths={site.name: width for site, width, _ in values},
        entered=frozenset(entered if whole else entered[:n_entered]) | {order[-1].module_path},
        module_paths=frozenset(module_paths),
        tied=dict(getattr(model, "all_tied_weights_keys", None) or {}),
        model_class=type(model),
        attention=str(model.config._attn_implementation),
    )


def _run(model: CausalModel, sites: Sequence[Site]) -> tuple[list[str], list[tuple[Site, int, int]]]:
    """The modules in the order they start, and (site, width, modules started so far) in the order of capture."""
    token_ids_BS = torch.zeros(2, 3, dtype=torch.long)
    entered: list[str] = []
    values: list[tuple[Site, int, int]] = []

    def receive(site: Site, value: Tensor) -> None:
        values.append((site, rows_per_position(value, site, token_ids_BS.shape).shape[-1], len(entered)))

    def note(path: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda *_: entered.append(path))

    for path, module in model.named_modules():
        note(path, module)
    attach(model, sites, receive)
    try:
        with torch.inference_mode():
            model(input_ids=token_ids_BS, use_cache=False)
    except ConfigError:
        raise
    except Exception as error:  # a model's code may raise anything
        raise ConfigError(
            f"model.path: a forward pass of {type(model).__name__} in {str(model.config.dtype).removeprefix('torch.')} "
            f"fails: {type(error).__name__}: {first_line(error)}"
        ) from error
    return entered, values


def forget_padding(model: CausalModel) -> None:
    """Take the padding token out of the config of a built model.

    Some models (GPT-2) search every batch for it, to warn that no mask was passed. The search needs values, which a
    model without weights lacks and a GPU has to wait for; and no mask is needed (see `Capture.forward`).
    """
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = None


def cut_above(model: CausalModel, found: Survey) -> None:
    """Delete, in place, what cannot run before the deepest site: later layers, final norm, head, an image encoder.

    Only along the path from the root to the list of layers: inside a layer a module that did not run for some tokens
    may run for others (experts).
    """
    steps = (path.split(".") for path in found.entered)
    needed = {".".join(names[:end]) for names in steps for end in range(1, len(names) + 1)}
    parent, prefix = model.get_submodule(""), ""
    for step in found.sites[-1].module_path.split("."):
        if isinstance(parent, nn.ModuleList):
            while f"{prefix}{len(parent) - 1}" not in needed:
                del parent[len(parent) - 1]
            return
        for name, _ in list(parent.named_children()):
            if f"{prefix}{name}" not in needed:
                delattr(parent, name)
        parent, prefix = getattr(parent, step), f"{prefix}{step}."


def cut_beside(model: CausalModel, found: Survey) -> None:
    """Delete, in place, every module that is neither one of `found.entered` nor holds one."""
    _delete_others(model, "", tuple(found.entered))


def _delete_others(parent: nn.Module, prefix: str, needed: tuple[str, ...]) -> None:
    for name, child in list(parent.named_children()):
        path = f"{prefix}{name}"
        if path in needed:
            continue
        if any(one.startswith(f"{path}.") for one in needed):
            _delete_others(child, f"{path}.", needed)
        elif isinstance(child, nn.ModuleList):
            del child[:]  # classes look into their lists of blocks while they are filled
        else:
            delattr(parent, name)


MAX_MODULES = 400_000
"""Modules a model may have. 61 layers of 384 experts, a module for each of three matrices, come to 94,000."""


@contextmanager
def weightless() -> Iterator[None]:
    """Within the block, tensors are made with a shape and a dtype and no content; what needs content raises.

    They are not on the meta device but on the CPU, where models make the tensors that they combine with their weights;
    and transformers recognises them and skips its checks of values.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers.initialization import no_init_weights

    logger = logging.getLogger("torch._subclasses.fake_tensor")  # prints the traceback of what it raises
    disabled, logger.disabled = logger.disabled, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights():
            yield
    finally:
        logger.disabled = disabled


def build(config: ModelConfig, *, trust_remote_code: bool) -> CausalModel:
    """The causal language model that `config` describes, in eval mode; call it within `weightless`.

    Raises: ConfigError if transformers has no such model, or the config describes none that can be built.
    """
    from transformers import AutoModelForCausalLM

    _check_causal(config)
    config = copy.deepcopy(config)  # the model keeps this config, which is changed below
    for part in (config, config.get_text_config()):
        # How experts are grouped changes speed, not shapes; the shapes of this form do not depend on the routing.
        part._experts_implementation = "batched_mm"
    try:
        with _bounded_modules():
            model: CausalModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).eval()
            return model
    except ConfigError:
        raise
    except Exception as error:  # a model's own code may raise anything where its config makes no sense
        raise ConfigError(
            f"model.path: config.json describes a {config.model_type} model that cannot be built: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _check_causal(config: ModelConfig) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    own_code, architectures = (getattr(config, name, None) for name in ("auto_map", "architectures"))
    brings_code = isinstance(own_code, dict) and "AutoModelForCausalLM" in own_code
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not brings_code:
        named = ", ".join(map(str, architectures if isinstance(architectures, list) else [])) or "no architecture"
        raise ConfigError(
            f"model.path: a {config.model_type} model ({named} in config.json) is not a causal language model in "
            f"transformers, and rows are taken from causal language models over plain text; choose one of those "
            f"(of a model of text and images, the folder of its language model)"
        )


@contextmanager
def _bounded_modules() -> Iterator[None]:
    """Raises: ConfigError when more modules are made than any model has: the config's numbers are wrong."""
    n_modules = 0

    def count(parent: nn.Module, name: str, module: nn.Module) -> None:
        nonlocal n_modules
        n_modules += 1
        if n_modules > MAX_MODULES:
            raise ConfigError(
                f"model.path: config.json describes a model of more than {MAX_MODULES:,} modules; "
                f"check its numbers of layers and experts"
            )

    handle = nn.modules.module.register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
