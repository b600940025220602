"""What a worker does: parts of codes that no other process makes, until all are there.

The folders are the queue, as in training: a claim says who makes a segment, a table or labels now (runs/claims.py), and
a file that it is made. So workers need not know of each other, and what a dead one began is begun again.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from strata_sae.pipeline import stopping
from strata_sae.pipeline.codes.coding import Coding, World, claimed, is_there, opened
from strata_sae.pipeline.codes.segments import encoded
from strata_sae.pipeline.codes.tables import latent_table
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.queries.labels import kept_labels
from strata_sae.pipeline.queries.opened import Text
from strata_sae.pipeline.queries.populations import kept_rows
from strata_sae.pipeline.runs.claims import pause
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.stores import CodesPlan, CodesStore, finish_codes, missing_segments, write_segment

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """An SAE whose codes are to be made."""

    name: str
    """`<variant>@<site>`."""
    plan: CodesPlan


def make_all(world: World, asked: Sequence[Asked], share: Share, advance: Callable[[int], None]) -> None:
    """Make codes until those of all SAEs are there, here or by others, whose parts are waited for.

    advance: is called with rows that are encoded.
    Raises: StoreError, CheckpointError, ConfigError; StoppedError between two stretches of rows.
    """
    first, text, waits = len(asked) * share.index // share.of, Text(world.stores), False
    order = [*asked[first:], *asked[:first]]
    with stopping.between_steps():
        while left := [one for one in order if not is_there(world.run.variant(one.name))]:
            if any([_made_some(world, one, share, text, advance) for one in left]):
                continue
            if not waits:
                log.info("waiting for codes that other processes make: %s", ", ".join(one.name for one in left))
            waits = True
            pause()


def _made_some(world: World, one: Asked, share: Share, text: Text, advance: Callable[[int], None]) -> bool:
    """Make what nobody else makes of the codes of an SAE. Returns: whether there was anything."""
    folder, made = world.run.variant(one.name), False
    coding: Coding | None = None
    for what, do in _parts(world, folder, one, share, text, advance):
        hold = claimed(world.run, folder, what)
        if hold is None:
            continue
        with hold:
            stopping.check()
            coding = coding or Coding(world, folder)
            made |= do(coding)
    return made


def _parts(
    world: World, folder: VariantFolder, one: Asked, share: Share, text: Text, advance: Callable[[int], None]
) -> Iterator[tuple[str, Callable[[Coding], bool]]]:
    """Names of the parts that are missing, and what makes each if it is still missing then, and says whether it was."""
    plan, codes = one.plan, folder.codes

    def segment_of(number: int) -> Callable[[Coding], bool]:
        def make(coding: Coding) -> bool:
            if number not in missing_segments(codes, plan):
                return False

            def step(n_rows: int) -> None:
                stopping.check()
                advance(n_rows)

            write_segment(codes, plan, number, encoded(coding.encoder(), plan, number, step))
            return True

        return make

    missing, first = missing_segments(codes, plan), plan.n_segments * share.index // share.of
    for number in [*(i for i in missing if i >= first), *(i for i in missing if i < first)]:
        yield f"segment-{number:04d}", segment_of(number)
    if not is_there(folder) and not missing_segments(codes, plan):
        yield "table", lambda coding: _finished(coding, plan, text)


def _finished(coding: Coding, plan: CodesPlan, text: Text) -> bool:
    """Write the table of the latents, which finishes the codes, and labels of them, unless another process has."""
    if is_there(coding.folder):
        return False
    world, codes = coding.world, CodesStore.before_finish(coding.folder.codes, plan)
    kept_N = kept_rows(world.stores, coding.route, world.filters, "as_trained")
    finish_codes(coding.folder.codes, plan, latent_table(codes, kept_N))
    log.info("%s: codes of %s latents on %s rows", coding.name, f"{plan.d_sae:,}", f"{plan.n_rows:,}")
    kept_labels(opened(coding.world, coding.folder), text)
    return True
