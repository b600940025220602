"""Texts of the 113 tasks with two classes that the package sae-probes carries as files; none of its code runs."""

import csv
import importlib.util
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from strata_sae.pipeline.config.judging import ProbingSettings
from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError, first_line
from strata_sae.pipeline.reading.labelled import (
    LabelledRows,
    check_same_model,
    labelled_root,
    labelled_stores,
    open_labelled,
)
from strata_sae.stores import ActivationStore
from strata_sae.stores.files.hashing import sha256

log = logging.getLogger(__name__)

_PACKAGE = "sae_probes"
_INSTALL = "pip install --no-deps sae-probes==0.4.2"
_KIND = "Binary Classification"
_LONGEST_TEXT = 2**24
"""Bytes of a field of a table; its longest texts have 8,192 characters."""
_MOST_BYTES = 2**30
"""Of an unpacked table."""


class TaskTexts(NamedTuple):
    """Texts of a task, as many of both classes, in a drawn order."""

    texts: list[str]
    target: np.ndarray
    """0 or 1 of each: int8 [N]."""
    classes: list[str]
    """What 0 and 1 stand for, in the package's words."""
    sha256: str
    """Of the file."""


def drawn_as(settings: ProbingSettings, seed: int) -> dict[str, int]:
    """What of the settings the rows of a task depend on; labels.json keeps it."""
    return {"texts": settings.texts, "max_tokens": settings.max_tokens, "seed": seed}


def text_stores(config: RunConfig, settings: ProbingSettings, store: ActivationStore) -> dict[str, LabelledRows]:
    """Task -> its labelled store, of those that are there, of these settings and of the model of `store`."""
    found: dict[str, LabelledRows] = {}
    for path in labelled_stores(labelled_root(config), "probing"):
        labelled = open_labelled(path)
        about = labelled.about
        if about.name not in settings.tasks or about.details.get("drawn") != drawn_as(settings, config.seed):
            continue
        try:
            check_same_model(labelled, store)
        except CheckpointError as error:
            log.warning("%s: left out: %s", about.name, error)
            continue
        found[about.name] = labelled
    return found


def data_folder() -> Path:
    """The folder `data` of the package. Raises: ConfigError saying what to install."""
    found = importlib.util.find_spec(_PACKAGE)  # of a package at the top: nothing is imported
    for place in (found and found.submodule_search_locations) or []:
        if (folder := Path(place) / "data" / "cleaned_data").is_dir() and any(folder.glob("*.csv.zst")):
            return folder.parent
    raise ConfigError(
        f"evaluation.probing.tasks: their texts are files of the package sae-probes, which is not there or carries "
        f"none; {_INSTALL}, or set evaluation.probing.tasks to []"
    )


def task_names(folder: Path) -> list[str]:
    """The tasks with two classes whose files are there."""
    rows = _table(folder / "probing_datasets_MASTER.csv.zst", ("Data type", "Dataset save name"))
    named = [Path(name).stem for kind, name in rows if kind == _KIND]
    return [name for name in named if (folder / "cleaned_data" / f"{name}.csv.zst").is_file()]


def task_texts(folder: Path, task: str, n_texts: int, seed: int) -> TaskTexts:
    """`n_texts` texts of a task, or as many as it has; texts without a visible character are left out.

    Raises: ConfigError if there is no such task, or it has one class.
    """
    if task not in (names := task_names(folder)):
        raise ConfigError(
            f"evaluation.probing.tasks: {task[:80]!r} is none of the package's {len(names)} tasks with two classes, "
            f"such as {', '.join(names[:3])}; its folder data/cleaned_data holds their names"
        )
    path = folder / "cleaned_data" / f"{task}.csv.zst"
    rows = [(text, target) for text, target in _table(path, ("prompt", "target")) if text.strip()]
    classes = sorted({target for _, target in rows})
    if len(classes) != 2:
        raise ConfigError(f"{path.name}: has the classes {', '.join(classes[:5]) or 'none'}; a probe tells two apart")
    target_N = np.array([classes.index(target) for _, target in rows], np.int8)
    rng = np.random.RandomState(seed % 2**32)
    n_each = min(n_texts // 2, *(int(np.sum(target_N == label)) for label in (0, 1)))
    kept = rng.permutation(np.concatenate([rng.permutation(np.where(target_N == c)[0])[:n_each] for c in (0, 1)]))
    return TaskTexts([rows[n][0] for n in kept], target_N[kept], classes, sha256(path.read_bytes()))


def _table(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The columns of a table, by their names. Raises: ConfigError if it is none."""
    limit = csv.field_size_limit(_LONGEST_TEXT)
    try:
        with zstandard.open(path, "rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return [tuple(row[column] or "" for column in columns) for row in rows]
    except (OSError, zstandard.ZstdError, csv.Error, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); install it again: {_INSTALL}") from None
    finally:
        csv.field_size_limit(limit)
