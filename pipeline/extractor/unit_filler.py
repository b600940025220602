"""One unit after the other: the model runs over its sequences; a thread writes the rows while the next batch runs."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline import stopping
from strata_sae.pipeline.errors import ConfigError, first_line, one_line
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.inputs import Inputs, Recorded, Span, batches, groups, unit_spans
from strata_sae.pipeline.once import made_once
from strata_sae.stores import (
    STAGING,
    Plan,
    StoredArray,
    StoreError,
    UnitWriter,
    commit_calibration,
    committed_columns,
    is_calibrated,
    shard_records,
    sweep,
    write_timing,
)
from strata_sae.stores.files.claims import is_claimed
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.mounts import is_safe_to_map
from strata_sae.stores.files.places import LocalPlace

log = logging.getLogger(__name__)

_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float32, "int8": torch.float32}
"""What the writer gets rows as, by encoding. It makes float16 and int8 itself: in float32 no number has overflowed."""
_FULL = ("out of memory", "can't allocate memory")
"""What torch says of a device, or a machine, that is full, where it has no exception of its own."""


class NotTried(Exception):
    """A unit is given up because the writer had failed before."""


Ended = Callable[[BaseException | None], None]
"""Is told, once for each unit, that it is committed (None), or what it was given up for."""


def why_failed(error: BaseException) -> str | None:
    """Why a unit could not be filled, in a line; None for an error that is no failure of a unit."""
    if isinstance(error, ConfigError | StoreError | OSError):
        return one_line(error)
    is_full = isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)
    if is_full or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"no memory is left: {first_line(error)}; end what else uses it, or plan with a lower model.batch_tokens"
    return None


def _raised(error: BaseException | None) -> None:
    if error is not None:
        raise error


@dataclass
class _Attempt:
    unit: int
    writer: UnitWriter
    ended: Ended
    began: float
    rows: int = 0
    """Written so far."""
    over: bool = False
    """Committed or given up: what else is handed over of it is left out."""
    told: threading.Event = field(default_factory=threading.Event)
    """Set when `ended` has been called."""


class UnitFiller:
    """Runs the model over units; rows are written, and units committed, by one background thread."""

    def __init__(
        self, files: FileSystem, store: Path, plan: Plan, capture: Capture, advance: Callable[[int], None]
    ) -> None:
        """`advance` is told how many rows have been written, and less than 0 for those of a unit that was given up."""
        self._files, self._store, self._plan, self._capture = files, store, plan, capture
        self._advance = advance
        place = LocalPlace(store, mapped=is_safe_to_map(store))
        self._tokens = {
            field: StoredArray(place, spec, shard_records(plan.version, spec, plan.files))
            for field, spec in plan.token_specs.items()
        }
        self._batch_tokens = Recorded.of(plan).model.batch_tokens
        self._calibrate()
        self._columns = committed_columns(store, plan)
        # At most two groups wait, so that with a slow disk the model waits and memory does not fill up.
        self._queue: queue.Queue[tuple[_Attempt, Callable[[], None]] | None] = queue.Queue(maxsize=2)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="strata-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> "UnitFiller":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        with nullcontext() if kind is None else suppress(BaseException):  # the one that is raised came first
            self.close()

    def close(self) -> None:
        """Wait until every unit handed over is committed, or given up. Raises what else went wrong in the writer."""
        self._queue.put(None)
        self._thread.join()
        self._raise_failure()

    def fill(self, unit: int, ended: Ended = _raised) -> None:
        """Run the model over a unit and hand its rows to the writer, which commits it when it is complete.

        ended: called once, by this thread or by the writer's. What it raises, `fill` raises, or the next call of it.
        Raises: StoppedError, between two batches, and any other error that is no failure of a unit.
        """
        if self._failure is not None:
            ended(NotTried())
            raise self._failure
        began = time.monotonic()
        start, stop = rows = self._plan.unit_rows(unit)
        try:
            flags_N = self._tokens["flags"].rows(start, stop)
            writer = UnitWriter(self._files, self._store, self._plan, unit, flags_N, self._columns)
        except BaseException as error:
            ended(error)
            if why_failed(error) is None:
                raise
            return
        attempt = _Attempt(unit, writer, ended, began)
        try:
            for group in groups(unit_spans(self._plan, self._token_map, rows), self._batch_tokens):
                if attempt.over:
                    return
                self._queue.put((attempt, partial(self._write, attempt, self._run(group, rows))))
            self._queue.put((attempt, partial(self._commit, attempt)))
        except BaseException as error:
            self._queue.put((attempt, partial(_raised, error)))  # the writer may be at work on this unit: it ends it
            attempt.told.wait()
            if why_failed(error) is None:
                raise

    def _token_map(self, field: str, start: int, stop: int) -> np.ndarray:
        return self._tokens[field].rows(start, stop)

    def _calibrate(self) -> None:
        """Have the columns of an int8 store committed, by one of the processes that fill it."""
        files, store, plan = self._files, self._store, self._plan
        claimed = store / STAGING / "calibrating"

        def make() -> bool:
            if is_calibrated(store, plan):
                sweep(files, store, plan)  # whoever committed it died before its files had their names
            else:
                commit_calibration(files, store, plan, self._calibration_rows())
            return True

        def found() -> bool | None:
            # Between the commit and its files' names is a moment, which the claim outlasts.
            return (is_calibrated(store, plan) and not is_claimed(claimed)) or None

        if not found():
            files.make_folder(store / STAGING)
            made_once(claimed, f"{store}: the calibration", found, make)

    def _calibration_rows(self) -> dict[str, np.ndarray]:
        """The rows that an int8 plan calibrates its columns on, [N, M] float32 by site."""
        assert self._plan.calibration is not None
        pieces: dict[str, list[np.ndarray]] = {site: [] for site in self._plan.sites}
        for start, stop in self._plan.calibration:
            for group in groups(unit_spans(self._plan, self._token_map, (start, stop)), self._batch_tokens):
                for site, rows_NM in self._run(group, (start, stop)).items():
                    pieces[site].append(rows_NM)
        return {site: np.concatenate(parts) for site, parts in pieces.items()}

    def _run(self, group: list[Span], rows: tuple[int, int]) -> dict[str, np.ndarray]:
        """Rows of a group of sequences, as stored, in plan order, those outside the unit left out."""
        first, last = group[0].start, group[-1].stop
        inputs = Inputs(self._plan, self._token_map, group)
        stored_type = _TORCH_TYPES[self._plan.encoding]
        out = {site: torch.empty((last - first, width), dtype=stored_type) for site, width in self._plan.sites.items()}
        for batch in batches(group, self._batch_tokens):
            stopping.check()
            for site, values_BSM in self._capture.forward(*inputs.batch(batch)).items():
                values_BSM = values_BSM.to(stored_type).cpu()
                for row, span in enumerate(batch):
                    out[site][span.start - first : span.stop - first] = values_BSM[row, : span.length]
        low, high = max(rows[0] - first, 0), min(rows[1], last) - first
        return {site: _as_stored(values_NM[low:high]) for site, values_NM in out.items()}

    def _write(self, attempt: _Attempt, piece: dict[str, np.ndarray]) -> None:
        for site, rows_NM in piece.items():
            attempt.writer.append(site, rows_NM)
        n_rows = len(next(iter(piece.values())))
        attempt.rows += n_rows
        self._advance(n_rows)

    def _commit(self, attempt: _Attempt) -> None:
        attempt.writer.commit()
        self._end(attempt, None)
        try:
            write_timing(self._files, self._store, attempt.unit, attempt.rows, time.monotonic() - attempt.began)
        except OSError as error:  # nothing depends on it
            log.warning("%s: how long unit %d took is not recorded: %s", self._store, attempt.unit, one_line(error))

    def _end(self, attempt: _Attempt, error: BaseException | None) -> None:
        attempt.over = True
        try:
            attempt.writer.close()
        finally:
            try:
                attempt.ended(error)
            finally:
                attempt.told.set()

    def _give_up(self, attempt: _Attempt, error: BaseException) -> None:
        try:
            if attempt.over:
                raise error
            self._advance(-attempt.rows)
            self._end(attempt, error)
        except BaseException as failure:
            self._failure = self._failure or failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            attempt, action = job
            if attempt.over:
                continue
            try:
                if self._failure is not None:
                    raise NotTried
                action()
            except BaseException as error:
                self._give_up(attempt, error)


def _as_stored(values_NM: Tensor) -> np.ndarray:
    if values_NM.dtype == torch.bfloat16:
        return np.asarray(values_NM.view(torch.int16).numpy().view(np.uint16))
    return np.asarray(values_NM.numpy())
