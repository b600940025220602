"""Hooks that read activations out of a model, and a forward pass that stops after the deepest of them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.sites import FAMILIES, Site
from strata_sae.pipeline.language_model.transformers_library import CausalModel

_ATTENTION = ("sdpa", "eager")
# transformers keeps documents apart where position ids start again, except in these models, which build their mask
# without looking at position ids.
_MASK_IGNORES_POSITIONS = ("opt",)

Passed: TypeAlias = "Tensor | NamedOutput | Sequence[Passed] | None"
"""What modules hand to each other; the hidden states are the tensor itself, or the first item."""


@runtime_checkable
class NamedOutput(Protocol):
    """A `ModelOutput` of transformers: a dataclass of tensors."""

    def to_tuple(self) -> tuple[Passed, ...]:
        """The fields that are not None, in order."""


class _DeepestSiteReached(Exception):
    """Ends a forward pass: everything asked for is captured."""


def main_tensor(value: Passed, site: Site) -> Tensor:
    """The tensor itself, or the first of a tuple or of a model output, where layers put their hidden states.

    Raises: ConfigError naming the site where there is no such tensor.
    """
    found = value.to_tuple() if not isinstance(value, Tensor) and isinstance(value, NamedOutput) else value
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"{site.named_in}: {site.name!r}: the {site.side} of {site.module_path} is a {type(found).__name__}, not a "
            f"tensor; name a module that gives activations of shape [batch, position, width]"
        )
    return found


def read_part(value: Tensor, site: Site) -> Tensor:
    """The site's part of a module's tensor; all of it where the site is no part."""
    return value if site.part is None else site.part.read(value)


def first_argument(module: nn.Module, args: tuple[Passed, ...], kwargs: dict[str, Passed]) -> str | None:
    """The name under which a module got its input; None where it came by place."""
    if args:
        return None
    named = (name for name in inspect.signature(module.forward).parameters if name in kwargs)
    return next(named, next(iter(kwargs), None))


def rows_per_position(value: Tensor, site: Site, shape_BS: Sequence[int]) -> Tensor:
    """`value` as [B, S, M]. OPT flattens batch and position inside its MLP.

    shape_BS: B sequences of S tokens.

    Raises: ConfigError naming the site where `value` is not one row of floats per token.
    """
    B, S = shape_BS
    if value.ndim == 2 and value.shape[0] == B * S:
        value = value.reshape(B, S, -1)
    if value.ndim != 3 or value.shape[:2] != (B, S) or not value.is_floating_point():
        raise ConfigError(
            f"{site.named_in}: {site.name!r}: the {site.side} of {site.module_path} is {value.dtype} of shape "
            f"{list(value.shape)} for {B} sequences of {S} tokens; a site must be floats of shape [{B}, {S}, width]"
        )
    return value


def attach(model: CausalModel, sites: Sequence[Site], receive: Callable[[Site, Tensor], None]) -> list[RemovableHandle]:
    """Hook every site: `receive(site, value)` is called when a forward pass reaches the site. Returns: the hooks."""

    def hook_input(site: Site, module: nn.Module) -> RemovableHandle:
        def before(module: nn.Module, args: tuple[Passed, ...], kwargs: dict[str, Passed]) -> None:
            name = first_argument(module, args, kwargs)
            receive(site, read_part(main_tensor(args[0] if args else kwargs.get(name or ""), site), site))

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def hook_output(site: Site, module: nn.Module) -> RemovableHandle:
        def after(module: nn.Module, args: tuple[Passed, ...], output: Passed) -> None:
            receive(site, read_part(main_tensor(output, site), site))

        return module.register_forward_hook(after)

    return [
        (hook_input if site.side == "input" else hook_output)(site, model.get_submodule(site.module_path))
        for site in sites
    ]


class Capture:
    """A model that may end at its deepest site; `forward` gives the activations of every site.

    Args:
        model: in eval mode, on its device; `forward` needs nothing that runs after the deepest site.
        sites: in the order of execution, the deepest last.

    """

    def __init__(self, model: CausalModel, sites: Sequence[Site]) -> None:
        self.model = model
        self.sites = {site.name: site for site in sites}
        self.token_ids_BS = torch.empty(0, 0, dtype=torch.long)
        """The tokens of the forward pass that runs, or ran last."""
        self._stops_after: Site | None = None
        self._captured: dict[str, Tensor] = {}
        attach(model, sites, self._receive)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where `forward` leaves its result."""
        return next(self.model.parameters()).device

    def _receive(self, site: Site, value: Tensor) -> None:
        # A copy, because a model may go on to add into this very tensor.
        value_BSM = rows_per_position(value, site, self.token_ids_BS.shape)
        self._captured[site.name] = value_BSM.clone(memory_format=torch.contiguous_format)
        if site == self._stops_after:
            raise _DeepestSiteReached

    def forward(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None = None) -> dict[str, Tensor]:
        """One forward pass up to the deepest site.

        Sequences shorter than S are padded on the right with any token id, and no attention mask is passed: in a
        causal model position s sees positions 0 to s only, so what follows a sequence cannot change its rows. The
        rows of the padding itself mean nothing. (Padding on the left would be seen, and would shift positions.)

        Args:
            position_ids_BS: places of the tokens in their documents; where they start again at 0, a document begins
                that sees nothing before it. None: every sequence is one document.

        Returns: {site: activations [B, S, M] in the model's dtype}.

        """
        self._stops_after = list(self.sites.values())[-1]
        try:
            self._run(token_ids_BS, position_ids_BS)
        except _DeepestSiteReached:
            return self._taken()
        finally:
            self._stops_after = None
        raise AssertionError(f"the forward pass ended without reaching the last of {list(self.sites)}")

    def _run(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None) -> Tensor:
        """The logits [B, S, V] of a whole forward pass, where no site stops it."""
        self.token_ids_BS = token_ids_BS.to(self.device)
        isolating = {}
        if position_ids_BS is not None:
            isolating = isolating_arguments(self.model, position_ids_BS.to(self.device))
        self._captured = {}
        with torch.inference_mode():
            return self.model(input_ids=self.token_ids_BS, use_cache=False, **isolating).logits

    def _taken(self) -> dict[str, Tensor]:
        captured, self._captured = self._captured, {}
        return captured


def isolates(model_type: str, attention: str) -> bool:
    """Whether documents can be kept apart in models of this type with this attention implementation."""
    return model_type in FAMILIES and attention in _ATTENTION


def isolating_arguments(model: CausalModel, position_ids_BS: Tensor) -> dict[str, Tensor]:
    """What to pass a model beside the tokens, so that attention stays within each run of rising positions."""
    arguments = {"position_ids": position_ids_BS}
    if model.config.model_type in _MASK_IGNORES_POSITIONS:
        arguments["attention_mask"] = _causal_mask(position_ids_BS, model.dtype, model.config._attn_implementation)
    return arguments


def _causal_mask(position_ids_BS: Tensor, dtype: torch.dtype, attention: str) -> Tensor:
    """[B, 1, S, S]: true where a query (third axis) may see a key; added to the scores in eager attention."""
    document_BS = (position_ids_BS == 0).cumsum(dim=1)
    seen = (document_BS[:, :, None] == document_BS[:, None, :]).tril()[:, None]
    if attention == "sdpa":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
