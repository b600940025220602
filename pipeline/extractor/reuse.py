"""Extraction that need not happen: a finished store beside the run's own holds what the config asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import differences
from strata_sae.pipeline.extractor.inputs import check_inputs, compare_inputs, not_compared
from strata_sae.pipeline.input_files import shown
from strata_sae.pipeline.language_model.identity import software
from strata_sae.pipeline.reading.which_store import find_siblings, find_store
from strata_sae.pipeline.runs import changed_keys
from strata_sae.stores.files.canonical import as_object
from strata_sae.stores.format.plan import MANIFEST, Plan
from strata_sae.stores.format.plan_file import read_plan


class Reuse(NamedTuple):
    """The stores that a run reads instead of extracting; none if it has to extract. `lines` say so."""

    stores: list[Path]
    lines: list[str]


def reusable(config: RunConfig) -> Reuse:
    """What a run need not extract.

    Another run's store is used only if text and model are now what it was made from; what was deleted since is not
    compared, and a line says so. It is the store that training would find (`find_store`), or none.
    Raises: ConfigError where the run's own store was made from other inputs.
    """
    own, found = config.store_path(), find_store(config)
    if found == own:
        siblings = find_siblings(config, own) if _lacks_sites_only(own, config) else []
        if not siblings:
            return Reuse([], [])
        lines = check_inputs(own, read_plan(own), config)
        return Reuse([own, *siblings], [f"{_names(siblings)}: holds the sites that {own} lacks", *lines])
    plan = read_plan(found)
    now = compare_inputs(plan, config)
    if changed := [*now.differences, *_software_changes(plan)]:
        return Reuse(
            [], [f"{found}: was made from this config, but from other inputs: {shown(tuple(changed))}; not used"]
        )
    used = f"{found}: finished, and holds all that this run asks for; used as it is, nothing is extracted"
    return Reuse([found], [used, *not_compared(found, now)])


def _software_changes(plan: Plan) -> list[str]:
    """What else rows are a function of, in the last bits: the versions they were computed with."""
    model = plan.provenance.get("model")
    recorded = model.get("software") if isinstance(model, dict) else None
    return [] if recorded is None else changed_keys(recorded, software(), "software")


def _lacks_sites_only(own: Path, config: RunConfig) -> bool:
    if not (own / MANIFEST).is_file():
        return False
    plan = read_plan(own)
    sites = as_object(plan.config.get("store", {})).get("sites")
    return not differences(plan.config, config.extraction(sites=sites))


def model_changes(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two models' provenance, a line each; hooks only at sites that both have.

    What was not recorded yet when the first was made is not compared.
    """
    both = recorded.get("hooks", {}).keys() & now["hooks"].keys()
    then, today = (record | {"hooks": {site: record["hooks"][site] for site in both}} for record in (recorded, now))
    tokenizer = {key: value for key, value in now["tokenizer"].items() if key in recorded.get("tokenizer", {})}
    return changed_keys(then, {k: v for k, v in (today | {"tokenizer": tokenizer}).items() if k in then})


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)
