"""docs/config.md is what the settings say now, and no key of them is missing in it."""

import runpy

from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.objective import TERMS
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.strict_yaml import parse
from support.schema_leaves import leaves
from support.small_presets import ROOT

MAKE = runpy.run_path(str(ROOT / ".ci/config_page.py"))
PAGE = ROOT / "docs/config.md"


def documented(text: str) -> dict[str, list[str]]:
    """Heading -> the keys of the table below it."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            keys = found[line.strip("# ")] = []
        elif line.startswith("| `"):
            keys.append(line.split("`")[1])
    return found


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == MAKE["page"]() + "\n", "write it anew: make page"


def test_control_another_default_makes_another_page(monkeypatch) -> None:
    monkeypatch.setattr(TrainingSettings.model_fields["batch_size"], "default", 4321)
    RunConfig.model_rebuild(force=True)
    TrainingSettings.model_rebuild(force=True)
    RunConfig.model_rebuild(force=True)
    try:
        assert "4321" in MAKE["page"]()
    finally:
        monkeypatch.undo()
        TrainingSettings.model_rebuild(force=True)
        RunConfig.model_rebuild(force=True)


def test_every_key_of_every_class_of_settings_is_on_the_page() -> None:
    """The walk over the classes' annotations knows nothing of the schema that the page is made from."""
    tables = documented(PAGE.read_text(encoding="utf-8"))
    on_page = {key for keys in tables.values() for key in keys}
    every = leaves(int, float, str, bool, type(None))
    assert len(every) > 150
    names = {next(step for step in reversed(leaf.path) if isinstance(step, str)) for leaf in every}
    assert names - on_page - {"v", "term", "architecture"} == set()
    for architecture in ARCHITECTURES:
        assert f"`sae`, `architecture: {architecture}`" in tables
    for term in TERMS:
        own = TERMS[term].Settings.model_fields.keys() - {"term"}
        assert set(tables[f"`objective.{term}`"]) == own


def test_the_command_prints_the_schema_of_the_editors() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "configs/schema.json").read_text(encoding="utf-8")
    schema, _ = parse(result.stdout, "schema") if len(result.stdout) < 2**20 else ({}, None)
    sae = schema["$defs"]["Variant"]["properties"]["sae"]
    assert list(sae["discriminator"]["mapping"]) == sorted(ARCHITECTURES)
    assert len(sae["oneOf"]) == len(ARCHITECTURES)
    assert list(schema["$defs"]["Variant"]["properties"]["objective"]["properties"]) == list(TERMS)
