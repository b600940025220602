"""What every architecture shares: parameters, encoder product, decoder. An architecture adds who is on."""

from dataclasses import dataclass
from typing import ClassVar

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
    """The encoder's input: x - b_dec."""


class SAE:
    """Rows -> codes -> reconstruction: codes = select((x - b_dec) W_enc^T + b_enc), xhat = codes W_dec + b_dec."""

    Config: type[SAESettings]
    has_threshold: ClassVar[bool] = False
    """Whether inference selects by `threshold`, which training has to estimate."""

    def __init__(self, settings: SAESettings, d_model: int, weights: dict[str, Tensor]):
        self.settings = settings
        self.d_model = d_model
        self.W_enc = weights["W_enc"]  # [E, M]
        self.W_dec = weights["W_dec"]  # [E, M]
        self.b_enc = weights["b_enc"]  # [E]
        self.b_dec = weights["b_dec"]  # [M]
        self.threshold: Tensor | None = weights.get("threshold")  # 0-dim float64: state, not a parameter
        for name, shape in _shapes(settings, d_model).items():
            if tuple(weights[name].shape) != shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)}, but d_sae and d_model say {shape}")

    @property
    def d_sae(self) -> int:
        """Latents (count)."""
        return self.settings.d_sae

    def parameters(self) -> dict[str, Tensor]:
        """What training updates, by checkpoint key; the tensors themselves, not copies."""
        return {"W_enc": self.W_enc, "W_dec": self.W_dec, "b_enc": self.b_enc, "b_dec": self.b_dec}

    def pre_activations(self, x_BM: Tensor, out: Tensor | None = None) -> Tensor:
        """The encoder product (x - b_dec) W_enc^T + b_enc. Returns: [B, E], in `out` if given."""
        return self._encoder_product(x_BM - self.b_dec, out)

    def encode(self, x_BM: Tensor, *, progress: float = 1.0, workspace: Workspace | None = None) -> Encoding:
        """The codes as training selects them at `progress` (share of the run done, 0 to 1)."""
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], self.d_sae, like=x_BM)
        x0_BM = x_BM - self.b_dec
        pre_BE = self._encoder_product(x0_BM, out)
        return Encoding(self.select(pre_BE, progress), pre_BE, x0_BM)

    def encode_inference(self, x_BM: Tensor, *, workspace: Workspace | None = None) -> Codes:
        """The codes of a trained SAE: a row's codes do not depend on the other rows."""
        out = None if workspace is None else workspace.buffer(x_BM.shape[0], self.d_sae, like=x_BM)
        return self.select_inference(self.pre_activations(x_BM, out))

    def decode(self, codes: Codes) -> Tensor:
        """The reconstruction. Returns: [B, M]."""
        return codes.decode(self.W_dec) + self.b_dec

    def select(self, pre_BE: Tensor, progress: float) -> Codes:
        """Who is on in training; a value is the pre-activation, or 0."""
        raise NotImplementedError

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Who is on in a trained SAE, decided row by row."""
        raise NotImplementedError

    def target_l0(self, progress: float) -> float | None:
        """Latents on per row that the architecture enforces at `progress`; None where it enforces none."""
        return None

    def _encoder_product(self, x0_BM: Tensor, out: Tensor | None) -> Tensor:
        return torch.addmm(self.b_enc, x0_BM, self.W_enc.T, out=out)


def initial_weights(settings: SAESettings, d_model: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh float32 parameters: decoder rows uniform (Kaiming), scaled to norm 1; encoder = decoder; biases 0.

    Source: dictionary_learning, Matryoshka and JumpReLU trainers.
    """
    W_dec = torch.rand(settings.d_sae, d_model, generator=generator, device=generator.device) * 2 - 1
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    zeros = {name: W_dec.new_zeros(shape) for name, shape in _shapes(settings, d_model).items() if len(shape) == 1}
    return {"W_enc": W_dec.clone(), "W_dec": W_dec, **zeros}


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


def _shapes(settings: SAESettings, d_model: int) -> dict[str, tuple[int, ...]]:
    matrix = (settings.d_sae, d_model)
    return {"W_enc": matrix, "W_dec": matrix, "b_enc": (settings.d_sae,), "b_dec": (d_model,)}
