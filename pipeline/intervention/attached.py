"""A model with an SAE at one of its sites: what happens at the sites in each forward pass of a `with` block."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.edits import Edits
from strata_sae.pipeline.intervention.forward_pass import ForwardPass
from strata_sae.pipeline.intervention.position_codes import PositionCodes
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.machine.backend import using
from strata_sae.pipeline.language_model import capture
from strata_sae.pipeline.language_model.sites import Site
from strata_sae.pipeline.language_model.splice import SiteSplice
from strata_sae.pipeline.language_model.transformers_library import CausalModel
from strata_sae.pipeline.runs.loaded import LoadedSAE
from strata_sae.pipeline.saes.base import Inference

Where = Tensor | Callable[[Tensor], Tensor]
"""Which positions are replaced: bool [B, S], or token ids [B, S] -> bool [B, S]."""


class _Found(NamedTuple):
    """The codes of the forward pass that runs, until the site that is written is reached."""

    sae: LoadedSAE
    codes: Codes
    edited: Codes
    mask_BS: Tensor | None
    differentiable: bool


class Attached:
    """A model with an SAE at a site, from `strata.attach`; it acts inside its `with` block, which may run once.

    Calls of the model, `generate()` with or without a cache, and several attachments at once work. Gradients reach the
    activations before the site, the values of `clamp` and `add`, and the values of `codes`; which latents are active
    has none, and neither have the SAE's weights. With gradients the SAE runs on PyTorch's own operations, whose sums
    may round otherwise in the last bit.
    """

    def __init__(
        self,
        model: CausalModel,
        sae: LoadedSAE,
        reads: Sequence[Site],
        writes: Site,
        edits: Edits,
        where: Where | None,
        error: bool,
        read_only: bool,
        inference: Inference | None,
    ) -> None:
        self._model, self._sae, self._edits, self._where = model, sae, edits, where
        self._keeps_error, self._is_read_only, self._inference = error, read_only, inference
        self._reads, self._target = list(reads), writes
        self._reads_what_it_writes = self._reads == [self._target] and not read_only
        self._pass = ForwardPass(model, self._reads if read_only else list({*self._reads, self._target}))
        self._open: ExitStack | None = None
        self._is_done = False
        self._sae_on: dict[torch.device, LoadedSAE] = {}
        self._arrived: dict[str, Tensor] = {}
        self._found: _Found | None = None
        self._codes: PositionCodes | None = None
        self._edited: PositionCodes | None = None

    @property
    def codes(self) -> PositionCodes:
        """The codes of the last forward pass, before edits. Raises: ValueError outside of the block, before a pass."""
        return self._shown(self._codes)

    @property
    def edited_codes(self) -> PositionCodes:
        """What was decoded: `codes` with the edits, in the rows that `where` names. Raises: as `codes`."""
        return self._shown(self._edited)

    def __enter__(self) -> Self:
        if self._open is not None or self._is_done:
            raise ValueError(f"{self._sae.name}: an attachment is entered once; call strata.attach again")
        with ExitStack() as stack:
            for handle in self._pass.hook():
                stack.callback(handle.remove)
            if not self._reads_what_it_writes:
                for handle in capture.attach(self._model, self._reads, self._receive):
                    stack.callback(handle.remove)
            if not self._is_read_only:
                stack.enter_context(SiteSplice(self._model, self._target, self._write, self._shape_at_target))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._open is not None
        self._open.close()
        self._open, self._is_done = None, True
        self._arrived, self._found, self._codes, self._edited = {}, None, None, None

    def _shown(self, codes: PositionCodes | None) -> PositionCodes:
        if self._open is None:
            raise ValueError(
                f"{self._sae.name}: codes are there inside the with block; keep what you need of them there"
            )
        if codes is None:
            raise ValueError(f"{self._sae.name}: no forward pass has reached {self._reads[0].name} yet")
        return codes

    def _shape_at_target(self, value: Tensor) -> Sequence[int]:
        return self._pass.shape_of(value, self._target)

    def _receive(self, site: Site, value: Tensor) -> None:
        """Take what a site gave, and encode once all of them have."""
        self._pass.ran(site)
        x_BSM = capture.rows_per_position(value, site, self._pass.shape_of(value, site))
        self._arrived[site.name] = x_BSM.clone()  # a model may go on to add into this very tensor
        if len(self._arrived) == len(self._reads):
            self._encode(torch.cat([self._arrived.pop(one.name) for one in self._reads], dim=-1))

    def _write(self, y_BSM: Tensor) -> Tensor:
        """What the model goes on with at the site that is written."""
        if self._reads_what_it_writes:
            self._encode(y_BSM)
        if self._target not in self._reads or self._reads_what_it_writes:
            self._pass.ran(self._target)
        found, self._found = self._found, None
        if found is None:
            raise ConfigError(
                f"writes: {self._target.name!r} runs before {self._reads[-1].name!r}, whose rows the SAE reads"
            )
        sae = found.sae
        if sae.sae.d_out != y_BSM.shape[-1]:
            raise ConfigError(
                f"writes: {self._target.name!r} has rows of width {y_BSM.shape[-1]}, but {sae.name} writes "
                f"{sae.sae.d_out}"
            )
        with _arithmetic(found.differentiable):
            xhat_BSM = sae.decode(found.edited).reshape(y_BSM.shape)
            if self._keeps_error:
                plain_BSM = sae.decode(found.codes).reshape(y_BSM.shape) if self._edits else xhat_BSM
                xhat_BSM = y_BSM.float() + (xhat_BSM - plain_BSM)
        written_BSM = xhat_BSM.to(y_BSM.dtype)
        return written_BSM if found.mask_BS is None else torch.where(found.mask_BS[..., None], written_BSM, y_BSM)

    def _encode(self, x_BSM: Tensor) -> None:
        """The codes of all rows, and the edited ones."""
        B, S, M = x_BSM.shape
        sae = self._on(x_BSM.device)
        if sae.sae.d_in != M:
            raise ConfigError(
                f"site: {' and '.join(site.name for site in self._reads)} has rows of width {M}, but {sae.name} reads "
                f"{sae.sae.d_in}; is it an SAE of this model and site?"
            )
        mask_BS = self._mask((B, S), x_BSM.device)
        differentiable = torch.is_grad_enabled() and (x_BSM.requires_grad or self._edits.need_gradients)
        with _arithmetic(differentiable):
            codes = edited = sae.encode(x_BSM.reshape(B * S, M).to(torch.float32, copy=True), inference=self._inference)
            if self._edits:
                edited = self._edits.apply(codes, (B, S), None if mask_BS is None else mask_BS.flatten())
        self._found = _Found(sae, codes, edited, mask_BS, differentiable)
        shape = (B, S, sae.sae.d_sae)
        self._codes, self._edited = PositionCodes(codes, shape), PositionCodes(edited, shape)

    def _mask(self, shape_BS: tuple[int, int], device: torch.device) -> Tensor | None:
        """The positions that are replaced: bool [B, S]; None: all."""
        if self._where is None:
            return None
        mask = self._where
        if not isinstance(mask, Tensor):
            if self._pass.token_ids_BS is None:
                raise ConfigError(
                    "where: a function of token ids, but the model was given embeddings; give a tensor of bool [B, S]"
                )
            mask = mask(self._pass.token_ids_BS)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape_BS:
            is_tensor = isinstance(mask, Tensor)
            found = f"{mask.dtype} of shape {list(mask.shape)}" if is_tensor else f"a {type(mask).__name__}"
            raise ConfigError(
                f"where: is {found}, but this forward pass needs bool of shape {list(shape_BS)}; with a cache, give a "
                "function of the token ids (each step of generate() has one position)"
            )
        return mask.to(device)

    def _on(self, device: torch.device) -> LoadedSAE:
        """The SAE on the device of the rows; what another device than its own needs is copied once."""
        if device not in self._sae_on:
            with torch.inference_mode(False):  # what is copied within it could take no part in gradients later
                self._sae_on[device] = _moved(self._sae, device)
        return self._sae_on[device]


def _moved(loaded: LoadedSAE, device: torch.device) -> LoadedSAE:
    if loaded.sae.W_dec.device == device:
        return loaded
    moved, sae = copy.copy(loaded), copy.copy(loaded.sae)
    for name, value in vars(sae).items():
        if isinstance(value, Tensor):
            setattr(sae, name, value.to(device))
    object.__setattr__(moved, "sae", sae)  # it is frozen
    return moved


def _arithmetic(differentiable: bool) -> AbstractContextManager[None]:
    """PyTorch's own operations where gradients are wanted: the compiled ones have none."""
    return using("reference") if differentiable else nullcontext()
