"""From which sites a variant reads and to which it writes: an SAE, a transcoder or a crosscoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from strata_sae.pipeline.saes.base import SAESettings

MAX_FOLDER_NAME = 255
"""Longest name of a folder on common file systems (bytes)."""


@dataclass(frozen=True)
class Route:
    """Rows are those of the sites of `reads` side by side; what is reconstructed, those of `writes`."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def name(self) -> str:
        """`a` for an SAE, `a-to-b` for a transcoder, `a+b` for a crosscoder."""
        reads, writes = "+".join(self.reads), "+".join(self.writes)
        return reads if reads == writes else f"{reads}-to-{writes}"

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site once, those that are read first."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))

    @property
    def is_sae(self) -> bool:
        """Whether it is one site's own: nothing but the site's rows, read and written."""
        return self.reads == self.writes and len(self.reads) == 1

    def d_in(self, widths: Mapping[str, int]) -> int:
        """Width of what is read."""
        return sum(widths[site] for site in self.reads)

    def d_out(self, widths: Mapping[str, int]) -> int:
        """Width of what is written."""
        return sum(widths[site] for site in self.writes)


def route_of(reads: Sequence[str] | None, writes: Sequence[str] | None) -> Route | None:
    """The route of a variant that names one, else None. Raises: ValueError if it makes no sense."""
    if reads is None:
        if writes is not None:
            raise ValueError(
                "writes: needs reads beside it, the sites whose rows are encoded; add it, or remove writes"
            )
        return None
    for key, sites in (("reads", reads), ("writes", writes or [])):
        if len(set(sites)) < len(sites):
            raise ValueError(f"{key}: a site stands twice in {list(sites)}; name each once")
    route = Route(tuple(reads), tuple(reads if writes is None else writes))
    if route.is_sae:
        raise ValueError(
            f"reads: {route.reads[0]!r} alone, which it writes too, is an ordinary SAE; remove reads and writes and "
            "set training.sites, or add the site to write, or a second one to read"
        )
    return route


def check_route(route: Route, sae: SAESettings) -> None:
    """Raises: ValueError naming every knob that needs rows to be read and written alike, where they are not."""
    wrong = []
    if route.reads != route.writes:
        if sae.pre_bias:
            wrong.append("sae.pre_bias: false (b_dec is a centre of what is written)")
        if getattr(sae, "tied", False):
            wrong.append("sae.tied: false")
        elif sae.initial.encoder == "transpose":
            wrong.append("sae.initial.encoder: independent (W_enc cannot start as W_dec)")
    if sae.architecture == "identity":
        wrong.append("another sae.architecture (the identity is that of one site)")
    if len(route.writes) > 1 and getattr(sae, "rank_by", None) == "contribution":
        wrong.append("sae.rank_by: pre_activation (in raw units sites weigh otherwise in a decoder row's norm)")
    if wrong:
        raise ValueError(f"reads and writes ({route.name}) need {' and '.join(wrong)}")


def check_sites(name: str, route: Route, stored: Sequence[str]) -> None:
    """Raises: ValueError if the store lacks a site, or if `<variant>@<route>` is too long for a folder's name."""
    for key, sites in (("reads", route.reads), ("writes", route.writes)):
        for site in sites:
            if site not in stored:
                raise ValueError(
                    f"variants.{name}.{key}: {site!r} is not among store.sites {list(stored)}; add it there"
                )
    if route.name in stored:
        raise ValueError(f"variants.{name}: {route.name} is the name of a site, too; write it as an SAE of that site")
    if len(folder := f"{name}@{route.name}") > MAX_FOLDER_NAME:
        raise ValueError(
            f"variants.{name}: its folder {folder} would have {len(folder)} characters, at most {MAX_FOLDER_NAME} make "
            "a name; shorten the variant's name, or read fewer sites"
        )
