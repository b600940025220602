"""The SAEs of a run as jobs: what each one is, where it lies, and the record of everything its bits depend on."""

import fnmatch
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.training import ResolvedTraining
from strata_sae.pipeline.config.variants import Route, Variant
from strata_sae.pipeline.errors import CheckpointError, ConfigError, nearest
from strata_sae.pipeline.reading.feed import Scaling, TrainingRows, filters_of, training_rows
from strata_sae.pipeline.runs.chain import UNHASHED, check_curves, read_training
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import changed_keys, read_record, with_fingerprint
from strata_sae.pipeline.runs.records import ResamplingPart, SAEPart, SAERecord, SitePart, TermPart, TrainingPart
from strata_sae.pipeline.trainer.trials import Trial, to_train
from strata_sae.stores import Together

log = logging.getLogger(__name__)

NOT_IDENTITY = {"checkpoint_every_steps", "sites", "shared_windows", "memory_bytes", "epochs"}
"""Training settings that cannot change the result of a job; all others may not change once it has begun.

`epochs` is recorded as the `n_steps` that it gives.
"""
REVIVING = ("aux_k", "ghost_gradients", "pre_activation")
"""Terms that act on dead latents."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One SAE to train: a variant at a site, or on a route of its own."""

    variant_name: str
    variant: Variant
    route: Route
    """What is read and written: one site for an SAE, several for a transcoder or crosscoder."""
    seed: int
    training: ResolvedTraining
    """The run's `training` section with the variant's own settings in it, in numbers: what holds for this SAE."""
    rows: TrainingRows
    record: SAERecord
    folder: VariantFolder

    @property
    def first_batch(self) -> int:
        """The number of its first batch: an extension reads on where its parent stopped."""
        return 0 if self.record.parent is None else self.record.parent.n_steps

    @property
    def name(self) -> str:
        """`<variant>@<site or route>`: its folder's name."""
        return self.folder.name

    @property
    def label(self) -> str:
        """Its variant, and the number of the trial where it is one."""
        number = self.folder.number
        return self.variant_name if number is None else f"{self.variant_name} (trial {number})"


def wanted_saes(config: TrainConfig, stores: Together, only: Sequence[str] = ()) -> list[tuple[str, Route]]:
    """Every variant that is trained at every site, then those with a route of their own, in config order.

    only: names or patterns (topk_*) of variants; none: all.
    Raises: ConfigError for a pattern that fits no variant, or a site that the stores lack.
    """
    trained = config.trained_variants()
    variants = {name: trained[name] for name in chosen(list(config.variants), only) if name in trained}
    at_sites = [Route((site,), (site,)) for site in _sites(config, stores)]
    wanted = [(name, route) for route in at_sites for name, variant in variants.items() if variant.route is None]
    return wanted + [(name, variant.route) for name, variant in variants.items() if variant.route is not None]


def plan_jobs(
    config: TrainConfig,
    stores: Together,
    run: RunFolder,
    only: Sequence[str] = (),
    trials: Mapping[str, Trial | None] | None = None,
) -> list[Job]:
    """A job for every one of the wanted SAEs, in their order.

    Args:
        only: names or patterns (topk_*) of variants; none: all.
        trials: `<variant>@<site>` -> what is to be tried of an SAE whose L0 is being matched; None where another
            process searches. Those, and others that are not matched, are left out. No mapping: all must be matched.
    Raises: ConfigError as `wanted_saes` does, for fewer rows than a batch, or an SAE that is not matched;
        CheckpointError if a match.json is damaged, or of another search; StoreError.

    """
    filters, variants = filters_of(config.training.filters), config.trained_variants()
    rows: dict[tuple[Route, str], TrainingRows] = {}
    jobs = []
    for name, route in wanted_saes(config, stores, only):
        planned = to_train(variants[name], run.variant(f"{name}@{route.name}"), trials)
        if planned is None:
            continue
        variant, folder = planned
        seed = config.seed if variant.seed is None else variant.seed
        read_as = (route, variant.merged(config.training).input_scale)
        if read_as not in rows:
            rows[read_as] = training_rows(route, stores, filters, read_as[1])
        try:
            training = variant.resolved(config.training, rows[read_as].n_rows)
        except ValueError as error:
            raise ConfigError(f"training of variant {name!r}: {error}") from None
        if training.batch_size > (n_rows := rows[read_as].n_rows):
            raise ConfigError(
                f"training.batch_size: a batch of {training.batch_size} rows is larger than the training split of "
                f"{route.name}, which has {n_rows} rows after training.filters; lower it, or extract more tokens"
            )
        device = _device(config.training.device, folder)
        placed = training.model_copy(update={"device": device})
        record = _record(name, variant, route, seed, placed, stores, rows[read_as].scaling)
        job = Job(
            variant_name=name,
            variant=variant,
            route=route,
            seed=seed,
            training=training,
            rows=rows[read_as],
            record=record,
            folder=folder,
        )
        jobs.append(job)
    return jobs


