"""Which engine a config names."""

from pathlib import Path

from strata_sae.pipeline.config.engine import EngineSettings, RaySettings
from strata_sae.pipeline.engines import SHARE, Engine
from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores.files import environment


def engine_of(settings: EngineSettings, *, at: Path, device: str, workers: int | None = None) -> Engine:
    """The engine of a config's `engine`.

    Args:
        at: a name that one engine of a cluster holds at a time; its folder is made where it is not there.
        device: that the config names for what is to be done.
        workers: of `--workers`, in the place of those of a local engine.
    Raises: ConfigError where it cannot be used here.

    """
    from strata_sae.pipeline.engines.local import Local

    if settings.kind == "local":
        return Local(workers or settings.workers, device)
    if workers is not None:
        raise ConfigError(f"--workers: is of engine: local; with engine: {settings.kind} set engine.workers")
    if settings.kind == "slurm":
        if not environment.text(SHARE):
            raise ConfigError(
                "engine: slurm: this process is no task of a job: strata slurm CONFIG | sbatch submits one; "
                "--set engine=local works here"
            )
        return Local(1)
    _check_device(settings, device)
    from strata_sae.pipeline.engines.ray_cluster import RayCluster, Resources

    return RayCluster(settings.address, settings.workers, Resources(settings.cpus, settings.gpus), at)


def _check_device(settings: RaySettings, device: str) -> None:
    if device.startswith("cuda") and settings.gpus == 0:
        raise ConfigError(f"engine.gpus: 0, but the device is {device}; set engine.gpus to 1, or the device to cpu")
    if ":" in device and device != "cuda:0":
        raise ConfigError(f"device {device}: with engine: ray each worker has one GPU, and calls it cuda; write cuda")
