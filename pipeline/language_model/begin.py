"""Forward passes of a whole model that begin at one of its blocks, from rows of the residual stream."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Passed, main_tensor
from strata_sae.pipeline.language_model.probe import SAME_SHAPE
from strata_sae.pipeline.language_model.sites import FAMILIES, Site
from strata_sae.pipeline.language_model.splice import WholeModel, with_main_tensor


class Place(NamedTuple):
    """Where a site lies among a model's blocks."""

    block: int
    """The first block that runs after the site, or in which it lies."""
    is_stream: bool
    """Whether its rows are the residual stream before that block: no block before it has to run."""


def place_of(whole: WholeModel, site: str) -> Place | None:
    """Where a loaded site lies; None in a model whose blocks are not known, or outside of them."""
    resolved = whole.sites[site]
    family = FAMILIES.get(whole.model.config.model_type)
    if (
        family is None
        or (found := re.match(re.escape(family.layers) + r"\.(\d+)(\..+)?$", resolved.module_path)) is None
    ):
        return None
    block, inner = int(found[1]), found[2]
    if inner is not None or resolved.part is not None:
        return Place(block, is_stream=False)
    return Place(block + (resolved.side == "output"), is_stream=True)


class _BlockReached(Exception):
    """Ends a forward pass: the input of the block is known."""


class _PassedOver(nn.Module):
    """In the place of a block: hands on what it gets, or rows in its place, in the form in which the block gives it."""

    def __init__(self, block: nn.Module, given: Passed, site: Site) -> None:
        super().__init__()
        self._of = (block,)  # in a tuple, so that the block is no module of this one
        self._given, self._site = given, site
        self.rows_BSM: Tensor | None = None

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models ask a block what kind it is before they call it
            found: Tensor | nn.Module = getattr(self.__dict__["_of"][0], name)
            return found

    def forward(self, *args: Passed, **kwargs: Passed) -> Passed:
        """What the block gives, with its input or the rows in the place of its output."""
        handed = self.rows_BSM
        if handed is None:
            handed = main_tensor(args[0] if args else next(iter(kwargs.values())), self._site)
        return with_main_tensor(self._given, handed)


class Beginning:
    """A model's forward passes from one of its blocks on; the blocks below are not called.

    Embeddings are looked up and masks are made as in any pass, so that whatever a family does outside of its blocks is
    done. The number of its blocks as `block`: only what follows the last one runs.
    """

    def __init__(self, whole: WholeModel, block: int) -> None:
        """Raises: ConfigError if the logits of a short text are others than those of the model's whole pass."""
        layers = whole.model.get_submodule(FAMILIES[whole.model.config.model_type].layers)
        assert isinstance(layers, nn.ModuleList)
        if not 1 <= block <= len(layers):
            raise ValueError(f"a pass begins before block 1 to {len(layers)}, not {block}: below block 0 there is none")
        self._whole, self._layers, self.block = whole, layers, block
        ids_BS = 1 + torch.arange(12).reshape(2, 6) % (whole.model.get_input_embeddings().weight.shape[0] - 1)
        with self._watched() as given:
            expected_BSV = whole.run(ids_BS).logits_BSV
        site = Site("the residual stream", f"block {block - 1}", "output")
        self._instead = [_PassedOver(layers[number], given[number], site) for number in range(block)]
        found_BSV = self.run(ids_BS, None, main_tensor(given[block - 1], site))
        if not _alike(found_BSV, expected_BSV):
            raise ConfigError(
                f"model.path: a pass of this {whole.model.config.model_type} model from block {block} on gives other "
                "logits than its whole pass, so losses cannot be measured from stored rows"
            )

    def run(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None, stream_BSM: Tensor) -> Tensor:
        """Logits [B, S, V] of rows of the residual stream before the block, in the model's dtype on its device."""
        with self._handing_on(stream_BSM):
            return self._whole.run(token_ids_BS, position_ids_BS).logits_BSV

    def forward(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None, stream_BSM: Tensor) -> dict[str, Tensor]:
        """What the sites from the block on give with these rows, as `Capture.forward`; nothing runs after the last."""
        with self._handing_on(stream_BSM):
            return self._whole.forward(token_ids_BS, position_ids_BS)

    def stream(self, token_ids_BS: Tensor, position_ids_BS: Tensor | None) -> Tensor:
        """The residual stream [B, S, M] before the block, by one pass through the blocks below."""
        reached: list[Tensor] = []
        site = Site("the residual stream", f"block {self.block}", "input")

        def keep(module: nn.Module, args: tuple[Passed, ...], kwargs: dict[str, Passed]) -> None:
            reached.append(main_tensor(args[0] if args else next(iter(kwargs.values())), site))
            raise _BlockReached

        handle = self._layers[self.block].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self._whole.run(token_ids_BS, position_ids_BS)
        except _BlockReached:
            return reached[0]
        finally:
            handle.remove()
        raise AssertionError(f"the forward pass ended without reaching block {self.block}")

    @contextmanager
    def _handing_on(self, stream_BSM: Tensor) -> Iterator[None]:
        """In the `with` block no block below is called, and the nearest one gives these rows."""
        first = self._instead[-1]
        blocks = list(self._layers)[: self.block]
        first.rows_BSM = stream_BSM.clone()  # a model may go on to add into this very tensor
        try:
            self._put(self._instead)
            yield
        finally:
            self._put(blocks)
            first.rows_BSM = None

    def _put(self, blocks: Sequence[nn.Module]) -> None:
        for number, block in enumerate(blocks):
            self._layers[number] = block

    @contextmanager
    def _watched(self) -> Iterator[list[Passed]]:
        """What the blocks below give, in their order, in the passes of the `with` block."""
        given: list[Passed] = []

        def keep(module: nn.Module, args: tuple[Passed, ...], output: Passed) -> None:
            given.append(output)

        handles = [layer.register_forward_hook(keep) for layer in list(self._layers)[: self.block]]
        try:
            yield given
        finally:
            for handle in handles:
                handle.remove()


def _alike(found: Tensor, expected: Tensor) -> bool:
    dtype = str(expected.dtype).removeprefix("torch.")
    error = (found.cpu().double() - expected.cpu().double()).norm() / expected.cpu().double().norm().clamp(min=1e-12)
    return bool(error <= SAME_SHAPE[dtype])