def is_done(job: Job) -> bool:
    """Whether this very SAE is trained already. Raises: CheckpointError if its folder holds another one."""
    folder = job.folder
    if folder.config.exists():
        config = read_record(folder.config, SAERecord)
        refuse_change(config.record, job.record, str(folder.path))
    elif folder.training.exists() or folder.checkpoints.exists():
        raise CheckpointError(f"{folder.config}: missing, so what made the folder is unknown; delete {folder.path}")
    if not folder.training.exists():
        return False
    ending = read_training(folder, config.record)
    check_curves(folder, ending.record)
    if not (config.is_hashed and ending.is_hashed):
        log.info("%s: %s", folder.name, UNHASHED)
    remove_checkpoints(folder)
    return True


def _device(asked: str, folder: VariantFolder) -> str:
    """The device that a record names: what `auto` is here, or was where this SAE was begun.

    Raises: ConfigError if there is no such device; CheckpointError if the record of what was begun is damaged.
    """
    begun = ""
    if folder.config.exists():
        begun = str(read_record(folder.config, SAERecord).record.training.further().get("device", ""))
    if asked == "auto" and begun:
        return begun
    here = str(choose_device(asked, "training.device"))
    # Records of older versions hold `auto`.
    return begun if begun == "auto" and here == str(choose_device("auto", "training.device")) else here


def remove_checkpoints(folder: VariantFolder) -> None:
    """Delete the resumable checkpoints of an SAE that is trained, and what failed before; kept weights stay."""
    with suppress(OSError):  # a disk that can only be read, of which one looks what is trained
        folder.failures.unlink(missing_ok=True)
    for path in folder.checkpoints.glob("*"):
        if not path.name.startswith("kept_"):
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # kept weights are in it, or it is not there
        folder.checkpoints.rmdir()


def refuse_change(recorded: SAERecord, wanted: SAERecord, where: str) -> None:
    """Raises: CheckpointError naming every key in which the record at `where` is another SAE's than `wanted`.

    The fingerprint is not compared: that of a record of an older version was made by that version's rule.
    """
    old, new = (record.model_dump(mode="json", exclude={"fingerprint"}) for record in (recorded, wanted))
    if changes := changed_keys(old, new):
        raise CheckpointError(
            f"{where} was made by another config ({'; '.join(changes)}); set that back to what it was, give the "
            "changed variant another name, or delete it (strata runs delete RUN VARIANT) to train it again from step 0"
        )


def never_dead(jobs: Iterable[Job]) -> list[str]:
    """A line that names the variants whose terms for dead latents can never act, if there are any."""
    names = {
        job.variant_name
        for job in jobs
        if any(term in job.variant.objective for term in REVIVING)
        and job.training.n_steps * job.training.batch_size < job.training.dead_after_rows
    }
    if not names:
        return []
    return [
        f"{', '.join(sorted(names))}: a latent is dead after training.dead_after_rows rows without being active, which "
        "is more rows than are trained on, so the terms that revive dead latents never act; lower it"
    ]


def chosen(names: list[str], patterns: Sequence[str]) -> list[str]:
    """The names that a pattern fits; all where there is no pattern. Raises: ConfigError if one fits none."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"--only {pattern}: no such variant{nearest(pattern, names)}; there are: {', '.join(names)}"
            )
    return [name for name in names if not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _sites(config: TrainConfig, stores: Together) -> list[str]:
    """The sites to train on. Raises: ConfigError if the stores lack one."""
    sites = config.sae_sites()
    for site in sites:
        if site not in stores.sites:
            raise ConfigError(
                f"training.sites: {site!r} is not in the store {stores.path}, "
                f"which holds {', '.join(stores.sites)}; extract it, or choose among these"
            )
    return sites


def _record(
    name: str, variant: Variant, route: Route, seed: int, training: ResolvedTraining, stores: Together, scaling: Scaling
) -> SAERecord:
    """The resolved config of an SAE and its fingerprint."""
    store, resampling, widths = stores.at(route.reads[0]), variant.resampling, stores.sites
    record = SAERecord(
        variant=name,
        site=route.name,
        seed=seed,
        sae=SAEPart.model_validate(variant.sae.model_dump(mode="json")),
        objective={
            term: TermPart.model_validate(settings.model_dump(mode="json"))
            for term, settings in variant.objective.items()
        },
        training=TrainingPart.model_validate(training.model_dump(mode="json", exclude=NOT_IDENTITY)),
        resampling=None if resampling is None else ResamplingPart.model_validate(resampling.model_dump(mode="json")),
        store_id=store.id,
        plan_id=store.plan.id,
        d_out=route.d_out(widths),
        d_in=None if route.is_sae else route.d_in(widths),
        input_scale=scaling.codes,
        reads=[] if route.is_sae else _parts(route.reads, scaling.reads, widths),
        writes=[] if route.is_sae else _parts(route.writes, scaling.writes, widths),
        store_ids={} if route.is_sae else {site: stores.at(site).id for site in route.sites},
        parent=None,
        fingerprint="",
    )
    return with_fingerprint(record)


def _parts(sites: Sequence[str], factors: Sequence[float], widths: dict[str, int]) -> list[SitePart]:
    """Sites side by side, in their order."""
    return [SitePart(site=site, width=widths[site], scale=factor) for site, factor in zip(sites, factors, strict=True)]
