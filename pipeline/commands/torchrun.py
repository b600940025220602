"""Commands that torchrun starts as several ranks: `train`, which holds each SAE in all of them together."""

import logging
from typing import TYPE_CHECKING

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.sharding.launch import launch
from strata_sae.stores.files import environment

if TYPE_CHECKING:
    from strata_sae.pipeline.config.run import TrainConfig


def only_train(command: str | None) -> None:
    """Leave what is told to the first rank. Raises: ConfigError if this is one of several ranks of another command."""
    own = launch()
    if own.n > 1 and command != "train":
        raise ConfigError(
            f"torchrun: {own.n} ranks of {command or 'run'}, but only train is done by ranks together; start this "
            "command once, without torchrun (it reads what ranks have trained as any other SAE)"
        )
    if own.rank > 0:
        logging.getLogger("strata_sae").setLevel("WARNING")


def refuse_with_torchrun(config: "TrainConfig", *, extend: bool, dry_run: bool) -> None:
    """Raises: ConfigError for what cannot be asked of several ranks; their work is split otherwise than an engine's."""
    from strata_sae.pipeline.engines import SHARE

    n = launch().n
    asked = {
        f"engine {config.engine.kind}": config.engine.kind != "local",
        f"engine.workers: {config.engine.workers}": config.engine.workers > 1,
        f"{SHARE}: {environment.text(SHARE)}": environment.text(SHARE) is not None,
        "--extend": extend,
        "--dry-run": dry_run,
        "published SAEs to import": bool(config.imported_variants()),
        "variants whose L0 is matched": any(v.match is not None for v in config.trained_variants().values()),
        "tracking": bool(config.tracking.to),
    }
    if n > 1 and (found := [name for name, is_asked in asked.items() if is_asked]):
        raise ConfigError(
            f"torchrun: {n} ranks hold each SAE together, and that does not go with {' nor with '.join(found)}; "
            "leave it out, or train without torchrun"
        )
