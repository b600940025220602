"""What encoding a batch leaves behind for the backward pass, and the memory it is left in."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.tiles import EncoderName, Tiles


class Workspace:
    """One buffer per purpose, shape, dtype and device, shared by all steps of all variants.

    Its contents last until the next use.
    """

    tile_rows: ClassVar[int] = 512
    """Rows whose pre-activations are held at once where the selection allows it (count)."""

    def __init__(self, encoder: EncoderName = "float32") -> None:
        self.encoder = encoder
        self._buffers: dict[tuple[str, int, int, torch.dtype, torch.device], Tensor] = {}

    def buffer(self, n_rows: int, n_columns: int, like: Tensor, purpose: str = "pre") -> Tensor:
        """An uninitialised [n_rows, n_columns] buffer of `like`'s dtype and device."""
        key = (purpose, n_rows, n_columns, like.dtype, like.device)
        if key not in self._buffers:
            self._buffers[key] = like.new_empty(n_rows, n_columns)
        return self._buffers[key]


@dataclass(frozen=True)
class Encoding:
    """One batch encoded, with what the backward pass needs again."""

    codes: Codes
    pre_BE: Tensor
    """Pre-activations; valid until the workspace is used again."""
    x0_BM: Tensor
    """The encoder's input: x - b_dec, or x without `pre_bias`."""
    workspace: Workspace | None = field(default=None, kw_only=True)
    """Where gradients may be written; they, too, are valid until it is used again."""

    def space_for(self, name: str, parameter: Tensor) -> Tensor | None:
        """A buffer for the gradient of a matrix: fresh memory of that size takes longer than to fill it."""
        if self.workspace is None:
            return None
        n_rows, n_columns = parameter.shape
        return self.workspace.buffer(n_rows, n_columns, like=parameter, purpose=f"gradient of {name}")

    def pre_of(self, latents: Tensor) -> Tensor:
        """The pre-activations of some latents: [B, len(latents)]."""
        return self.pre_BE[:, latents]

    @property
    def penalised(self) -> Tensor:
        """What sparsity terms act on, in the layout of codes.values: the values, unless the architecture says else."""
        return self.codes.values

    @property
    def cut(self) -> Codes:
        """What a threshold would cut, on the pairs of `codes`: the codes, unless the architecture says else."""
        return self.codes


class TiledEncoding(Encoding):
    """A batch encoded tile by tile, which left no pre-activations: they are computed again where a term asks."""

    _tiles: Tiles

    def __init__(self, codes: Codes, tiles: Tiles, workspace: Workspace):
        for name, value in {"codes": codes, "x0_BM": tiles.x0_BM, "_tiles": tiles, "workspace": workspace}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def pre_BE(self) -> Tensor:
        """Pre-activations; valid until the workspace is used again."""
        assert self.workspace is not None
        return self._tiles.whole(self.workspace.buffer(*self._tiles.shape, like=self.x0_BM))

    def pre_of(self, latents: Tensor) -> Tensor:
        """The pre-activations of some latents, and no others: [B, len(latents)]."""
        return self._tiles.of_latents(latents)
