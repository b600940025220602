"""The units of training: every site weighs the same, and all of them together have mean square norm 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.runs.records import SAERecord, SitePart


@dataclass(frozen=True)
class Scaling:
    """What rows are multiplied by before they are read or compared, site by site, and codes as a consequence."""

    reads: tuple[float, ...]
    writes: tuple[float, ...]
    codes: float
    """Codes of raw rows times this are the trainer's. For an SAE, the factor of its rows."""


def scaling(route: Route, mean_squares: Mapping[str, float]) -> Scaling:
    """E||x_site||^2 = 1 / n_sites for those read and for those written. mean_squares: E||x||^2 by site."""

    def factors(sites: Sequence[str]) -> tuple[float, ...]:
        return tuple((len(sites) * mean_squares[site]) ** -0.5 for site in sites)

    total = sum(mean_squares[site] for site in route.writes)
    return Scaling(factors(route.reads), factors(route.writes), total**-0.5)


def parts(sites: Sequence[str], factors: Sequence[float], widths: Mapping[str, int]) -> list[SitePart]:
    """What a record says of sites side by side, in their order."""
    return [SitePart(site=site, width=widths[site], scale=factor) for site, factor in zip(sites, factors, strict=True)]


def fold(weights: Mapping[str, Tensor], record: SAERecord) -> dict[str, Tensor]:
    """Weights for raw rows, from weights that are in units of codes already (see `in_raw_units`).

    With x' = S x, y' = T y and codes' = c codes: W_enc' S / c, c W_dec' / T and (b_dec' / c) c / T. All of these
    factors would be 1 for an SAE.
    """
    codes = record.input_scale
    read_M = _columns(record.reads) / codes
    written_M = codes / _columns(record.writes)
    by_name = {"W_enc": read_M, "W_dec": written_M, "b_dec": written_M}
    return {name: tensor * by_name[name].to(tensor) if name in by_name else tensor for name, tensor in weights.items()}


def _columns(sites: Sequence[SitePart]) -> Tensor:
    """The scale of every column: float64."""
    return torch.cat([torch.full((site.width,), site.scale, dtype=torch.float64) for site in sites])
