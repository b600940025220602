"""What is trained together: variants that want the same batches share one pass over the store."""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Route, Variant
from strata_sae.pipeline.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Job:
    """One SAE to train: a variant at a site, with what it inherits from the run resolved."""

    variant_name: str
    variant: Variant
    site: str
    """Name of the site, or of the route."""
    seed: int
    training: TrainingSettings
    """As it holds for this variant."""
    route: Route | None = None
    """What a transcoder or crosscoder reads and writes. None: an SAE of `site`."""

    @property
    def batch_size(self) -> int:
        """Rows per step (count)."""
        return self.training.batch_size

    @property
    def name(self) -> str:
        """`<variant>@<site>`: its folder's name."""
        return f"{self.variant_name}@{self.site}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Jobs that read the same batches."""

    site: str
    batch_size: int
    seed: int
    jobs: tuple[Job, ...]
    own_route: Route | None = None
    """None: an SAE's."""

    @property
    def route(self) -> Route:
        """What is read and written."""
        return self.own_route or Route((self.site,), (self.site,))


def expand(config: RunConfig, sites: list[str]) -> list[Job]:
    """Every SAE at every site, then every variant with a route of its own, in config order."""
    every, seed = config.variants, config.seed
    saes = [(name, site, None) for site in sites for name, variant in every.items() if variant.route is None]
    routed = [(name, route.name, route) for name, variant in every.items() if (route := variant.route) is not None]
    return [
        Job(
            variant_name=name,
            variant=every[name],
            site=site,
            seed=seed if (own := every[name].seed) is None else own,
            training=every[name].resolved(config.training),
            route=route,
        )
        for name, site, route in [*saes, *routed]
    ]


def chosen(jobs: list[Job], patterns: Sequence[str]) -> list[Job]:
    """The jobs of the variants that a name or pattern (topk_*) fits; all where there is none.

    Raises: ConfigError for a pattern that fits no variant.
    """
    names = list(dict.fromkeys(job.variant_name for job in jobs))
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"--only {pattern}: no such variant{nearest(pattern, names)}; there are: {', '.join(names)}"
            )
    return [job for job in jobs if not patterns or any(fnmatch.fnmatchcase(job.variant_name, p) for p in patterns)]


def group(jobs: list[Job]) -> list[Group]:
    """Jobs by (site or route, batch size, seed), in order of first appearance."""
    together: dict[tuple[str, Route | None, int, int], list[Job]] = {}
    for job in jobs:
        together.setdefault((job.site, job.route, job.batch_size, job.seed), []).append(job)
    return [
        Group(site=site, own_route=route, batch_size=batch_size, seed=seed, jobs=tuple(members))
        for (site, route, batch_size, seed), members in together.items()
    ]


REVIVING = ("aux_k", "ghost_gradients", "pre_activation")
"""Terms that act on dead latents."""


def never_dead(jobs: Iterable[Job]) -> list[str]:
    """A line for the variants whose dead latents would be found only after the end of training, if there are any."""
    names = {
        job.variant_name
        for job in jobs
        if any(term in job.variant.objective for term in REVIVING)
        and job.training.n_steps * job.batch_size < job.training.dead_after_rows
    }
    if not names:
        return []
    return [
        f"{', '.join(sorted(names))}: a latent counts as dead after training.dead_after_rows rows without firing, "
        "which is more than are trained on, so the terms that revive the dead never act; lower it"
    ]


def describe(groups: list[Group]) -> list[str]:
    """One line per group, for the log."""
    return [
        f"{group.site}: batches of {group.batch_size} rows, seed {group.seed}, read once for "
        + ", ".join(job.variant_name for job in group.jobs)
        for group in groups
    ]
