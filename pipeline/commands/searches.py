"""The searches for wanted L0s in a run, as far as they got: what match.json says of each, and what comes next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from strata_sae.pipeline.config.knobs import Knob, knob_of
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route, Variant
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.heldout_l0 import check_heldout_rows
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.match_records import MatchRecord, TrialPart
from strata_sae.pipeline.trainer.jobs import wanted_saes
from strata_sae.pipeline.trainer.knob_search import MOST_TRIALS, Decision, Search, Tried, decide
from strata_sae.pipeline.trainer.trials import Trial, recorded

USUAL_TRIALS = 3
"""Trainings that a search takes whose first knob is within twofold of the right one (median; docs/judging.md)."""


@dataclass
class Matching:
    """The search for the wanted L0 of one SAE, as far as it got."""

    route: Route
    variant: Variant
    folder: VariantFolder
    knob: Knob
    store_id: str
    trials: list[TrialPart] = field(default_factory=list)
    n_rows: int | None = None
    n_documents: int | None = None

    @property
    def decision(self) -> Decision:
        """What comes next."""
        assert self.variant.match is not None
        search = Search(
            target=self.variant.match.l0,
            tolerance=self.variant.match.tolerance,
            start=self.knob.start_at(self.route.name),
            slope=self.knob.slope,
            is_integer=self.knob.is_integer,
            limits=self.knob.limits,
        )
        return decide(search, [Tried(trial.knob, trial.l0) for trial in self.trials])

    def next(self) -> Trial | None:
        """The next training; None where the search has ended."""
        knob = self.decision.knob
        return None if knob is None else Trial(len(self.trials) + 1, knob)

    @property
    def is_open(self) -> bool:
        """Whether it has not ended, or what it found is not in the SAE's folder yet."""
        return self.next() is not None or (self.decision.accepted is not None and not self.folder.training.exists())

    def trail(self) -> str:
        """Every trial, for a line of text."""
        return ", ".join(
            f"{trial.knob:g} gave {'no L0' if trial.l0 is None else format(trial.l0, '.4g')}" for trial in self.trials
        )

    def problem(self) -> str | None:
        """What to tell of a search that failed, and what to do about it."""
        decision, match = self.decision, self.variant.match
        if decision.outcome != "failed" or match is None:
            return None
        return (
            f"variants.{self.folder.variant}.match: L0 {match.l0:g} within {match.tolerance:.3g} at {self.route.name}: "
            f"{decision.reason} ({self.knob.name}: {self.trail()}); begin with a value nearer the one that is looked "
            "for, allow a larger tolerance, or ask for another l0, under another name"
        )


def matchings(config: TrainConfig, only: Sequence[str] = ()) -> list[Matching]:
    """The searches of a run as they stand.

    Raises: CheckpointError if a match.json is damaged or of another search, or an SAE was trained without one.
    """
    variants = config.trained_variants()
    if all(variant.match is None for variant in variants.values()):
        return []
    stores, run = open_store(config), RunFolder(config.run_path())
    wanted = [sae for sae in wanted_saes(config, stores, only) if variants[sae[0]].match is not None]
    for route in dict.fromkeys(route for _, route in wanted):
        check_heldout_rows(config, stores, route)
    found = []
    for name, route in wanted:
        variant = variants[name]
        assert variant.match is not None
        folder = run.variant(f"{name}@{route.name}")
        knob = knob_of(variant.match, variant.sae, variant.objective)
        search = Matching(route, variant, folder, knob, stores.at(route.reads[0]).id)
        look_again(search, config)
        found.append(search)
    return found


def look_again(search: Matching, config: TrainConfig) -> None:
    """Take over what match.json says of a search by now. Raises: as `matchings`."""
    folder = search.folder
    record = recorded(search.variant, folder)
    if record is None and folder.config.exists() and not folder.trial(1).path.exists():
        raise CheckpointError(
            f"{folder.path}: was trained without match; give the variant another name, or delete it (strata runs "
            "delete RUN VARIANT) to train it anew"
        )
    if record is not None:
        _refuse_other_rows(record, config, search.store_id, folder)
        search.trials, search.n_rows, search.n_documents = list(record.trials), record.n_rows, record.n_documents


def next_trials(searches: Sequence[Matching]) -> dict[str, Trial]:
    """`<variant>@<site>` -> the next training of each search that has not ended."""
    return {search.folder.name: trial for search in searches if (trial := search.next()) is not None}


def expected_trainings(searches: Sequence[Matching]) -> list[str]:
    """How many trainings are to be expected, a line for each SAE and one for all; none where nothing is matched."""
    lines, least, most = [], 0, 0
    for search in searches:
        done, match = len(search.trials), search.variant.match
        assert match is not None
        trial = search.next()
        if trial is None:
            lines.append(f"{search.folder.name}: L0 {match.l0:g}: {search.decision.outcome} after {done} trainings")
            continue
        least, most = least + 1, most + MOST_TRIALS - done
        lines.append(
            f"{search.folder.name}: L0 {match.l0:g} within {match.tolerance:.3g}: next {search.knob.name} "
            f"{trial.knob:g}; {done} trainings are done, 1 to {MOST_TRIALS - done} are left"
        )
    if most:
        lines.append(
            f"matching L0 takes {least} to {most} more trainings in all, usually {USUAL_TRIALS} of an SAE whose first "
            "knob is within twofold of the right one; what follows is for the next of each"
        )
    return lines


def _refuse_other_rows(record: MatchRecord, config: TrainConfig, store_id: str, folder: VariantFolder) -> None:
    """Raises: CheckpointError if the L0 of the trials is of other rows than those that are scored now."""
    filters = FilterPart.model_validate(filters_of(config.training.filters).key())
    compared = {
        "store_id": (record.store_id, store_id),
        "filters": (record.filters, filters),
        "max_rows": (record.max_rows, config.evaluation.max_rows),
    }
    for key, (found, now) in compared.items():
        if found != now:
            raise CheckpointError(
                f"{folder.match}: {key}: L0 was matched on other rows ({found}) than are scored now ({now}); set that "
                "back (training.filters, evaluation.max_rows, store.path), or give the variant another name"
            )
