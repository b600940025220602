"""What all architectures share: parameters, encoder product and decoder. Each one selects which latents are active."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, row_sum
from strata_sae.pipeline.kernels.selection import BREAK_EVEN_DENSITY
from strata_sae.pipeline.kernels.tiles import EncoderName, Tiles
from strata_sae.pipeline.saes.initialisation import InitialSettings, initial_weights
from strata_sae.pipeline.settings import Settings
from strata_sae.pipeline.sharding.ranks import ONE, Ranks, is_of_latents

Inference = Literal["k", "threshold"]
"""How a trained SAE of the TopK family selects: the k largest of each row, or every value above its threshold."""


class Workspace:
    """One buffer for each purpose, shape, dtype and device, shared by all steps of all variants.

    A buffer's contents are valid until its next use.
    """

    tile_rows: ClassVar[int] = 512
    """Rows whose pre-activations are in memory at once, where the selection allows it (count)."""
    # 16 MB at d_sae 8192 in float32: a whole batch of 2048 rows would be 64 MB, most of a step's memory.

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
    """Where gradients may be written; they are valid until the next step uses it."""

    def space_for(self, name: str, parameter: Tensor) -> Tensor | None:
        """A buffer for the gradient of a matrix; None without a workspace."""
        # To get fresh memory of that size costs as much time as to fill it (docs/decisions/0012).
        if self.workspace is None:
            return None
        n_rows, n_columns = parameter.shape
        return self.workspace.buffer(n_rows, n_columns, like=parameter, purpose=f"gradient of {name}")

    def pre_of(self, latents: Tensor) -> Tensor:
        """The pre-activations of some latents: [B, len(latents)]."""
        return self.pre_BE[:, latents]

    @property
    def penalised(self) -> Tensor:
        """What sparsity terms act on, in the layout of codes.values; some architectures override it."""
        return self.codes.values

    @property
    def cut(self) -> Codes:
        """What a threshold would cut, on the entries of `codes`; some architectures override it."""
        return self.codes


class TiledEncoding(Encoding):
    """A batch encoded tile by tile. Pre-activations are not kept; a term that reads them has them computed again."""

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


class SAESettings(Settings):
    """What every architecture's settings share."""

    architecture: str
    """Name in ARCHITECTURES."""
    d_sae: int = Field(gt=0)
    """Latents (count)."""
    pre_bias: bool = True
    """Whether the encoder sees x - b_dec instead of x."""
    decoder: Literal["unit", "free"] = "unit"
    """Rows of W_dec: kept at norm 1 by the trainer, or free (a sparsity term should then weigh codes by them)."""
    initial: InitialSettings = InitialSettings()
    """Where the weights start."""


