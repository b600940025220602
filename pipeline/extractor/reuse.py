"""Extraction that need not happen: a finished store beside the run's own holds what the config asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import changed_keys
from pipeline.config import RunConfig
from pipeline.config.recorded import differences
from pipeline.config.stored import find_siblings, find_store
from pipeline.language_model import describe
from stores.format import MANIFEST
from stores.plan import read_plan


def reusable(config: RunConfig) -> tuple[list[Path], str]:
    """The stores the run reads instead of extracting, and a line that says so; none if it has to extract.

    Another's store is used only if the model's files are the ones it was made with; then only the line is given.
    """
    own, found = config.store_path(), find_store(config)
    if found == own:
        siblings = find_siblings(config, own) if _lacks_sites_only(own, config) else []
        return ([own, *siblings], f"{_names(siblings)}: holds the sites that {own} lacks") if siblings else ([], "")
    now = describe(config.model, config.store.sites).provenance
    if changed := model_changes(read_plan(found).provenance["model"], now):
        return [], f"{found}: was made from this config, but with another model: {'; '.join(changed)}; not used"
    return [found], f"{found}: finished, and holds all that this run asks for; used as it is, nothing is extracted"


def _lacks_sites_only(own: Path, config: RunConfig) -> bool:
    if not (own / MANIFEST).is_file():
        return False
    plan, asked = read_plan(own), config.extraction()
    asked["store"]["sites"] = plan.config.get("store", {}).get("sites")
    return not differences(plan.config, asked)


def model_changes(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two models' provenance, a line each; hooks only at sites that both have."""
    both = recorded.get("hooks", {}).keys() & now["hooks"].keys()
    then, today = (record | {"hooks": {site: record["hooks"][site] for site in both}} for record in (recorded, now))
    return changed_keys(then, today)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)
