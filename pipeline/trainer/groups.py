"""What is trained together: variants that want the same batches share one pass over the store."""

from dataclasses import dataclass

from pipeline.config.run import RunConfig
from pipeline.config.training import Variant


@dataclass(frozen=True, kw_only=True)
class Job:
    """One SAE to train: a variant at a site, with what it inherits from the run resolved."""

    variant_name: str
    variant: Variant
    site: str
    seed: int
    batch_size: int
    learning_rate: float

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


def expand(config: RunConfig, sites: list[str]) -> list[Job]:
    """Every variant at every site, in config order."""
    return [
        Job(
            variant_name=name,
            variant=variant,
            site=site,
            seed=config.seed if variant.seed is None else variant.seed,
            batch_size=variant.batch_size or config.training.batch_size,
            learning_rate=variant.learning_rate or config.training.learning_rate,
        )
        for site in sites
        for name, variant in config.variants.items()
    ]


def group(jobs: list[Job]) -> list[Group]:
    """Jobs by (site, batch size, seed), in order of first appearance."""
    together: dict[tuple[str, int, int], list[Job]] = {}
    for job in jobs:
        together.setdefault((job.site, job.batch_size, job.seed), []).append(job)
    return [
        Group(site=site, batch_size=batch_size, seed=seed, jobs=tuple(members))
        for (site, batch_size, seed), members in together.items()
    ]


def describe(groups: list[Group]) -> list[str]:
    """One line per group, for the log."""
    return [
        f"{group.site}: batches of {group.batch_size} rows, seed {group.seed}, read once for "
        + ", ".join(job.variant_name for job in group.jobs)
        for group in groups
    ]
