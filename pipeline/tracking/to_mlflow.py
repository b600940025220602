"""MLflow: a file store in runs/<run>/tracking/mlflow/, or what MLFLOW_TRACKING_URI names."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from strata_sae.pipeline.tracking.tracker import Entry, News, numbers_of
from strata_sae.stores.files import environment

if TYPE_CHECKING:
    from mlflow.entities import Run

ID = "strata.id"
"""The tag by which a run is found again."""
BATCH = 100
"""Params that MLflow takes at once; of metrics it takes more."""
LONGEST = 500
"""Characters of a param that every version and store of MLflow takes."""
Point = tuple[str, int]
"""A metric and a step."""


class ToMLflow:
    """An MLflow run for each entry; what it holds is asked for before a later process adds to it."""

    keeps_at_once = True

    def __init__(self, folder: Path, project: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else its use is told to its makers
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=environment.text("MLFLOW_TRACKING_URI") or folder.absolute().as_uri())
        experiment = self._client.get_experiment_by_name(project)
        self._experiment = self._client.create_experiment(project) if experiment is None else experiment.experiment_id
        self._runs: dict[str, tuple[str, dict[Point, float]]] = {}

    def send(self, entry: Entry, news: News, since: int | None) -> None:
        """Log the points that the run has not: of a line by its step, of scores by their value, too."""
        from mlflow.entities import Metric

        run_id, known = self._runs.get(entry.id) or self._open(entry)
        points = {(metric_name(n), line.step): v for line in news.lines for n, v in numbers_of(line).items()}
        points = {point: value for point, value in points.items() if point not in known}
        scores = {(metric_name(name), news.n_steps): value for name, value in news.scores.items()}
        points |= {point: value for point, value in scores.items() if known.get(point) != value}
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for (name, step), value in points.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        known |= scores
        for path in news.files:
            self._client.log_artifact(run_id, str(path))
        if news.ending is not None:
            self._client.set_terminated(run_id, "FAILED" if news.ending == "diverged" else "FINISHED")

    def close(self) -> None:
        """Nothing is left: every call has ended."""

    def _open(self, entry: Entry) -> tuple[str, dict[Point, float]]:
        """The entry's run with all its params, and the points that it held before."""
        from mlflow.entities import Param

        found = self._client.search_runs([self._experiment], f"tags.`{ID}` = '{entry.id}'")
        tags = {ID: entry.id, "strata.run": entry.run}
        run = found[0] if found else self._client.create_run(self._experiment, run_name=entry.name, tags=tags)
        wanted = {name: value for name, value in flat(entry.config) if name not in run.data.params}
        params = [Param(name, value[:LONGEST]) for name, value in wanted.items()]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(run.info.run_id, params=params[start : start + BATCH])
        self._runs[entry.id] = (run.info.run_id, self._points(run))
        return self._runs[entry.id]

    def _points(self, run: "Run") -> dict[Point, float]:
        histories = [self._client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
        return {(point.key, point.step): point.value for history in histories for point in history}


def metric_name(name: str) -> str:
    """A name as MLflow takes it: `loss.l1`, since a file store, which has `loss`, cannot have `loss/l1` beside it."""
    return re.sub(r"[^\w. :-]", "_", name.replace("/", "."))


def flat(config: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(`training.batch_size`, `512`) for each value of a config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield metric_name(f"{prefix}{key}"), str(value)
