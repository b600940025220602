"""Hooks that take activations out of a model, and a forward pass that stops after the deepest of them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.isolation import isolating_arguments
from strata_sae.pipeline.language_model.sites import Site


class _DeepestSiteReached(Exception):
    """Ends a forward pass: everything asked for is captured."""


def _main_tensor(value: object, site: Site) -> Tensor:
    """The tensor itself, or the first of a tuple or of a model output, where layers put their hidden states."""
    if not isinstance(value, Tensor) and hasattr(value, "to_tuple"):
        value = value.to_tuple()
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"store.sites: {site.name!r}: the {site.side} of {site.module_path} is a {type(value).__name__}, not a "
            f"tensor; name a module that gives activations of shape [batch, position, width]"
        )
    return value


def _first_argument(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    if args:
        return args[0]
    named = [kwargs[name] for name in inspect.signature(module.forward).parameters if name in kwargs]
    return (named or [*kwargs.values(), None])[0]


def rows_per_position(value: Tensor, site: Site, token_ids_BS: Tensor) -> Tensor:
    """`value` as [B, S, M]. OPT flattens batch and position inside its MLP."""
    B, S = token_ids_BS.shape
    if value.ndim == 2 and value.shape[0] == B * S:
        value = value.reshape(B, S, -1)
    if value.ndim != 3 or value.shape[:2] != (B, S) or not value.is_floating_point():
        raise ConfigError(
            f"store.sites: {site.name!r}: the {site.side} of {site.module_path} is {value.dtype} of shape "
            f"{list(value.shape)} for {B} sequences of {S} tokens; a site must be floats of shape [{B}, {S}, width]"
        )
    return value


def attach(model: nn.Module, sites: Sequence[Site], receive: Callable[[Site, Tensor], None]) -> None:
    """Hook every site for good: `receive(site, value)` is called as the forward pass gets there."""

    def hook_input(site: Site, module: nn.Module) -> None:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            receive(site, _main_tensor(_first_argument(module, args, kwargs), site))

        module.register_forward_pre_hook(before, with_kwargs=True)

    def hook_output(site: Site, module: nn.Module) -> None:
        def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            receive(site, _main_tensor(output, site))

        module.register_forward_hook(after)

    for site in sites:
        (hook_input if site.side == "input" else hook_output)(site, model.get_submodule(site.module_path))


class Capture:
    """A model that has been cut above its deepest site; `forward` gives the activations of every site.

    Args:
        model: in eval mode, on its device; needs nothing that runs after the deepest site.
        sites: in the order of execution, the deepest last.

    """

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        self._model = model
        self._deepest = sites[-1]
        self._captured: dict[str, Tensor] = {}
        self._token_ids_BS = torch.empty(0, 0, dtype=torch.long)
        attach(model, sites, self._receive)

    @property
    def model(self) -> Any:
        """The model, cut."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the model is, and where `forward` leaves its result."""
        return next(self._model.parameters()).device

    @property
    def n_parameters(self) -> int:
        """Parameters kept in memory."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def _receive(self, site: Site, value: Tensor) -> None:
        # A copy, because a model may go on to add into this very tensor.
        value_BSM = rows_per_position(value, site, self._token_ids_BS)
        self._captured[site.name] = value_BSM.clone(memory_format=torch.contiguous_format)
        if site == self._deepest:
            raise _DeepestSiteReached

    def forward(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None = None) -> dict[str, Tensor]:
        """One forward pass, all sites.

        Sequences shorter than S are padded on the right with any token id, and no attention mask is passed: in a
        causal model position s sees positions 0 to s only, so what follows a sequence cannot change its rows. The
        rows of the padding itself mean nothing. (On the left, padding would be seen, and would shift positions.)

        Args:
            token_ids_BS: the tokens.
            position_ids_BS: places of the tokens in their documents; where they start again at 0, a document begins
                that sees nothing before it. None: every sequence is one document.

        Returns: {site: activations [B, S, M] in the model's dtype}.

        """
        self._token_ids_BS = token_ids_BS.to(self.device)
        isolating = {}
        if position_ids_BS is not None:
            isolating = isolating_arguments(self._model, position_ids_BS.to(self.device))
        self._captured = {}
        try:
            with torch.inference_mode():
                self._model(input_ids=self._token_ids_BS, use_cache=False, **isolating)
        except _DeepestSiteReached:
            captured, self._captured = self._captured, {}
            return captured
        raise AssertionError(f"the forward pass ended without reaching {self._deepest}")
