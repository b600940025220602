"""loader/<site>.jsonl: how reading batches went, by the clock, so outside every identity."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from strata_sae.pipeline.runs import make_folder, naming
from strata_sae.pipeline.runs.records import LoaderLine
from strata_sae.pipeline.trainer.groups import Group
from strata_sae.stores.serving.batches import Batches
from strata_sae.stores.serving.diagnostics import BatchMixing
from strata_sae.stores.serving.multi_site import JoinedBatches


class LoaderLog:
    """Appends what was added since the last line, so lines add up. A kill loses what came after the last line."""

    def __init__(self, path: Path, group: Group, batches: Batches | JoinedBatches, mixing: BatchMixing | None) -> None:
        self._path = path
        self._clock = batches.clock
        self._about: dict[str, Any] = {
            "batch_size": group.batch_size,
            "seed": group.seed,
            "epoch_rows": batches.n_rows,
            "window_blocks": batches.blocks_per_window,
        }
        if mixing is not None:
            self._about["perfect_documents"] = mixing.documents
            self._about["perfect_positions"] = mixing.positions
            self._about["predicted_variance_ratio"] = mixing.predicted_variance_ratio(batches.blocks_per_window)
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
        added = asdict(totals.since(self._before))
        line = LoaderLine(**self._about, **added, seconds=now - self._since, steps=self._steps)
        data = json.dumps(line.model_dump(exclude_none=True), sort_keys=True)
        self._append(data.encode("utf-8") + b"\n")
        self._before, self._since, self._steps = totals, now, 0

    def _append(self, data: bytes) -> None:
        with naming(self._path), open(self._path, "ab") as file:
            file.write(data)
