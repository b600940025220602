"""Workers of Ray that die where a test says, once at each place; and what else the tests of Ray have them do."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch

import strata_sae.stores.writing.units as units
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.extractor.extract import fill_share
from strata_sae.pipeline.settings import ModelSettings

MOMENTS = ("before its first unit", "inside a unit", "after a commit, before it is published")
REMOVED = "its node is removed"


def fill_and_die(marks: Path, settings: ModelSettings, path: Path, show_progress: bool, share: Share) -> None:
    """Fill units; the first worker that comes to each of the moments dies there, and leaves a mark.

    The last moment is after a commit, with all the others behind: there the worker says on which node it is, and waits
    for the end of it.
    """
    _die_once(marks / MOMENTS[0])
    units.UnitWriter.append = _before(_die_once, marks / MOMENTS[1], units.UnitWriter.append, after=True)
    units.publish = _before(_die_once, marks / MOMENTS[2], units.publish)
    units.UnitWriter.commit = _before(_wait_for_the_end, marks / REMOVED, units.UnitWriter.commit, after=True)
    fill_share(settings, path, show_progress, share)


def _before(happens: Callable[[Path], None], mark: Path, real: Callable, *, after: bool = False) -> Callable:
    def changed(*arguments: object, **named: object) -> object:
        if not after:
            happens(mark)
        result = real(*arguments, **named)
        if after:
            happens(mark)
        return result

    return changed


def _first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die_once(mark: Path) -> None:
    if _first(mark):
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_the_end(mark: Path) -> None:
    import ray

    if all((mark.parent / moment).exists() for moment in MOMENTS) and _first(mark):
        draft = mark.with_name("node")
        draft.write_text(ray.get_runtime_context().get_node_id())
        draft.replace(mark.with_name("node to remove"))
        while True:
            signal.pause()


def note_process(folder: Path, share: Share) -> None:
    """Write what the process of a worker is like."""
    import logging

    names = ("STRATA_DATA", "HF_HOME", "STRATA_SHARE", "CUDA_VISIBLE_DEVICES")
    noted = {
        "share": [share.index, share.of, share.here],
        "folder": str(Path.cwd()),
        "n_threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in names},
        "level": logging.getLogger("strata_sae").level,
    }
    (folder / f"{share.index}.json").write_text(json.dumps(noted))
