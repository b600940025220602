"""Stands in for workers, without a model. As a program: two workers that never end. Usage: cheap_workers.py STORE."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import StoreError, read_plan
from strata_sae.stores.files.filesystem import FileSystem
from support.small_store import fill_unit, stored_rows


def fill_one_and_fail(settings: ModelSettings, path: Path, show_progress: bool, number: int) -> None:
    """The first of the workers dies; another one fills a unit, and then has an error that people can act on."""
    try:
        (path.parent / "died").touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    plan = read_plan(path)
    rows = {site: stored_rows(site, plan.n_rows, d_model, plan.encoding) for site, d_model in plan.sites.items()}
    fill_unit(FileSystem(), path, plan, 0, rows)
    raise StoreError("the model is gone")


def never_end(path: Path, number: int) -> None:
    """Work until somebody ends it."""
    (path / f"working-{os.getpid()}").touch()
    while True:  # a signal that a handler of Python takes ends the pause, not the work
        signal.pause()


def note_process(folder: Path, item: str) -> None:
    """Write who ran the item; the item `fails` has an error, and the item `dies` ends its process."""
    if item == "fails":
        raise ConfigError(f"there is no {item}")
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / item).write_text(str(os.getpid()))


def main() -> None:
    """Run two workers that never end."""
    store = Path(sys.argv[1])
    Local(2).map(partial(never_end, store), [1, 2], lambda: None)


if __name__ == "__main__":
    main()
