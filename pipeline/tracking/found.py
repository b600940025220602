"""What a run's folder holds for trackers: of each SAE its config, curves, scores and ending; of the run its report."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.runs.chain import read_config
from strata_sae.pipeline.runs.evaluation_records import Measured, Metrics
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.judging_records import FormLosses, ModelMetrics
from strata_sae.pipeline.runs.record_files import fingerprint, lines_in, read_record
from strata_sae.pipeline.runs.records import CurveLine, Ending
from strata_sae.pipeline.tracking.tracker import Entry
from strata_sae.stores.files.hashing import sha256

WHOLE = "report"
"""Label of the entry of the whole run."""
OF_MODEL = ("ce_recovered", "kl_recovered", "ce_recovered_of_mean", "kl_recovered_of_mean")


class Found(NamedTuple):
    """All there is of an entry, but for lines that were found before."""

    entry: Entry
    lines: Sequence[CurveLine]
    scores: Mapping[str, float]
    n_steps: int
    files: Sequence[Path]
    ending: str | None


class Tail:
    """curves.jsonl, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._n_bytes, self._sha256 = path, 0, sha256(b"")

    def new_lines(self) -> list[CurveLine]:
        """The whole lines since the last call; all of them where the file is no longer what it was up to there.

        So it is where a training that goes on has cut it back to its checkpoint.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        is_longer = sha256(whole[: self._n_bytes]) == self._sha256
        lines = lines_in(whole[self._n_bytes if is_longer else 0 :], CurveLine, str(self._path))
        self._n_bytes, self._sha256 = len(whole), sha256(whole)
        return lines


class Looked:
    """A run's folder, looked at again and again."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._entries: dict[tuple[str, bytes], Entry] = {}
        self._tails: dict[str, Tail] = {}

    def curves(self) -> list[Found]:
        """The new lines of each SAE. Raises: CheckpointError if a file is damaged."""
        return [Found(self._entry(sae), self._tail(sae).new_lines(), {}, 0, (), None) for sae in self._saes()]

    def everything(self) -> list[Found]:
        """The same with scores, report and how training ended. Raises: CheckpointError if a file is damaged."""
        found = []
        for sae in self._saes():
            ending = read_record(sae.training, Ending).record if sae.training.exists() else None
            scores, n_steps = (scores_of(sae), ending.n_steps) if ending else ({}, 0)
            status = ending.status if ending else None
            found.append(Found(self._entry(sae), self._tail(sae).new_lines(), scores, n_steps, (), status))
        files = [path for path in (self._run.report, self._run.results) if path.exists()]
        entry = Entry(entry_id(self._run.path.name, WHOLE, ""), WHOLE, self._run.path.name, {})
        return [*found, Found(entry, (), {}, 0, files, "finished")] if files else found

    def _saes(self) -> list[VariantFolder]:
        return [VariantFolder(path.parent) for path in sorted(self._run.path.glob("variants/*@*/config.json"))]

    def _tail(self, sae: VariantFolder) -> Tail:
        return self._tails.setdefault(sae.name, Tail(sae.curves))

    def _entry(self, sae: VariantFolder) -> Entry:
        key = (sae.name, hashlib.sha256(sae.config.read_bytes()).digest())
        if key not in self._entries:
            record = read_config(sae).record
            made = entry_id(self._run.path.name, sae.name, record.fingerprint)
            self._entries[key] = Entry(made, sae.name, self._run.path.name, record.model_dump(mode="json"))
        return self._entries[key]


def entry_id(run: str, label: str, fingerprint_of_sae: str) -> str:
    """The id of an entry: another one where an SAE of the same name has another config."""
    return fingerprint([run, label, fingerprint_of_sae])[:16]


def scores_of(sae: VariantFolder) -> dict[str, float]:
    """Every score that is a number, by `<population>/<metric>`, and what the language model loses with this SAE."""
    scores: dict[str, float] = {}
    if sae.metrics.exists():
        metrics = read_record(sae.metrics, Metrics).record
        scores |= _named("as_trained", metrics.metrics)
        scores |= _named("all_but_special", metrics.all_but_special.metrics if metrics.all_but_special else {})
    if sae.model_metrics.exists():
        for form, losses in read_record(sae.model_metrics, ModelMetrics).record.forms.items():
            scores |= {f"model/{form}/{name}": value for name, value in _of_model(losses).items()}
    return scores


def _named(population: str, metrics: Mapping[str, Measured]) -> dict[str, float]:
    return {f"{population}/{name}": one.value for name, one in metrics.items() if one.value is not None}


def _of_model(losses: FormLosses) -> dict[str, float]:
    values = {name: getattr(losses, name).value for name in OF_MODEL}
    values |= {"cross_entropy": losses.with_sae.cross_entropy.value, "kl": losses.with_sae.kl.value}
    return {name: value for name, value in values.items() if value is not None}
