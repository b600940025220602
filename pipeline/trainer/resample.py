"""Dead latents are started again at rows that are reconstructed badly.

Source: Bricken et al. 2023, Towards Monosemanticity. One difference: rows are drawn from the current batch, as in
dictionary_learning, and not from 819,200 rows read for the purpose.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import ResamplingSettings


def is_due(settings: ResamplingSettings | None, step: int) -> bool:
    """Whether latents are resampled after update `step` (1-based)."""
    if settings is None or step % settings.every_steps:
        return False
    return settings.until_step is None or step <= settings.until_step


def draw_rows(error_B: Tensor, n_rows: int, settings: ResamplingSettings, *, seed: int, step: int) -> Tensor:
    """Up to n_rows different rows of a batch, drawn in proportion to the square of their loss, |error|^4: int64.

    A function of the errors |x - xhat|, the seed and the step: the random stream is used for nothing else.
    """
    power = 1 if settings.compat == "dictionary_learning" else 4
    chance_B = error_B.double().cpu().nan_to_num(posinf=0.0) ** power
    n_rows = min(n_rows, int(chance_B.count_nonzero()))
    if n_rows == 0:
        return torch.empty(0, dtype=torch.int64)
    digest = hashlib.sha256(f"resampling {seed} {step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    return torch.multinomial(chance_B / chance_B.max(), n_rows, generator=generator)


def restart(
    parameters: Mapping[str, Tensor],
    memories: Iterable[Mapping[str, Tensor]],
    rows_BM: Tensor,
    dead_E: Tensor,
    settings: ResamplingSettings,
    read_BM: Tensor | None = None,
) -> Tensor:
    """Start one dead latent at each of the rows, latents in order. Returns: those that were started, int64.

    read_BM: what the encoder reads of the same tokens, where that is another site (a transcoder).

    Decoder: the row at norm 1. Encoder: the same direction, with `encoder_scale` times the mean norm of the alive
    latents' rows. Biases: 0; a `threshold` stays. Adam's memories of all of them: 0.
    """
    latents = dead_E.nonzero().squeeze(1)[: len(rows_BM)]
    parameters["W_dec"][latents] = _units(rows_BM)
    rows_BM = rows_BM if read_BM is None else read_BM
    unit_BM = _units(rows_BM)
    if "W_enc" in parameters and bool((~dead_E).any()):
        alive_norm = parameters["W_enc"][~dead_E].norm(dim=1).mean()
        direction_BM = rows_BM if settings.compat == "dictionary_learning" else unit_BM
        parameters["W_enc"][latents] = direction_BM * (settings.encoder_scale * alive_norm)
    elif "W_enc" in parameters:
        parameters["W_enc"][latents] = unit_BM * settings.encoder_scale  # no latent is alive to set a scale
    for name, parameter in parameters.items():
        if name == "b_dec":
            continue
        if parameter.shape == dead_E.shape and name != "threshold":
            parameter[latents] = 0.0
        if len(parameter) == len(dead_E):
            for memory in memories:
                memory[name][latents] = 0.0
    return latents


def _units(rows_BM: Tensor) -> Tensor:
    """The rows at norm 1; a zero row stays."""
    return rows_BM / rows_BM.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows_BM.dtype).tiny)
