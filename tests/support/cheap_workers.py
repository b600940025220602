"""Stands in for workers, without a model. As a program: two workers that never end. Usage: cheap_workers.py STORE."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from strata_sae.pipeline import stopping
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import StoppedError
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import StoreError, read_plan
from strata_sae.stores.files.filesystem import FileSystem
from support.small_store import fill_unit, stored_rows
from support.waiting import wait_until


def fill_one_and_fail(settings: ModelSettings, path: Path, show_progress: bool, share: Share) -> None:
    """The first of the workers dies again and again; another fills a unit, and has an error that people can act on."""
    if share.index == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    plan = read_plan(path)
    rows = {site: stored_rows(site, plan.n_rows, d_model, plan.encoding) for site, d_model in plan.sites.items()}
    fill_unit(FileSystem(), path, plan, 0, rows)
    raise StoreError("the model is gone")


def note_process(folder: Path, share: Share) -> None:
    """Write who works on a share."""
    (folder / f"{share.index}-of-{share.of}-{share.run}").write_text(f"{os.getpid()} {share.here}")


def note_gpu(folder: Path, share: Share) -> None:
    """Write which GPUs the worker may use, and whether CUDA was left alone until it could say so."""
    (folder / str(share.index)).write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {torch.cuda.is_initialized()}")


def die(folder: Path, deaths: dict[int, int], share: Share) -> None:
    """Die as often as `deaths` says of the share; then leave a file and end."""
    died = len(list(folder.glob(f"died-{share.index}-*")))
    if died < deaths.get(share.index, 0):
        (folder / f"died-{share.index}-{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"ended-{share.index}").touch()


def fail(errors: list[Exception], share: Share) -> None:
    """Raise the error of the share."""
    raise errors[share.index]


def save_when_asked(folder: Path, share: Share) -> None:
    """Work until somebody asks for an end, and save."""
    with stopping.between_steps():
        (folder / f"working-{share.index}-{os.getpid()}").touch()
        try:
            wait_until(stopping.asked)
            stopping.check()
        except StoppedError:
            (folder / f"saved-{share.index}").touch()
            raise


def never_end(path: Path, share: Share) -> None:
    """Work until somebody ends it."""
    (path / f"working-{os.getpid()}").touch()
    while True:  # a signal that a handler of Python takes ends the pause, not the work
        signal.pause()


def main() -> None:
    """Run two workers that never end, or that save when this process is asked to end."""
    store = Path(sys.argv[1])
    if sys.argv[2:] == ["saving"]:
        stopping.listen()
        try:
            Local(2).run(partial(save_when_asked, store), lambda: 0)
        except StoppedError:
            sys.exit(143)
    Local(2).run(partial(never_end, store), lambda: 0)


if __name__ == "__main__":
    main()
