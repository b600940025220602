"""What is trained of a variant whose L0 is matched: one of its trials, or the SAE whose knob was found."""

from collections.abc import Mapping
from typing import NamedTuple

from strata_sae.pipeline.config.knobs import knob_of
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.runs.chain import read_match
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.match_records import MatchRecord


class Trial(NamedTuple):
    """The next training of a search."""

    number: int
    """From 1: its folder is match/<number>/."""
    knob: float


def to_train(
    variant: Variant, folder: VariantFolder, trials: Mapping[str, Trial | None] | None
) -> tuple[Variant, VariantFolder] | None:
    """The variant with its knob set, and where it is trained; None if nothing of it is to be trained now.

    trials: `<variant>@<site>` -> what is to be tried; None where another process searches, so that it is left out. None
        instead of all that: the knob must be found already.
    Raises: ConfigError if it is not; CheckpointError if match.json is damaged, or of another search.
    """
    if variant.match is None:
        return variant, folder
    if trials is not None and folder.name in trials:
        trial = trials[folder.name]
        return None if trial is None else (variant.with_knob(trial.knob), folder.trial(trial.number))
    record = recorded(variant, folder)
    if record is not None and record.taken is not None:
        return variant.with_knob(record.taken.knob), folder
    if trials is None:
        raise ConfigError(
            f"variants.{folder.variant}.match: the L0 of {folder.name} is not matched yet, which takes evaluation, "
            "too; run strata train or strata run"
        )
    return None


def recorded(variant: Variant, folder: VariantFolder) -> MatchRecord | None:
    """The search as far as it got; None before its first trial was measured.

    Raises: CheckpointError if match.json is damaged, or of another search than the variant's.
    """
    if not folder.match.exists():
        return None
    assert variant.match is not None
    record = read_match(folder).record
    knob = knob_of(variant.match, variant.sae, variant.objective).name
    wanted = {"l0": variant.match.l0, "tolerance": variant.match.tolerance, "knob": knob}
    for key, value in wanted.items():
        if (found := getattr(record, key)) != value:
            raise CheckpointError(
                f"{folder.match}: {key}: the search was for {found}, and the config's match has {value}; set that "
                "back, give the variant another name, or delete it (strata runs delete RUN VARIANT) to search anew"
            )
    return record
