"""Who extracts and trains: processes of this machine, a Ray cluster, or a SLURM job. No result depends on it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from strata_sae.pipeline.settings import Settings
from strata_sae.pipeline.strict_yaml import Yaml


class LocalSettings(Settings):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    """This machine alone."""
    workers: int = Field(default=1, gt=0, le=1024)
    """Processes that share the work (count). Each gets a GPU of its own where there is one, and its share of threads;
    equal bits need equal numbers of threads."""


class ClusterSettings(Settings):
    """What a worker gets of a cluster."""

    workers: int = Field(default=1, gt=0, le=100_000)
    """Workers at the same time (count)."""
    cpus: int = Field(default=1, gt=0, le=1024)
    """Threads of each worker (count); equal bits need equal numbers."""
    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs of each worker (count)."""


class RaySettings(ClusterSettings):
    """An existing Ray cluster, every node of which sees this folder under the same path."""

    kind: Literal["ray"]
    """A Ray cluster; needs the extra `ray`."""
    address: Annotated[str, Field(pattern=r"^(auto|[A-Za-z0-9_.:\[\]-]{1,250}:[0-9]{1,5})$")] = "auto"
    """Of its head, as host:port. `auto`: the one that this machine belongs to, or that RAY_ADDRESS names."""


class SlurmSettings(ClusterSettings):
    """A SLURM job: `strata slurm CONFIG | sbatch`."""

    kind: Literal["slurm"]
    """An array job, one task a worker."""
    sbatch: list[Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[A-Za-z0-9_.,:/@%+-]+)?$")]] = Field(default=[])
    """Further options of sbatch, as --partition=gpu or --time=04:00:00."""


def spelled_out(value: Yaml) -> Yaml:
    """`engine: ray` is `engine: {kind: ray}`; a mapping without a kind is local."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "local", **value} if isinstance(value, dict) else value


EngineSettings = Annotated[
    Annotated[LocalSettings | RaySettings | SlurmSettings, Field(discriminator="kind")], BeforeValidator(spelled_out)
]
"""A kind of engine by its name, or a group of its settings."""