class SAE:
    """Rows -> codes -> reconstruction: codes = select((x - b_dec) W_enc^T + b_enc), xhat = codes W_dec + b_dec.

    Parameters are attributes named by their checkpoint keys. Raises: ValueError on a misshapen one.
    """

    Settings: type[SAESettings]
    has_threshold: ClassVar[bool] = False
    """Whether training selects over the batch, so that only a `threshold`, which it estimates, gives as many."""
    learns_l0: ClassVar[bool] = False
    """Whether a sparsity term decides how many latents are active; otherwise the architecture fixes it."""
    has_runners_up: ClassVar[bool] = False
    """Whether a latent that is not active may have a positive value in Encoding.pre_BE, because others are larger."""
    learns: ClassVar[bool] = True
    """Whether there is anything to train."""
    scales_with_x: ClassVar[tuple[str, ...]] = ("b_enc", "b_dec", "threshold")
    """Checkpoint keys in units of the rows: divided by the input scale, they are those of an SAE of unscaled rows."""

    break_even_density: float = BREAK_EVEN_DENSITY
    """Share of active latents above which codes are full matrices; set from the SAE's record where there is one."""

    seed: int = 0
    """Of the run: with fraction_done it names the random choices of an encoding in training."""

    ranks: Ranks = ONE
    """The processes that hold this SAE together; `held_by` makes the part of one."""

    W_enc: Tensor  # [E, M]; of a transcoder, [E, d_in]
    W_dec: Tensor  # [E, M]
    b_enc: Tensor  # [E]
    b_dec: Tensor  # [M]

    def __init__(self, settings: SAESettings, d_out: int, weights: dict[str, Tensor], d_in: int | None = None):
        """d_out: width of the rows it writes; d_in: of those it reads, where they differ (a transcoder)."""
        self.settings = settings
        self.d_out, self.d_in = d_out, d_out if d_in is None else d_in
        if settings.pre_bias and self.d_in != d_out:
            raise ValueError(
                f"pre_bias takes b_dec ({d_out}) from rows of another width ({self.d_in}); set it to false"
            )
        self.blocks: list[int] = [d_out]
        """Widths of the sites that are written, side by side."""
        self.threshold: Tensor | None = weights.get("threshold")  # 0-dim float64: state, unless shapes() names it
        for name, shape in self.shapes(settings, d_out, self.d_in).items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, but d_sae and d_out say {shape}")
            setattr(self, name, weights[name].contiguous())  # the fused optimiser reads memory, not strides

    @classmethod
    def held_by(
        cls, ranks: Ranks, settings: SAESettings, d_out: int, weights: dict[str, Tensor], d_in: int | None = None
    ) -> "SAE":
        """The part of an SAE that a rank holds. weights: the rows of its latents, and what all ranks hold alike."""
        part = settings.model_copy(update={"d_sae": len(ranks.latents(settings.d_sae))})
        sae = cls(part, d_out, weights, d_in)
        sae.settings, sae.ranks = settings, ranks
        return sae

    @classmethod
    def shapes(cls, settings: SAESettings, d_out: int, d_in: int | None = None) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, by checkpoint key. d_in: width of the rows that are read, where it is not d_out."""
        d_sae = settings.d_sae
        return {"W_enc": (d_sae, d_in or d_out), "W_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,)}

    @classmethod
    def initial_weights(
        cls, settings: SAESettings, d_out: int, generator: torch.Generator, d_in: int | None = None, ranks: Ranks = ONE
    ) -> dict[str, Tensor]:
        """Fresh float32 parameters, as `settings.initial` says; vectors that it does not name are 0.

        Of those with a row for each latent, the rows that this one of the `ranks` holds: the same bits as of the whole.
        """
        held = ranks.latents(settings.d_sae)
        drawn = initial_weights(settings.initial, settings.d_sae, d_out, generator, d_in, held)
        shapes = {
            name: (len(held), *shape[1:]) if is_of_latents(name) else shape
            for name, shape in cls.shapes(settings, d_out, d_in).items()
        }
        return {name: drawn[name] if name in drawn else torch.zeros(shape) for name, shape in shapes.items()}

    @property
    def d_sae(self) -> int:
        """Latents that are here (count): all, but where ranks hold an SAE together."""
        return self.W_dec.shape[0]

    def parameters(self) -> dict[str, Tensor]:
        """What training updates, by checkpoint key; the tensors themselves, not copies."""
        return {name: getattr(self, name) for name in self.shapes(self.settings, self.d_out, self.d_in)}

    def weights(self) -> dict[str, Tensor]:
        """What the final file holds: the parameters, and what else readers expect. May share their memory."""
        return self.parameters()

    def constrain(self) -> None:
        """Bring the parameters back, in place, into the range they must be in; called after every update."""

    def pre_activations(self, x_BM: Tensor, out: Tensor | None = None) -> Tensor:
        """The encoder product (x - b_dec) W_enc^T + b_enc, as a threshold would cut it. Returns: [B, E], in `out`."""
        return self._encoder_product(self._encoder_input(x_BM), out)

    def encode(self, x_BM: Tensor, *, fraction_done: float = 1.0, workspace: Workspace | None = None) -> Encoding:
        """The codes as training selects them at `fraction_done` (share of the run done, 0 to 1)."""
        if workspace is not None and x_BM.shape[0] > workspace.tile_rows:
            buffer = workspace.buffer(workspace.tile_rows, self.d_sae, like=x_BM)
            tiles = Tiles(self._encoder_input(x_BM), self.W_enc, self.b_enc, buffer, workspace.encoder)
            codes = self.select_from_tiles(tiles, fraction_done)
            if codes is not None:
                return TiledEncoding(codes, tiles, workspace)
        x0_BM, pre_BE = self._product(x_BM, workspace)
        return Encoding(self.select(pre_BE, fraction_done), pre_BE, x0_BM, workspace=workspace)

    def encode_inference(self, x_BM: Tensor, *, workspace: Workspace | None = None) -> Codes:
        """The codes of a trained SAE: a row's codes do not depend on the other rows."""
        return self.select_inference(self._product(x_BM, workspace)[1])

    def inferences(self) -> list[Inference]:
        """Ways in which this SAE can select at inference, that of `encode_inference` first; empty: it has one alone."""
        return []

    def encode_as(
        self, x_BM: Tensor, inferences: Sequence[Inference], *, workspace: Workspace | None = None
    ) -> list[Codes]:
        """The codes of a trained SAE in each of some ways that `inferences` names; one encoder product for all."""
        raise NotImplementedError(f"{self.settings.architecture} selects in one way")

    def decode(self, codes: Codes) -> Tensor:
        """The reconstruction, by the latents of all ranks. Returns: [B, M]."""
        return self.ranks.sum(codes.decode(self.W_dec)).add_(self.b_dec)

    def backward(
        self, encoding: Encoding, values_gradient: Tensor | None, penalty_gradient: Tensor | None
    ) -> dict[str, Tensor]:
        """Gradients of the parameters, without b_dec, from dloss/dvalues and dloss/dpenalised (layout of codes.values).

        Here both act on the pre-activations of active latents.
        """
        parts = [part for part in (values_gradient, penalty_gradient) if part is not None]
        if not parts:
            return {}
        pre_gradient = sum(parts[1:], start=parts[0]) * (encoding.codes.values != 0)
        return {
            "W_enc": encoding.codes.transposed_times(
                encoding.x0_BM, pre_gradient, out=encoding.space_for("W_enc", self.W_enc)
            ),
            "b_enc": encoding.codes.latent_sums(pre_gradient),
        }

    def input_gradient(self, gradients: dict[str, Tensor]) -> Tensor:
        """dloss/dx0 summed over rows, [M], from the whole gradients of the encoder's biases."""
        return self.ranks.sum(row_sum(gradients["b_enc"], self.W_enc))

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """The codes in training; a value is the pre-activation, or 0."""
        raise NotImplementedError

    def select_from_tiles(self, tiles: Tiles, fraction_done: float) -> Codes | None:
        """As `select`, from the product in tiles; None where the selection needs the whole product."""
        return None

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """The codes of a trained SAE, each row by itself."""
        raise NotImplementedError

    def target_l0(self, fraction_done: float) -> float | None:
        """Active latents per row that the architecture fixes at `fraction_done`; None where it fixes none.

        A threshold over all latents can then be estimated that gives as many.
        """
        return None

    def _product(self, x_BM: Tensor, workspace: Workspace | None) -> tuple[Tensor, Tensor]:
        """The encoder's input and its product, in the workspace if there is one."""
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], self.d_sae, like=x_BM)
        x0_BM = self._encoder_input(x_BM)
        return x0_BM, self._encoder_product(x0_BM, out)

    def _encoder_input(self, x_BM: Tensor) -> Tensor:
        return x_BM - self.b_dec if self.settings.pre_bias else x_BM

    def _encoder_product(self, x0_BM: Tensor, out: Tensor | None) -> Tensor:
        return torch.addmm(self.b_enc, x0_BM, self.W_enc.T, out=out)
