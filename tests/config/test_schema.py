"""configs/schema.json is what the code makes, and says of every file in configs/ what `load` says of it."""

import json
from pathlib import Path

import pytest

from strata_sae.pipeline.config import json_schema, load
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.strict_yaml import Yaml, parse
from support.small_presets import FILES, ROOT

SCHEMA = ROOT / "configs/schema.json"
MODELINE = "# yaml-language-server: $schema="
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def problems(node: dict, value: Yaml, root: dict, where: str = "") -> list[str]:
    """What a validator of JSON schemas would say: types, words, keys, items, unions; bounds of numbers apart."""
    if "$ref" in node:
        return problems(root["$defs"][node["$ref"].rpartition("/")[2]], value, root, where)
    members = node.get("anyOf", []) + node.get("oneOf", [])
    if members:
        found = [problems(member, value, root, where) for member in members]
        n_fitting = found.count([])
        fits = n_fitting == 1 if "oneOf" in node else n_fitting
        return [] if fits else [f"{where}: {n_fitting} of {len(members)} fit: {found}"]
    if "const" in node or "enum" in node:
        return [] if value in node.get("enum", [node.get("const")]) else [f"{where}: {value!r} is no word"]
    kinds = [node["type"]] if isinstance(node["type"], str) else node["type"]
    if not any(is_of(kind, value) for kind in kinds):
        return [f"{where}: {value!r} is no {kinds}"]
    if isinstance(value, list):
        items = node.get("prefixItems", [node.get("items", {"type": [*TYPES, "number"]})] * len(value))
        return [said for item, inner in zip(value, items, strict=True) for said in problems(inner, item, root, where)]
    if not isinstance(value, dict):
        return []
    said = []
    for key, item in value.items():
        rest = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", True))
        inner = node.get("properties", {}).get(key, rest)
        if inner is False:
            said.append(f"{where}.{key}: no such key")
        elif inner is not True:
            said += problems(inner, item, root, f"{where}.{key}")
    return said


def is_of(kind: str, value: Yaml) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


def test_the_committed_file_is_what_the_code_makes() -> None:
    made = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == made, (
        "write it anew: python -c 'import json; from strata_sae.pipeline.config import json_schema; "
        "print(json.dumps(json_schema(), indent=1, ensure_ascii=False))' > configs/schema.json"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_fits_the_schema_and_names_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert problems(json_schema(), parse(text, str(path))[0], json_schema()) == []
    first = text.splitlines()[0]
    assert first.startswith(MODELINE)
    assert (path.parent / first.removeprefix(MODELINE)).resolve() == SCHEMA


SLIPS = {
    "training.batch_siz=3": ".training.batch_siz: no such key",
    "training.batch_size=abc": ".training.batch_size: 'abc' is no ['integer']",
    "corpus.mode=pack": ".corpus.mode: 'pack' is no word",
    "variants.relu.sae.k=3": ".variants.relu.sae: 0 of 8 fit",
    "variants.relu.objective.l2={}": ".variants.relu.objective.l2: no such key",
    "variants.relu.objective.l1.weight=abc": ".variants.relu.objective.l1.weight: 0 of 2 fit",
    "corpus.sources=[{kind: texts}]": ".corpus.sources: 0 of 5 fit",
}


@pytest.mark.parametrize("override", SLIPS)
def test_control_what_load_refuses_does_not_fit_the_schema(override: str) -> None:
    data = parse((ROOT / "configs/smoke.yaml").read_text(encoding="utf-8"), "smoke")[0]
    *keys, last = override.partition("=")[0].split(".")
    here = data
    for key in keys:
        here = here[key]
    here[last] = parse(override.partition("=")[2], "value")[0]
    assert SLIPS[override] in str(problems(json_schema(), data, json_schema()))
    with pytest.raises(ConfigError):
        load(ROOT / "configs/smoke.yaml", [override])


def test_no_key_is_without_a_word_on_what_it_is() -> None:
    """Keys of sae, objective, resampling and all else; `term` is written by `dump` and by no person."""
    undocumented = [
        f"{name}.{key}"
        for name, node in json_schema()["$defs"].items()
        for key, inner in node.get("properties", {}).items()
        if not inner.get("description")
    ]
    assert undocumented == []
