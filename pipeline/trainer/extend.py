"""`train --extend STEPS`: a new variant, `<variant>+<steps>`, that goes on from the weights of a finished one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import safetensors.torch
import torch
from torch import Tensor

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.training import UpdateSettings
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.runs.chain import check_weights, read_config, read_training
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import changed_keys, with_fingerprint
from strata_sae.pipeline.runs.records import ParentPart, SAERecord, TrainingPart
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.trainer.extend_imported import jobs_of_imported
from strata_sae.pipeline.trainer.finish import in_raw_units, unfold
from strata_sae.pipeline.trainer.jobs import NOT_IDENTITY, Job, chosen, plan_jobs
from strata_sae.stores import Together

SAME = ("sae", "store_id", "plan_id", "d_out", "d_in", "input_scale", "reads", "writes", "store_ids")
"""What an extension has in common with its parent: the SAE, and the rows in the same units."""
UNITS = ("input_scale", "reads", "writes")
"""Those that say in which units rows are read and written."""


def plan_extensions(
    config: TrainConfig, stores: Together, run: RunFolder, steps: int, only: Sequence[str] = ()
) -> list[Job]:
    """A job of `steps` updates for every finished variant of the config, at each site.

    Args:
        only: names or patterns of the variants to extend, extensions (topk+500) among them; none: all that the config
            trains. What is imported is extended where it is named.
    Raises: ConfigError if there is no such variant, if it is not finished, or if it was made by another config;
        CheckpointError if its files are damaged; StoreError.

    """
    extended = {folder.variant for folder in run.trained() if "+" in folder.variant}
    known = [*config.variants, *sorted(name for name in extended if base_of(name) in config.variants)]
    trained, imported = config.trained_variants(), config.imported_variants()
    names = chosen(known, only) if only else list(trained)
    bases = list(dict.fromkeys(base_of(name) for name in names))
    jobs = jobs_of_imported(config, stores, run, [name for name in bases if name in imported])
    if to_train := [name for name in bases if name in trained]:
        jobs += plan_jobs(config, stores, run, to_train)
    return [
        _extension(job, run.variant(f"{name}@{job.route.name}"), config, run, steps)
        for name in names
        for job in jobs
        if job.variant_name == base_of(name)
    ]


def base_of(name: str) -> str:
    """The variant of the config of which an extension, or a variant, was made."""
    return name.partition("+")[0]


def weights_of_parent(job: Job, run: RunFolder) -> dict[str, Tensor]:
    """Every tensor of the parent's final file, in the units in which rows are trained on.

    Raises: CheckpointError if it is not the file that the record of the job names.
    """
    parent = job.record.parent
    assert parent is not None
    folder = run.variant(parent.name)
    ending = read_training(folder, read_config(folder).record).record
    check_weights(folder, ending)
    if ending.sha256.weights != parent.weights_sha256:
        raise CheckpointError(
            f"{folder.weights}: is not the file that {job.name} began with; delete {job.folder.path} to extend this one"
        )
    return in_training_units(safetensors.torch.load_file(folder.weights), job)


def in_training_units(raw: Mapping[str, Tensor], job: Job) -> dict[str, Tensor]:
    """The inverse of what is done to final weights (`finish.write_weights`), exact but for rounding."""
    record = job.record
    weights = unfold(raw, record) if record.reads else dict(raw)
    scales_with_x = ARCHITECTURES[record.sae.architecture].scales_with_x
    return in_raw_units(weights, 1.0 / record.input_scale, scales_with_x)


def _extension(base: Job, folder: VariantFolder, config: TrainConfig, run: RunFolder, steps: int) -> Job:
    """The job that extends what lies in `folder`, a variant like `base` or an extension of it."""
    if "p_anneal" in base.variant.objective:
        raise ConfigError(
            f"--extend: {base.variant_name} has the term p_anneal, whose course depends on losses that are not kept; "
            "train it anew with a larger training.n_steps"
        )
    if not folder.training.exists():
        raise ConfigError(f"--extend: {folder.name} is not trained to its end; run train without --extend first")
    parent = read_config(folder).record
    ending = read_training(folder, parent).record
    if ending.status != "finished":
        raise ConfigError(
            f"--extend: {folder.name} diverged, so there is nothing to go on from; leave it out by --only"
        )
    check_weights(folder, ending)
    same: dict[str, bool | set[str]] = {**dict.fromkeys(SAME, True), "training": {"input_scale"}}
    if parent.imported is not None:  # its weights are of raw rows, whatever the units are that it is trained in
        same = dict.fromkeys((key for key in SAME if key not in UNITS), True)
    found, wanted = (record.model_dump(mode="json", include=same) for record in (parent, base.record))
    if changes := changed_keys(found, wanted):
        raise ConfigError(f"--extend: {folder.name} was made by another config ({'; '.join(changes)})")
    # The warm-up is that of `null`, since Adam's memory begins anew; a start of the running mean lies behind.
    new = {"n_steps": steps, "epochs": None, "warmup_steps": None, "threshold_start_step": 0}
    training = base.variant.merged(config.training).model_copy(update=new)
    variant = base.variant.model_copy(update={"training": UpdateSettings()})
    if variant.resampling is not None and variant.resampling.every_steps > steps:
        variant = variant.model_copy(update={"resampling": None})
    try:
        resolved = variant.resolved(training, base.rows.n_rows)
    except ValueError as error:
        raise ConfigError(f"--extend {steps}: training of {folder.name}: {error}") from None
    name = f"{folder.variant}+{steps}"
    before = 0 if parent.parent is None else parent.parent.n_steps
    record = base.record.model_copy(
        update={
            "variant": name,
            "training": TrainingPart.model_validate(resolved.model_dump(mode="json", exclude=NOT_IDENTITY)),
            "resampling": base.record.resampling if variant.resampling is not None else None,
            "parent": ParentPart(
                name=folder.name,
                fingerprint=parent.fingerprint,
                weights_sha256=ending.sha256.weights,
                n_steps=before + ending.n_steps,
            ),
        }
    )
    record = with_fingerprint(SAERecord.model_validate(record.model_dump()))
    return replace(
        base, variant_name=name, variant=variant, training=resolved, record=record, folder=run.variant(record.name)
    )


def begin_at_parent(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Set parameters, in place, to those of the parent."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
