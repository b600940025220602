"""The whole model, and a hook that writes: what the model computes from other numbers at a site."""

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from strata_sae.pipeline.language_model.capture import (
    Capture,
    Passed,
    first_argument,
    main_tensor,
    read_part,
    rows_per_position,
)
from strata_sae.pipeline.language_model.sites import Site
from strata_sae.pipeline.language_model.transformers_library import ModelOutput


@runtime_checkable
class _Fields(Protocol):
    """A `ModelOutput` of transformers as what it also is: a dict of its fields that are not None."""

    def keys(self) -> Iterable[str]: ...

    def __setitem__(self, name: str, tensor: Tensor) -> None: ...


class Pass(NamedTuple):
    """What one forward pass of a whole model gave."""

    logits_BSV: Tensor
    captured: dict[str, Tensor]
    """{site: activations [B, S, M]}."""


class WholeModel(Capture):
    """A model with all of its layers and its head, from `load(..., whole=True)`."""

    def run(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None = None) -> Pass:
        """One forward pass to the end, with the arguments of `Capture.forward`; without gradients.

        Returns: logits [B, S, V] and every site's activations, in the model's dtype, on its device. At a spliced site
            these are what the model computed, before the splice wrote.

        """
        logits_BSV = self._run(token_ids_BS, position_ids_BS)
        return Pass(logits_BSV, self._taken())

    def step(self, token_ids_BS: Tensor, **arguments: object) -> ModelOutput:
        """A pass over tokens that follow those of an earlier one, which `arguments` hold; rows are not captured."""
        self.token_ids_BS = token_ids_BS.to(self.device)
        with torch.inference_mode():
            output = self.model(input_ids=self.token_ids_BS, use_cache=True, **arguments)
        self._taken()
        return output


class SiteSplice:
    """While the `with` block runs, forward passes of a model go on from `write(activations)` at a site.

    `write` gets [B, S, M] in the model's dtype on its device, and returns a tensor of the same shape, dtype and device.
    It may write into its argument only if it returns that argument. A module that gives a tuple, a list or a
    `ModelOutput` gives the same again, with the first item replaced and the others as they were; a site on the input
    side (`hook_resid_pre`, `mlp.hook_post`, `attn.hook_z`) is written before its module runs; of a projection that
    gives queries, keys and values at once, the other two stay as they were. The hook is removed when the block ends,
    by an error too. Splices of several sites, or of one site several times, may be nested; at one site they write in
    the order in which they were entered.
    """

    def __init__(
        self,
        model: nn.Module,
        site: Site,
        write: Callable[[Tensor], Tensor],
        shape_of: Callable[[Tensor], Sequence[int]],
    ) -> None:
        """shape_of: what the site gave -> (B, S) of the forward pass that runs."""
        self._root, self._site, self._write, self._shape_of = model, site, write, shape_of

    def __enter__(self) -> None:
        module = self._root.get_submodule(self._site.module_path)
        if self._site.side == "input":
            self._handle = module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            self._handle = module.register_forward_hook(self._after)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._handle.remove()

    def _before(
        self, module: nn.Module, args: tuple[Passed, ...], kwargs: dict[str, Passed]
    ) -> tuple[tuple[Passed, ...], dict[str, Passed]]:
        name = first_argument(module, args, kwargs)
        if name is None:
            return (self._written(args[0] if args else None), *args[1:]), kwargs
        return args, kwargs | {name: self._written(kwargs[name])}

    def _after(self, module: nn.Module, args: tuple[Passed, ...], output: Passed) -> Passed:
        return self._written(output)

    def _written(self, value: Passed) -> Passed:
        whole, part = main_tensor(value, self._site), self._site.part
        found = read_part(whole, self._site)
        rows_BSM = rows_per_position(found, self._site, self._shape_of(found))
        written_BSM = self._write(rows_BSM)
        _check_alike(written_BSM, rows_BSM, self._site.name)
        written = written_BSM.reshape(found.shape)
        return with_main_tensor(value, written if part is None else part.written(whole, written))


class Splice(SiteSplice):
    """The splice of a loaded model at one of its sites, by name.

    with Splice(whole, "blocks.1.hook_resid_post", lambda x_BSM: torch.zeros_like(x_BSM)):
        logits_BSV = whole.run(token_ids_BS).logits_BSV
    """

    def __init__(self, model: Capture, site: str, write: Callable[[Tensor], Tensor]) -> None:
        """Raises: KeyError for a site that the model was not loaded with."""
        super().__init__(model.model, model.sites[site], write, lambda _: model.token_ids_BS.shape)


def with_main_tensor(value: Passed, tensor: Tensor) -> Passed:
    """What a module gave, with another tensor in the place of the one that `main_tensor` finds."""
    if isinstance(value, _Fields):
        value[next(iter(value.keys()))] = tensor
        return value
    if isinstance(value, tuple):
        return tuple.__new__(type(value), (tensor, *value[1:]))  # a named tuple stays one
    if isinstance(value, list):
        return [tensor, *value[1:]]
    return tensor


def _check_alike(written: Tensor, read: Tensor, site: str) -> None:
    if (written.shape, written.dtype, written.device) != (read.shape, read.dtype, read.device):
        raise ValueError(
            f"{site}: a splice must give what it got, {read.dtype} of shape {list(read.shape)} on {read.device}; "
            f"it gave {written.dtype} of shape {list(written.shape)} on {written.device}"
        )
