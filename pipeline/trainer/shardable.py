"""Which SAEs several ranks can hold together: those whose every part is a sum or a cut over latents."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.runs.claims import Hold, busy, claim_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.sharding.ranks import Ranks
from strata_sae.pipeline.trainer.jobs import Job
from strata_sae.pipeline.trainer.passes import Pass

ARCHITECTURES = ("topk", "batch_topk", "relu", "jump_relu")
"""Architectures whose selection needs no more of other ranks than a cut."""
TERMS = ("reconstruction", "l1", "l1_decoder_norm", "lp", "aux_k", "l0", "pre_activation")
"""Terms that are of the reconstruction, or sums over latents."""


@contextmanager
def held_by_first(pass_: Pass, run: RunFolder, ranks: Ranks) -> Iterator[Callable[[], None]]:
    """The first rank claims the SAEs of a pass until the block ends. Yields: what it calls before it writes.

    Raises: CheckpointError if another process trains one of them, or has taken it over.
    """
    holds: list[Hold] = []

    def check_held() -> None:
        for hold in holds:
            if hold.is_lost():
                raise CheckpointError(f"{hold.name}: another process has taken it over, since this one showed no life")

    with ExitStack() as stack:
        for job in pass_.jobs if ranks.rank == 0 else ():
            if (hold := claim_in(run, job.name)) is None:
                raise busy(run, [job.name])
            holds.append(stack.enter_context(hold))
        yield check_held


def refuse_unshardable(jobs: Sequence[Job], n_ranks: int) -> None:
    """Raises: ConfigError naming what ranks cannot do of a job; one process can do all of it."""
    for job in jobs:
        if problems := _problems(job, n_ranks):
            raise ConfigError(
                f"{job.name}: {n_ranks} ranks cannot hold it together: {', '.join(problems)}; they can those of the "
                f"architectures {', '.join(ARCHITECTURES)} with the terms {', '.join(TERMS)}: change that, leave the "
                "variant out (--only), or train it without torchrun"
            )


def _problems(job: Job, n: int) -> list[str]:
    """What of a job takes more than sums and cuts over latents, as keys of the config."""
    variant, training, sae = job.variant, job.training, job.variant.sae
    refused = {
        f"sae.architecture: {sae.architecture}": sae.architecture not in ARCHITECTURES,
        f"sae.d_sae: {sae.d_sae}, fewer than ranks": sae.d_sae < n,
        "sae.rank_by: contribution": getattr(sae, "rank_by", "") == "contribution",
        "sae.tie_break: random": getattr(sae, "tie_break", "") == "random",
        "objective.lp.form: lp": getattr(variant.objective.get("lp"), "form", "") == "lp",
        "resampling": variant.resampling is not None,
        "reads and writes": variant.route is not None,
        "an extension": job.record.parent is not None,
        "match": job.folder.number is not None,
        "training.encoder: certified_bfloat16": training.encoder != "float32",
        "training.input_scale: per_document": training.input_scale == "per_document",
        "training.decay: plateau": training.decay == "plateau",
        "training.heldout": training.heldout is not None,
        "training.keep": bool(training.keep),
    }
    terms = [f"objective.{term}" for term in variant.objective if term not in TERMS]
    return [*(name for name, is_asked in refused.items() if is_asked), *terms]
