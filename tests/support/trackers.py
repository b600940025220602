"""What trackers hold of a run, as their own readers find it, and what its folder holds."""

import json
from typing import Any

from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.tracking.to_mlflow import metric_name
from support.wandb_file import records

Points = dict[str, list[tuple[int, float]]]
"""Name of a quantity -> (step, value) of each time it was shown, by step."""


def in_curves(run: RunFolder, label: str) -> Points:
    """Of curves.jsonl."""
    found: Points = {}
    for line in map(json.loads, run.variant(label).curves.read_text().splitlines()):
        for name, value in line.items():
            if name not in ("step", "version", "similarity") and value is not None:
                found.setdefault(name, []).append((line["step"], value))
    return found


def in_tensorboard(run: RunFolder, label: str, *, purged: bool = True) -> Points:
    """purged: without what TensorBoard does not show, since a later writer said from which step on it writes anew."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = str(run.tracking / "tensorboard" / label)
    events = EventAccumulator(folder, size_guidance={"scalars": 0}, purge_orphaned_data=purged)
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def tensorboard_text(run: RunFolder, label: str, name: str) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tracking / "tensorboard" / label))
    events.Reload()
    return events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()


def mlflow_run(run: RunFolder, label: str) -> tuple[Any, Any]:
    """A client, and the one run that has this name."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(run.tracking / "mlflow").absolute().as_uri())
    experiment = client.get_experiment_by_name("strata")
    runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.runName = '{run.path.name}/{label}'")
    assert len(runs) == 1
    return client, runs[0]


def in_mlflow(run: RunFolder, label: str) -> Points:
    client, found = mlflow_run(run, label)
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return {name: sorted((point.step, point.value) for point in history) for name, history in histories.items()}


def as_mlflow(points: Points) -> Points:
    """With the names that MLflow takes."""
    return {metric_name(name): values for name, values in points.items()}


def wandb_records(run: RunFolder, label: str) -> list[Any]:
    """Of all files of the entry of this name."""
    found = []
    for path in sorted((run.tracking / "wandb").glob("offline-run-*/run-*.wandb")):
        of_file = list(records(path))
        if any(record.run.display_name == f"{run.path.name}/{label}" for record in of_file):
            found += of_file
    return found


def in_wandb(run: RunFolder, label: str) -> Points:
    """Of the history."""
    found: Points = {}
    for record in wandb_records(run, label):
        for item in record.history.item if record.HasField("history") else ():
            name = item.key or item.nested_key[0]
            if not name.startswith("_"):
                found.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return found


def wandb_summary(run: RunFolder, label: str) -> dict[str, Any]:
    found = {}
    for record in wandb_records(run, label):
        for item in record.summary.update if record.HasField("summary") else ():
            found[item.key or item.nested_key[0]] = json.loads(item.value_json)
    return found
