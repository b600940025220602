"""`strata codes`: the codes of every latent of a run's SAEs on every row, and what is known of each latent.

A segment of rows is an item for the workers of an engine. Rows are encoded once; a filter acts when codes are read.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.codes.coding import Coding, World, is_there, opened
from strata_sae.pipeline.codes.estimate import Estimate, estimate, is_too_dense, refused, rows_per_segment, sampled_l0
from strata_sae.pipeline.codes.sharing import Asked, make_all
from strata_sae.pipeline.config import dump, load
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.engines import Engine, Share
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.pages.text import size
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.opened import CodedSAE, Text
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.strict_yaml import parse
from strata_sae.stores import create_codes, missing_segments
from strata_sae.stores.files.filesystem import missing_space

log = logging.getLogger(__name__)

_ONE_PROCESS = Local(n_workers=1)


class ToMake(NamedTuple):
    """What is to be done of a run."""

    asked: list[Asked]
    estimates: list[Estimate]
    """Of each of them."""
    refused: list[str]
    """A line for each SAE whose codes would be too many."""
    labelled: list[CodedSAE]
    """Those whose codes are there; a kill may have left them without labels."""

    @property
    def lines(self) -> list[str]:
        """What is made, and what it takes, in words."""
        lines = [
            f"{one.name}: {of.l0:,.1f} of {one.plan.d_sae:,} latents a row ({of.density:.2%}), about {of.n_pairs:,} "
            f"codes, {size(of.n_bytes)} in {one.plan.n_segments:,} segments"
            for one, of in zip(self.asked, self.estimates, strict=True)
        ]
        if len(lines) > 1:
            lines.append(f"together about {size(sum(of.n_bytes for of in self.estimates))}")
        return lines


def build_codes(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    only: str | None = None,
    engine_of: Callable[[TrainConfig], Engine] = lambda _: _ONE_PROCESS,
    n_rows_per_segment: int | None = None,
    dry_run: bool = False,
    show_progress: bool = False,
) -> None:
    """Make the codes of every trained SAE of a run; what is made is skipped, what was interrupted goes on.

    Any number of processes may do this in one run folder: each makes what no other makes, and waits for the rest.

    Args:
        path: the run's folder.
        only: `<variant>@<site>` of the one SAE to do this for.
        engine_of: who makes them, from the run's config.
        n_rows_per_segment: in the place of what suits the codes' number.
        dry_run: print what would be made and what it takes, and make nothing.
    Raises: ConfigError for SAEs with too many active latents, when the others are done, and for a disk that is too
        small; StoreError, CheckpointError; StoppedError if this process was asked to end.

    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise ConfigError(f"{path}: no folder of a run, which holds config.yaml")
    config = TrainConfig.of(load(run.config, list(overrides)), run.config)
    world = _world(run, config)
    to_make = _to_make(world, run.trained() if only is None else [run.variant(only)], n_rows_per_segment)
    for line in to_make.lines:
        log.info("%s", line)
    if not dry_run:
        text = Text(world.stores)
        for sae in to_make.labelled:
            kept_labels(sae, text)
    if to_make.asked and not dry_run:
        _refuse_full_disk(run, to_make)
        for one in to_make.asked:
            create_codes(run.variant(one.name).codes, one.plan)
        _make(config, world, to_make.asked, engine_of(config), show_progress=show_progress)
    if to_make.refused:
        raise ConfigError("\n".join(to_make.refused))


def _world(run: RunFolder, config: TrainConfig) -> World:
    device = choose_device(config.training.device, "training.device")
    return World(run, open_store(config), filters_of(config.training.filters), device)


def _to_make(world: World, folders: Sequence[VariantFolder], n_rows_per_segment: int | None) -> ToMake:
    """Look at each SAE, and at a few rows of those whose codes are not there."""
    found = ToMake([], [], [], [])
    for folder in folders:
        coding = Coding(world, folder)
        if coding.trained.training.status != "finished":
            log.info("%s: its training %s, so it has no codes", folder.name, coding.trained.training.status)
        elif is_there(folder):
            found.labelled.append(opened(world, folder))
            log.info("%s: codes are there", folder.name)
        else:
            d_sae, n_rows = coding.trained.sae.d_sae, world.stores.stores[0].plan.n_rows
            l0 = sampled_l0(coding.encoder(), n_rows)
            if is_too_dense(l0, d_sae):
                found.refused.append(f"{folder.path}: {refused(l0, d_sae)}")
                continue
            found.asked.append(Asked(folder.name, coding.plan(n_rows_per_segment or rows_per_segment(l0))))
            found.estimates.append(estimate(l0, d_sae, n_rows))
    return found


def _refuse_full_disk(run: RunFolder, to_make: ToMake) -> None:
    """Raises: ConfigError where the disk has no room for the segments that are missing."""
    needed = 0
    for one, of in zip(to_make.asked, to_make.estimates, strict=True):
        n_missing = len(missing_segments(run.variant(one.name).codes, one.plan))
        needed += of.n_bytes * n_missing // max(one.plan.n_segments, 1)
    if problem := missing_space(run.path, needed):
        raise ConfigError(f"{run.path} {problem}; make room, then run the same command again: what is there is kept")


def _make(config: TrainConfig, world: World, asked: Sequence[Asked], engine: Engine, *, show_progress: bool) -> None:
    """Have the engine's workers make codes. Raises: CheckpointError with their reasons if not all are made."""
    run = world.run
    total = sum(one.plan.n_rows for one in asked)
    with Progress("codes", total, "row", start=_rows_there(run, asked), shown=show_progress) as bar:
        if engine.in_process:
            engine.run(lambda share: make_all(world, asked, share, bar.advance), lambda: 0)
            return

        def watch() -> int:
            bar.advance(max(0, _rows_there(run, asked) - bar.done))
            return bar.done

        reasons = engine.run(partial(make_share, dump(config), run.path.absolute(), tuple(asked)), watch)
        watch()
    if missing := [one.name for one in asked if not is_there(run.variant(one.name))]:
        raise CheckpointError(
            f"{run.path}: all workers have ended, and {len(missing)} of {len(asked)} SAEs have no codes yet "
            f"({', '.join(missing[:10])}): {'; '.join(reasons)}. Remove the cause and run the same command again: what "
            "is there is kept"
        )


def make_share(text: str, path: Path, asked: Sequence[Asked], share: Share) -> None:
    """What a worker does: make what no other makes until all is there. text: a config as YAML."""
    config = TrainConfig.model_validate(parse(text, "config.yaml")[0])
    make_all(_world(RunFolder(path), config), asked, share, lambda n_rows: None)


def _rows_there(run: RunFolder, asked: Sequence[Asked]) -> int:
    """Rows of the segments that are there, of all SAEs."""
    n_rows = 0
    for one in asked:
        missing = set(missing_segments(run.variant(one.name).codes, one.plan))
        spans = (one.plan.segment_rows(i) for i in range(one.plan.n_segments) if i not in missing)
        n_rows += sum(stop - start for start, stop in spans)
    return n_rows
