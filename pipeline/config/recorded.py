"""The config as a plan records it: what decides the rows, and nothing that says whose machine it was."""

from typing import Any

from strata_sae.pipeline.config.corpus import SOURCES, CorpusSettings, StoreSettings
from strata_sae.pipeline.model_settings import ModelSettings
from strata_sae.pipeline.paths import impersonal
from strata_sae.pipeline.runs import changed_keys
from strata_sae.pipeline.settings import Settings

_SECTIONS: dict[str, type[Settings]] = {"model": ModelSettings, "corpus": CorpusSettings, "store": StoreSettings}


def recorded(extraction: dict[str, Any]) -> dict[str, Any]:
    """`RunConfig.extraction()` with every path that starts at the root or at a named home as `<name>#<hash>`.

    Stores are shared, and such paths hold user names. The hash is of the path as it was given, so that another path
    still counts as another config. Done to what is recorded already, it changes nothing.
    """
    model, corpus = extraction["model"], extraction["corpus"]
    return {
        **extraction,
        "model": model | {"path": impersonal(model["path"])},
        "corpus": corpus | {"sources": [_source(source) for source in corpus["sources"]]},
    }


def differences(plan_config: dict[str, Any], extraction: dict[str, Any]) -> list[str]:
    """What differs between the config of a plan and that of a run, a line each.

    A setting that did not exist when the plan was made had its default value.
    """
    filled = dict(plan_config)
    for section, settings in _SECTIONS.items():
        fields = settings.model_fields
        defaults = {name: fields[name].default for name in extraction[section] if not fields[name].is_required()}
        if isinstance(plan_config.get(section), dict):
            filled[section] = defaults | plan_config[section]
    if isinstance(filled.get("corpus"), dict) and isinstance(filled["corpus"].get("sources"), list):
        sources = [_filled_source(source) for source in filled["corpus"]["sources"]]
        filled["corpus"] = filled["corpus"] | {"sources": sources}
    return changed_keys(recorded(filled) if _SECTIONS.keys() <= filled.keys() else filled, recorded(extraction))


def _filled_source(source: Any) -> Any:
    if not isinstance(source, dict) or source.get("kind") not in SOURCES:
        return source
    fields = SOURCES[source["kind"]].model_fields
    return {name: field.default for name, field in fields.items() if not field.is_required()} | source


def _source(source: dict[str, Any]) -> dict[str, Any]:
    if "paths" in source:
        return source | {"paths": [impersonal(path) for path in source["paths"]]}
    return source | {"path": impersonal(source["path"])} if "path" in source else source
