"""Training of variants whose L0 is matched: a round trains the next trial of each in shared passes, then measures it.

A search is a pure function of its trials (trainer/knob_search.py), and a trial is a training like any other, in a
folder of its own. So a kill loses nothing: what is trained is skipped, what was measured stands in match.json, and the
files of the trial that is accepted are copied to the SAE's folder, training.json last.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from strata_sae.pipeline.commands.searches import Matching, look_again, matchings, next_trials
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.engines import Engine, Share, share_of_environment
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.evaluation.heldout_l0 import heldout_l0
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.chain import check_curves, check_weights, read_config, read_training
from strata_sae.pipeline.runs.claims import claim_in, pause, search_of, waited_for
from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.match_records import MatchRecord, TrialPart
from strata_sae.pipeline.runs.record_files import write_record
from strata_sae.pipeline.trainer.jobs import refuse_change
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import Together
from strata_sae.stores.files.filesystem import write_bytes

log = logging.getLogger(__name__)

_ONE_PROCESS = Local(n_workers=1)


def train_matched(
    config: TrainConfig,
    stage: Path | None = None,
    only: Sequence[str] = (),
    *,
    engine: Engine = _ONE_PROCESS,
    show_progress: bool = True,
) -> list[str]:
    """Train every variant, those with `match` as often as it takes; what is finished is skipped.

    A search belongs to one process from its first trial to its last; those of others are waited for.
    Returns: a line for each SAE whose L0 could not be matched; all others are trained then.
    Raises: StoreError, ConfigError, CheckpointError.
    """
    run, searches, is_first = RunFolder(config.run_path()), matchings(config, only), True
    share = share_of_environment() if engine.in_process else Share()
    while True:
        with _taken(config, run, searches, share) as mine:
            elsewhere = {search.folder.name: None for search in searches if search.is_open and search not in mine}
            _adopt(run, mine)
            names = list(only)
            while (trials := next_trials(mine)) or is_first:
                wanted = {**elsewhere, **trials}
                train(config, stage=stage, only=names, trials=wanted, engine=engine, show_progress=show_progress)
                if trials:
                    _measure(config, [search for search in mine if search.folder.name in trials])
                    _adopt(run, mine)
                names, is_first = list(dict.fromkeys(s.folder.variant for s in mine if s.next() is not None)), False
        if not any(search.is_open for search in searches):
            return [problem for search in searches if (problem := search.problem()) is not None]
        if not mine:
            pause()
        for search in searches:
            look_again(search, config)


@contextmanager
def _taken(config: TrainConfig, run: RunFolder, searches: Sequence[Matching], share: Share) -> Iterator[list[Matching]]:
    """Of the searches that have not ended and that no other process holds, a share, until the block ends."""
    is_open = [search for search in searches if search.is_open]
    first, most = len(is_open) * share.index // share.of, -(-len(is_open) // share.of)
    mine: list[Matching] = []
    with ExitStack() as stack:
        for search in [*is_open[first:], *is_open[:first]]:
            hold = claim_in(run, search_of(search.folder.name)) if len(mine) < most else None
            if hold is None:
                continue
            stack.enter_context(hold)
            look_again(search, config)
            if search.is_open:
                mine.append(search)
        yield [search for search in searches if search in mine]


def _measure(config: TrainConfig, searches: Sequence[Matching]) -> None:
    """Add the trial that was just trained to each search, its L0 measured, and write match.json."""
    stores = open_store(config)
    for route in dict.fromkeys(search.route for search in searches):
        trained = [
            (search, search.folder.trial(len(search.trials) + 1)) for search in searches if search.route == route
        ]
        endings = [read_training(folder, read_config(folder).record).record for _, folder in trained]
        finished = [f for (_, f), ending in zip(trained, endings, strict=True) if ending.status == "finished"]
        measured = heldout_l0(config, stores, route, finished) if finished else None
        l0 = iter(measured.l0 if measured else [])
        for (search, _), ending in zip(trained, endings, strict=True):
            trial = search.next()
            assert trial is not None
            part = TrialPart(
                knob=trial.knob,
                l0=next(l0) if ending.status == "finished" else None,
                sae=ending.fingerprint,
                weights_sha256=ending.sha256.weights,
            )
            search.trials.append(part)
            if measured is not None:
                search.n_rows, search.n_documents = measured.n_rows, measured.n_documents
            _write(config, stores, search)


def _write(config: TrainConfig, stores: Together, search: Matching) -> None:
    """Write match.json, and say what the last trial gave."""
    match, decision, last = search.variant.match, search.decision, search.trials[-1]
    assert match is not None
    record = MatchRecord(
        variant=search.folder.variant,
        site=search.route.name,
        l0=match.l0,
        tolerance=match.tolerance,
        knob=search.knob.name,
        store_id=stores.at(search.route.reads[0]).id,
        filters=FilterPart.model_validate(filters_of(config.training.filters).key()),
        max_rows=config.evaluation.max_rows,
        n_rows=search.n_rows,
        n_documents=search.n_documents,
        trials=search.trials,
        outcome=decision.outcome,
        accepted=decision.accepted,
        reason=decision.reason,
    )
    write_record(search.folder.match, record)
    l0 = "diverged" if last.l0 is None else f"L0 {last.l0:.4g} ({100 * (last.l0 / match.l0 - 1):+.1f} %)"
    log.info(
        "%s: trial %d: %s %g: %s: %s",
        search.folder.name,
        len(search.trials),
        search.knob.name,
        last.knob,
        l0,
        decision.outcome,
    )


def _adopt(run: RunFolder, searches: Sequence[Matching]) -> None:
    """Copy the files of each accepted trial to its SAE's folder, where they are not there yet; training.json last.

    Raises: CheckpointError if that folder holds another SAE, or the trial's files are damaged.
    """
    for search in searches:
        accepted, folder = search.decision.accepted, search.folder
        if accepted is None or folder.training.exists():
            continue
        with waited_for(run, folder.name):
            _copy(folder.trial(accepted), folder)


def _copy(trial: VariantFolder, folder: VariantFolder) -> None:
    """Copy the files of a trial, training.json last. Raises: as `_adopt`."""
    config = read_config(trial).record
    if folder.config.exists():
        refuse_change(read_config(folder).record, config, str(folder.path))
    ending = read_training(trial, config).record
    check_weights(trial, ending)
    check_curves(trial, ending)
    kept = [path.relative_to(trial.path) for path in sorted(trial.checkpoints.glob("kept_*/*"))]
    whole = [path.relative_to(trial.path) for path in (trial.config, trial.weights, trial.curves)]
    for name in [*whole, *kept, trial.training.relative_to(trial.path)]:
        write_bytes(folder.path / name, (trial.path / name).read_bytes())
