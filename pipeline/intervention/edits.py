"""Changes of codes between encoder and decoder: latents that are ablated, clamped or added to, in chosen rows."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex, TypeAlias

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, from_places

Latents: TypeAlias = SupportsIndex | Iterable[SupportsIndex]
"""A latent's number, or several."""
Amounts: TypeAlias = Mapping[int, float | Tensor]
"""Latent -> a number, or a tensor with one number or one for each position, [B, S]; in units of codes."""


class Edits:
    """Which latents of an SAE are set to 0, set to a value, or added to."""

    def __init__(self, d_sae: int, ablate: Latents, clamp: Amounts, add: Amounts) -> None:
        """Raises: ConfigError for a latent that the SAE has not, one that is named twice, or an amount that is none."""
        self._set: dict[int, float | Tensor] = dict.fromkeys(_latents("ablate", ablate, d_sae), 0.0)
        self._add: dict[int, float | Tensor] = {}
        for name, amounts, into in (("clamp", clamp, self._set), ("add", add, self._add)):
            if not isinstance(amounts, Mapping):
                raise ConfigError(f"{name}: is a {type(amounts).__name__}; give a dict, {{latent: value}}")
            for latent in _latents(name, amounts, d_sae):
                if latent in self._set or latent in self._add:
                    raise ConfigError(f"{name}: latent {latent} is ablated, clamped or added to already; name it once")
                into[latent] = _amount(name, latent, amounts[latent])

    def __bool__(self) -> bool:
        return bool(self._set or self._add)

    @property
    def need_gradients(self) -> bool:
        """Whether a gradient is asked for of an amount."""
        amounts = [*self._set.values(), *self._add.values()]
        return any(isinstance(amount, Tensor) and amount.requires_grad for amount in amounts)

    def apply(self, codes: Codes, shape_BS: Sequence[int], edited_P: Tensor | None) -> Codes:
        """The codes of P = B S rows with the edits. edited_P: bool [P], in which rows; None: in all.

        Raises: ConfigError for an amount that is neither one number nor [B, S].
        """
        latents_L = torch.tensor([*self._set, *self._add], device=codes.values.device)
        found_PL = latent_values(codes, latents_L)
        changed = [_spread(amount, latent, found_PL, shape_BS) for latent, amount in self._set.items()]
        for number, (latent, amount) in enumerate(self._add.items(), len(changed)):
            changed.append(found_PL[:, number] + _spread(amount, latent, found_PL, shape_BS))
        changed_PL = torch.stack(changed, dim=1)
        if edited_P is not None:
            changed_PL = torch.where(edited_P[:, None], changed_PL, found_PL)
        return with_latents(codes, latents_L, changed_PL)


def latent_values(codes: Codes, latents_L: Tensor) -> Tensor:
    """The codes of some latents, each named once. Returns: [B, L]."""
    if isinstance(codes, DenseCodes):
        return codes.values_BE[:, latents_L]
    place_E = latents_L.new_full((codes.n_latents,), -1)
    place_E[latents_L] = torch.arange(len(latents_L), device=latents_L.device)
    place_P = place_E[codes.indices_P.long()]
    wanted_P = (place_P >= 0).nonzero().squeeze(1)
    values_BL = codes.values_P.new_zeros(codes.batch_size, len(latents_L))
    return values_BL.index_put((codes.rows_P[wanted_P].long(), place_P[wanted_P]), codes.values_P[wanted_P])


def with_latents(codes: Codes, latents_L: Tensor, values_BL: Tensor) -> Codes:
    """The codes with other values of some latents, each named once; 0 where one is not active."""
    if isinstance(codes, DenseCodes):
        return DenseCodes(codes.values_BE.index_copy(1, latents_L, values_BL))
    kept_P = (~torch.isin(codes.indices_P.long(), latents_L)).nonzero().squeeze(1)
    rows_B = torch.arange(codes.batch_size, device=latents_L.device)
    kept = codes.rows_P[kept_P].long() * codes.n_latents + codes.indices_P[kept_P].long()
    new = (rows_B[:, None] * codes.n_latents + latents_L).flatten()
    flat_P, order_P = torch.cat([kept, new]).sort()
    values_P = torch.cat([codes.values_P[kept_P], values_BL.flatten()])[order_P]
    return from_places(flat_P, values_P, codes.batch_size, codes.n_latents)


def _latents(name: str, latents: Latents, d_sae: int) -> list[int]:
    """Raises: ConfigError for what is no latent."""
    try:
        numbers = list(map(operator.index, latents if isinstance(latents, Iterable) else [latents]))
    except TypeError as error:
        raise ConfigError(f"{name}: {error}; latents are integers, 0 to {d_sae - 1}") from None
    for number in numbers:
        if not 0 <= number < d_sae:
            raise ConfigError(f"{name}: there is no latent {number}; this SAE has the latents 0 to {d_sae - 1}")
    return numbers


def _amount(name: str, latent: int, amount: float | Tensor) -> float | Tensor:
    """Raises: ConfigError unless it is finite numbers."""
    if isinstance(amount, Tensor):
        if amount.ndim not in (0, 2) or amount.is_complex() or not bool(amount.isfinite().all()):
            raise ConfigError(
                f"{name}: latent {latent}: a tensor of shape {list(amount.shape)}; give one finite number, or one for "
                "each position, [B, S]"
            )
        return amount
    try:
        number = float(amount)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: latent {latent}: {amount!r} is no number and no tensor") from None
    if number - number != 0.0:
        raise ConfigError(f"{name}: latent {latent}: {number} is not finite")
    return number


def _spread(amount: float | Tensor, latent: int, found_PL: Tensor, shape_BS: Sequence[int]) -> Tensor:
    """An amount for every row: [P]."""
    if not isinstance(amount, Tensor):
        return found_PL.new_full((found_PL.shape[0],), amount)
    if amount.ndim and tuple(amount.shape) != tuple(shape_BS):
        raise ConfigError(
            f"clamp, add: latent {latent}: a value for each of {list(amount.shape)} positions, but this forward pass "
            f"has {list(shape_BS)}; with a cache, give one number (each step of generate() has one position)"
        )
    return amount.to(found_PL).expand(tuple(shape_BS)).flatten()
