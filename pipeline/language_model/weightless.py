"""A model of shapes without numbers: what a plan is made from, in no memory and before any weight is read."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.quiet import first_line

MAX_MODULES = 400_000
"""Modules a model may have. 61 layers of 384 experts, a module for each of three matrices, come to 94,000."""


@contextmanager
def weightless() -> Iterator[None]:
    """Tensors made here have a shape and a dtype and no content; what would need content raises.

    Not the meta device: these tensors say that they are on the CPU, which is where models make the tensors that they
    combine with their weights, and transformers knows them and leaves out its looks at values.
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


def build(config: Any, *, trust_remote_code: bool) -> Any:
    """The causal language model that `config` (a transformers config) describes, in eval mode; made in `weightless`.

    Raises: ConfigError if transformers has no such model, or the config describes none that can be built.
    """
    from transformers import AutoModelForCausalLM

    _check_causal(config)
    config = copy.deepcopy(config)  # a model keeps its config, and this one is about to change
    for part in (config, config.get_text_config()):
        # How experts are grouped decides speed, not shapes; this is the form whose shapes do not hang on the routing.
        part._experts_implementation = "batched_mm"
    try:
        with _bounded_modules():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).eval()
    except ConfigError:
        raise
    except Exception as error:  # a model's own code may raise anything where its config makes no sense
        raise ConfigError(
            f"model.path: config.json describes a {config.model_type} model that cannot be built: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _check_causal(config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    own_code, architectures = (getattr(config, name, None) for name in ("auto_map", "architectures"))
    brings_code = isinstance(own_code, dict) and "AutoModelForCausalLM" in own_code
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not brings_code:
        named = ", ".join(map(str, architectures if isinstance(architectures, list) else [])) or "no architecture"
        raise ConfigError(
            f"model.path: a {config.model_type} model ({named} in config.json) is not a causal language model to "
            f"transformers, and rows are taken from causal language models over plain text; choose one of those "
            f"(of a model of text and images, the folder of its language model)"
        )


@contextmanager
def _bounded_modules() -> Iterator[None]:
    """Raises: ConfigError once more modules have been made than any model has: the config's numbers are absurd."""
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
