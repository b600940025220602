"""loader/<site>.jsonl: how reading batches went, by the clock, so outside every identity."""

import time
from pathlib import Path

from strata_sae.pipeline.runs import make_folder, naming
from strata_sae.pipeline.runs.record_files import line_of
from strata_sae.pipeline.runs.records import LoaderLine
from strata_sae.pipeline.trainer.groups import Group
from strata_sae.stores.serving.batches import Batches, JoinedBatches
from strata_sae.stores.serving.mixing import BatchMixing


class LoaderLog:
    """Appends what was added since the last line, so lines add up. A kill loses what came after the last line."""

    def __init__(self, path: Path, group: Group, batches: Batches | JoinedBatches, mixing: BatchMixing | None) -> None:
        self._path = path
        self._clock = batches.clock
        self._group, self._mixing = group, mixing
        self._epoch_rows, self._window_blocks = batches.n_rows, batches.blocks_per_window
        self._before, self._since, self._steps = self._clock.totals(), time.perf_counter(), 0
        make_folder(path.parent)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._append(b"\n")  # ends the line that a kill tore

    def step(self) -> None:
        """Count a step."""
        self._steps += 1

    def write(self) -> None:
        """A line about the steps since the last one; none if there was none."""
        if not self._steps:
            return
        totals, now = self._clock.totals(), time.perf_counter()
        added, mixing = totals.since(self._before), self._mixing
        line = LoaderLine(
            batch_size=self._group.batch_size,
            seed=self._group.seed,
            epoch_rows=self._epoch_rows,
            window_blocks=self._window_blocks,
            perfect_documents=None if mixing is None else mixing.documents,
            perfect_positions=None if mixing is None else mixing.positions,
            predicted_variance_ratio=None if mixing is None else mixing.predicted_variance_ratio(self._window_blocks),
            fill_seconds=added.fill_seconds,
            thread_seconds=added.thread_seconds,
            decode_seconds=added.decode_seconds,
            wait_seconds=added.wait_seconds,
            waits=added.waits,
            n_bytes=added.n_bytes,
            seconds=now - self._since,
            steps=self._steps,
        )
        self._append(line_of(line))
        self._before, self._since, self._steps = totals, now, 0

    def _append(self, data: bytes) -> None:
        with naming(self._path), open(self._path, "ab") as file:
            file.write(data)
