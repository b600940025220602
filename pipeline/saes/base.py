"""What every architecture shares: parameters, encoder product, decoder. An architecture adds who is on."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.kernels.codes import Codes
from pipeline.schedules import Schedule, value_at
from pipeline.settings import Settings


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


class Workspace:
    """One buffer per shape, dtype and device, shared by all steps of all variants; contents last until the next use."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}

    def buffer(self, n_rows: int, n_columns: int, like: Tensor) -> Tensor:
        """An uninitialised [n_rows, n_columns] buffer of `like`'s dtype and device."""
        key = (n_rows, n_columns, like.dtype, like.device)
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

    @property
    def penalised(self) -> Tensor:
        """What sparsity terms act on, in the layout of codes.values: the values, unless the architecture says else."""
        return self.codes.values


class SAE:
    """Rows -> codes -> reconstruction: codes = select((x - b_dec) W_enc^T + b_enc), xhat = codes W_dec + b_dec.

    Parameters are attributes named by their checkpoint keys. Raises: ValueError on a misshapen one.
    """

    Config: type[SAESettings]
    has_threshold: ClassVar[bool] = False
    """Whether inference selects by `threshold`, which training has to estimate."""
    learns_l0: ClassVar[bool] = False
    """Whether how many latents are on is up to a sparsity term; otherwise the architecture enforces it."""
    scales_with_x: ClassVar[tuple[str, ...]] = ("b_enc", "b_dec", "threshold")
    """Checkpoint keys in units of the rows: they are divided by the input scale to get an SAE of unscaled rows."""

    W_enc: Tensor  # [E, M]
    W_dec: Tensor  # [E, M]
    b_enc: Tensor  # [E]
    b_dec: Tensor  # [M]

    def __init__(self, settings: SAESettings, d_model: int, weights: dict[str, Tensor]):
        self.settings = settings
        self.d_model = d_model
        self.threshold: Tensor | None = weights.get("threshold")  # 0-dim float64: state, unless shapes() names it
        for name, shape in self.shapes(settings, d_model).items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, but d_sae and d_model say {shape}")
            setattr(self, name, weights[name])

    @classmethod
    def shapes(cls, settings: SAESettings, d_model: int) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, by checkpoint key."""
        matrix = (settings.d_sae, d_model)
        return {"W_enc": matrix, "W_dec": matrix, "b_enc": (settings.d_sae,), "b_dec": (d_model,)}

    @classmethod
    def initial_weights(cls, settings: SAESettings, d_model: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 parameters: decoder rows uniform (Kaiming), scaled to norm 1; encoder = decoder; the rest 0.

        Source: dictionary_learning, Matryoshka and JumpReLU trainers.
        """
        W_dec = torch.rand(settings.d_sae, d_model, generator=generator, device=generator.device) * 2 - 1
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        shapes = cls.shapes(settings, d_model).items()
        zeros = {name: W_dec.new_zeros(shape) for name, shape in shapes if len(shape) == 1}
        return {"W_enc": W_dec.clone(), "W_dec": W_dec, **zeros}

    @property
    def d_sae(self) -> int:
        """Latents (count)."""
        return self.settings.d_sae

    def parameters(self) -> dict[str, Tensor]:
        """What training updates, by checkpoint key; the tensors themselves, not copies."""
        return {name: getattr(self, name) for name in self.shapes(self.settings, self.d_model)}

    def pre_activations(self, x_BM: Tensor, out: Tensor | None = None) -> Tensor:
        """The encoder product (x - b_dec) W_enc^T + b_enc. Returns: [B, E], in `out` if given."""
        return self._encoder_product(self._encoder_input(x_BM), out)

    def encode(self, x_BM: Tensor, *, progress: float = 1.0, workspace: Workspace | None = None) -> Encoding:
        """The codes as training selects them at `progress` (share of the run done, 0 to 1)."""
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], self.d_sae, like=x_BM)
        x0_BM = self._encoder_input(x_BM)
        pre_BE = self._encoder_product(x0_BM, out)
        return Encoding(self.select(pre_BE, progress), pre_BE, x0_BM)

    def encode_inference(self, x_BM: Tensor, *, workspace: Workspace | None = None) -> Codes:
        """The codes of a trained SAE: a row's codes do not depend on the other rows."""
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], self.d_sae, like=x_BM)
        return self.select_inference(self.pre_activations(x_BM, out))

    def decode(self, codes: Codes) -> Tensor:
        """The reconstruction. Returns: [B, M]."""
        return codes.decode(self.W_dec) + self.b_dec

    def backward(
        self, encoding: Encoding, values_gradient: Tensor | None, penalty_gradient: Tensor | None
    ) -> dict[str, Tensor]:
        """What dloss/dvalues and dloss/dpenalised (layout of codes.values) give the encoder's parameters, b_dec apart.

        Here both act on the pre-activations that are on.
        """
        parts = [part for part in (values_gradient, penalty_gradient) if part is not None]
        if not parts:
            return {}
        pre_gradient = sum(parts[1:], start=parts[0]) * (encoding.codes.values > 0)
        return {
            "W_enc": encoding.codes.transposed_times(encoding.x0_BM, pre_gradient),
            "b_enc": encoding.codes.latent_sums(pre_gradient),
        }

    def input_gradient(self, gradients: dict[str, Tensor]) -> Tensor:
        """dloss/dx0 summed over rows, [M], from the whole gradients of the encoder's biases."""
        return gradients["b_enc"] @ self.W_enc

    def select(self, pre_BE: Tensor, progress: float) -> Codes:
        """Who is on in training; a value is the pre-activation, or 0."""
        raise NotImplementedError

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Who is on in a trained SAE, decided row by row."""
        raise NotImplementedError

    def target_l0(self, progress: float) -> float | None:
        """Latents on per row that the architecture enforces at `progress`; None where it enforces none."""
        return None

    def _encoder_input(self, x_BM: Tensor) -> Tensor:
        return x_BM - self.b_dec if self.settings.pre_bias else x_BM

    def _encoder_product(self, x0_BM: Tensor, out: Tensor | None) -> Tensor:
        return torch.addmm(self.b_enc, x0_BM, self.W_enc.T, out=out)


def check_k(k: int | Schedule, d_sae: int) -> None:
    """Raises: ValueError if k leaves 1..d_sae anywhere between progress 0 and 1."""
    smallest, largest = sorted(k_at(k, progress) for progress in (0.0, 1.0))
    if largest > d_sae:
        raise ValueError(f"k ({largest}) must not exceed d_sae ({d_sae}); lower k or raise d_sae")
    if smallest < 1:
        raise ValueError(f"k ({smallest}) must be at least 1")


def k_at(k: int | Schedule, progress: float) -> int:
    """The number of latents on per row at `progress`, rounded to the nearest integer."""
    return round(value_at(k, progress))
