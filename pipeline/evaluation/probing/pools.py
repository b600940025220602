"""Rows of a route that probes read: of labelled texts, and held-out rows of the store that their tokens label."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.judging import ProbingSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.probing.drawing import FIRST_SEED, UNLABELLED, Draw, of_texts, of_tokens
from strata_sae.pipeline.evaluation.probing.token_labels import TokenRows, labels
from strata_sae.pipeline.reading.feed import filters_of, side_by_side, sites_of
from strata_sae.pipeline.reading.heldout_rows import heldout_rows
from strata_sae.pipeline.reading.labelled import LabelledRows
from strata_sae.stores import Together, joint_mask

_ROWS_PER_READ = 4096


class DrawnTask(NamedTuple):
    """A task, and which rows of its pool are drawn by each seed."""

    name: str
    y_P: np.ndarray
    """1, 0 or UNLABELLED of each row of the pool."""
    draws: list[Draw]
    n_each: tuple[int, int]
    """Rows of class 0 and of class 1 that there are, drawn or not."""
    n_documents: int


class Pool(NamedTuple):
    """Rows that several tasks share."""

    store_id: str
    of_texts: bool
    x_PM: Tensor
    """As the SAE reads them: float32 [P, d_in]."""
    numbers_P: np.ndarray
    """Of the rows, in their store."""
    tasks: list[DrawnTask]


class Pools(NamedTuple):
    """Everything that is probed at a route, and what is not, with the reason."""

    pools: list[Pool]
    left_out: dict[str, str]


def seeds_of(settings: ProbingSettings) -> list[int]:
    """The seeds of the draws."""
    return [FIRST_SEED + n for n in range(settings.seeds)]


def pools_of(
    route: Route,
    texts: dict[str, LabelledRows],
    stores: Together,
    config: TrainConfig,
    settings: ProbingSettings,
    device: torch.device,
) -> Pools:
    """The rows of all tasks at a route, read once."""
    left_out: dict[str, str] = {}
    pools: list[Pool] = []
    for task in settings.tasks:
        if (labelled := texts.get(task)) is None:
            left_out[task] = "no rows of its texts are there; evaluate --with-model makes them"
        elif missing := [site for site in route.reads if site not in labelled.about.sites]:
            left_out[task] = f"its rows lack {', '.join(missing)}; evaluate --with-model makes them anew"
        else:
            pools += _of_texts(task, labelled, route, settings, device, left_out)
    pools += _of_tokens(route, stores, config, settings, device, left_out)
    return Pools(pools, left_out)


def _of_texts(
    task: str,
    labelled: LabelledRows,
    route: Route,
    settings: ProbingSettings,
    device: torch.device,
    left_out: dict[str, str],
) -> Iterator[Pool]:
    y_P = labelled.labels.get("target")
    if y_P is None or y_P.ndim != 1:
        left_out[task] = "its labels hold no array target [N]"
        return
    try:
        draws = [of_texts(y_P, seed) for seed in seeds_of(settings)]
    except ConfigError as error:
        left_out[task] = str(error)
        return
    x_PM = side_by_side([labelled.rows(site) for site in route.reads], None, device)
    drawn = DrawnTask(task, y_P, draws, (int(np.sum(y_P == 0)), int(np.sum(y_P == 1))), len(y_P))
    yield Pool(labelled.store.id, True, x_PM, np.arange(len(y_P)), [drawn])


def _of_tokens(
    route: Route,
    stores: Together,
    config: TrainConfig,
    settings: ProbingSettings,
    device: torch.device,
    left_out: dict[str, str],
) -> Iterator[Pool]:
    filters = filters_of(config.training.filters)
    store = stores.at(route.reads[0])
    first, last = store.plan.splits["heldout"]
    mask = joint_mask(sites_of(route, stores), "heldout", filters)
    kept = [mask.rows_in(block) + block * store.plan.rows_per_chunk for block in mask.blocks.tolist()]
    numbers_N = np.concatenate(kept) if kept else np.array([], np.int64)
    if not settings.token_tasks or not len(numbers_N):
        left_out.update({task: "no held-out row passes training.filters" for task in settings.token_tasks})
        return
    rows = TokenRows(*(store.token_map(field, first, last) for field in TokenRows._fields))
    passes = numbers_N - first
    token_id_N, document_N = rows.token_id[passes], rows.document[passes]
    drawn: list[tuple[str, np.ndarray, list[Draw]]] = []
    for task in settings.token_tasks:
        y_N = labels(task, rows, store.tokens)[passes]
        try:
            draws = [of_tokens(y_N, token_id_N, document_N, settings.token_rows, seed) for seed in seeds_of(settings)]
            drawn.append((task, y_N, draws))
        except ConfigError as error:
            left_out[task] = str(error)
    wanted = [rows_of for _, _, draws in drawn for draw in draws for rows_of in draw]
    if not wanted:
        return
    pool_P = np.unique(np.concatenate(wanted))
    x_PM = _rows(route, stores, config, numbers_N[pool_P], device)
    tasks = [
        DrawnTask(
            name,
            y_N[pool_P],
            [Draw(*(np.searchsorted(pool_P, rows_of) for rows_of in draw)) for draw in draws],
            (int(np.sum(y_N == 0)), int(np.sum(y_N == 1))),
            len(np.unique(document_N[y_N != UNLABELLED])),
        )
        for name, y_N, draws in drawn
    ]
    yield Pool(store.id, False, x_PM, numbers_N[pool_P], tasks)


def _rows(
    route: Route, stores: Together, config: TrainConfig, wanted_P: Sequence[int] | np.ndarray, device: torch.device
) -> Tensor:
    """The rows of these numbers, which rise, from one pass over the held-out ones."""
    filters = filters_of(config.training.filters)
    parts = []
    for x_BM, _, row_numbers_B in heldout_rows(stores, route, filters, _ROWS_PER_READ, None, device):
        parts.append(x_BM[torch.isin(row_numbers_B.cpu(), torch.as_tensor(wanted_P)).to(x_BM.device)])
    return torch.cat(parts)
