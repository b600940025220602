"""Training under `supervise`, or without; a shard that training maps is cut short after the first checkpoint.

python supervised_training.py STORE [cut] [late] [alone]: trains in the working folder. `late`: as if each cut came
after the look that reading takes at a mapped file, and before its bytes are used.
"""

import os
import sys
from pathlib import Path
from typing import Any

from strata_sae.pipeline.commands.sigbus_guard import supervise


def first_shard(store: Path) -> Path:
    return next(store.glob("activations.zarr/sites/*/values/c/0/0"))


def explain() -> str | None:
    from strata_sae.stores import verify

    return "\n".join(verify(Path(sys.argv[1]))) or None


def main(store: Path, options: set[str]) -> None:
    if "alone" not in options:
        supervise(explain)
    import torch

    from strata_sae.pipeline.config import RunConfig
    from strata_sae.pipeline.trainer import session
    from strata_sae.pipeline.trainer.train import train
    from strata_sae.stores.files import places
    from support.small_run import ALL, run_data

    torch.set_num_threads(1)
    real = session.Session._save

    def cutting(self: session.Session, *arguments: Any) -> Any:
        result = real(self, *arguments)
        os.truncate(first_shard(store), 0)
        return result

    if "cut" in options:
        session.Session._save = cutting  # type: ignore[method-assign]
    if "late" in options:
        places._MappedFile.read = lambda self, offset, n_bytes: self._data[offset : offset + n_bytes]  # type: ignore
    train(RunConfig.model_validate(run_data(store, {"topk": ALL["topk"]})), show_progress=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2:]))
