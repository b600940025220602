"""Odd numbers in the sections that extraction reads: refused in one line, or a store is made."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import describe_plan, extract
from strata_sae.stores import StoreError, verify
from support.extraction import extraction_config
from support.schema_leaves import Leaf, leaves

ODD = (2**62, 1e-320)
OTHER_SOURCES = ("PythonDocs", "JsonLines", "Parquet", "HubDataset")
"""Their weight is the text files' weight."""
NUMBERS = [
    leaf
    for leaf in leaves(int, float)
    if leaf.path[0] in ("corpus", "store", "model") and leaf.settings.__name__ not in OTHER_SOURCES
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = extraction_config(tmp_path_factory.mktemp("numbers"), corpus={"n_tokens": 600})
    data = config.model_dump(mode="json", exclude={"toy"})
    for term in data["variants"]["topk"]["objective"].values():
        term.pop("term")
    return data


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("leaf", NUMBERS, ids=lambda leaf: leaf.key)
def test_an_odd_number_is_refused_in_a_line_or_extracted(
    plain: dict[str, Any], tmp_path: Path, leaf: Leaf, value: float
) -> None:
    data = ExtractConfig.model_validate(plain).model_dump(mode="json", exclude={"toy"})
    data["variants"] = plain["variants"]
    data["store"]["path"] = str(tmp_path / "store")
    here = data
    for step in leaf.path[:-1]:
        if here[step] is None:  # a group of settings that is off
            here[step] = {}
        here = here[step]
    here[leaf.path[-1]] = value
    try:
        config = ExtractConfig.model_validate(data)
    except ValidationError:
        return
    try:
        describe_plan(config, show_progress=False)
        extract(config, show_progress=False)
    except (ConfigError, StoreError) as error:
        said = str(error)
    else:
        said = ""
        assert verify(tmp_path / "store") == []
    assert "\n" not in said
    assert not said or any(section in said for section in ("corpus.", "store.", "model."))
