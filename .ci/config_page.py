"""docs/config.md, made from the settings: every key with what may stand there, its default, and what it is.

    .venv/bin/python .ci/config_page.py          # writes the page; tests/config/test_config_page.py says if it is old

Unit and source are in the docstring of each key: (count), (bytes), "Default: SAEBench".
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from strata_sae.pipeline.config import json_schema  # noqa: E402

PAGE = ROOT / "docs/config.md"
HEAD = """\
# Every key of a config

Written by `make page` from the settings in `pipeline/config/`, `pipeline/saes/` and `pipeline/objective/`; a test says
when it is out of date. `strata schema` prints the same for editors, `strata init` writes a file to start from. A key
without a default is needed wherever its section is. `1e-4` is a number, `65_536` an integer. "Seed 000" to "seed 004"
are the five experiments that this project grew from ([from_the_seeds.md](from_the_seeds.md)).
"""
WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}
BOUNDS = {"minimum": "≥ {}", "exclusive_minimum": "> {}", "maximum": "≤ {}", "exclusive_maximum": "< {}"}


class Node(BaseModel):
    """What the schema says of one place. It names groups of settings by references: each has one table of its own."""

    model_config = ConfigDict(alias_generator=to_camel)

    reference: str = Field("", alias="$ref")
    definitions: "Nodes" = Field({}, alias="$defs")
    type: str = ""
    description: str = ""
    default: JsonValue = None
    const: JsonValue = None
    enum: list[JsonValue] = []
    properties: "Nodes" = {}
    items: "Node | None" = None
    any_of: list["Node"] = []
    one_of: list["Node"] = []
    minimum: int | float | None = None
    exclusive_minimum: int | float | None = None
    maximum: int | float | None = None
    exclusive_maximum: int | float | None = None

    @property
    def members(self) -> list["Node"]:
        """Of a union."""
        return [*self.any_of, *self.one_of]

    def says(self, key: str) -> bool:
        """Whether the schema has this key, be it null."""
        return key in self.model_fields_set


Nodes = dict[str, Node]
Node.model_rebuild()


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(
        line for title, text, keys in parts(Node.model_validate(json_schema())) for line in part(title, text, keys)
    )


def parts(schema: Node) -> Iterator[tuple[str, str, Nodes]]:
    """(heading, what it is, keys) of each group of settings, in the order of a file."""
    groups, top = schema.definitions, schema.properties
    variant = groups["Variant"].properties
    yield "## Top level", "", top
    yield section("model", top, groups)
    yield section("corpus", top, groups)
    yield from below("corpus", "CorpusSettings", groups)
    for source in tagged(groups["CorpusSettings"].properties["sources"].items, groups):
        kind = source.properties["kind"].const
        yield f"### `corpus.sources`, `kind: {kind}`", source.description, source.properties
    for toy in tagged(top["toy"], groups):
        yield f"## `toy`, `kind: {toy.properties['kind'].const}`", toy.description, toy.properties
    yield section("store", top, groups)
    yield section("training", top, groups)
    yield from below("training", "TrainingSettings", groups)
    yield "## `variants.<name>`", groups["Variant"].description, variant
    architectures = list(tagged(variant["sae"], groups))
    shared = {
        key: node
        for key, node in architectures[0].properties.items()
        if key != "architecture" and all(other.properties.get(key) == node for other in architectures)
    }
    yield "### `sae`, every architecture", "", shared
    yield "### `sae.initial`", groups["InitialSettings"].description, groups["InitialSettings"].properties
    for one in architectures:
        own = {key: node for key, node in one.properties.items() if key not in shared}
        yield f"### `sae`, `architecture: {own.pop('architecture').const}`", one.description, own
    for term, node in variant["objective"].properties.items():
        (name,) = references(node)
        keys = {key: inner for key, inner in groups[name].properties.items() if key != "term"}
        yield f"### `objective.{term}`", groups[name].description, keys
    resampling = groups["ResamplingSettings"]
    yield "### `resampling`", resampling.description, resampling.properties
    yield "### `match`", groups["MatchSettings"].description, groups["MatchSettings"].properties
    imported = groups["ImportedVariant"]
    yield "## `variants.<name>`, with `from`", imported.description, imported.properties
    yield "### `from`", groups["SourceSettings"].description, groups["SourceSettings"].properties
    yield "### A schedule", groups["Schedule"].description, groups["Schedule"].properties
    yield section("evaluation", top, groups)
    yield from below("evaluation", "EvaluationSettings", groups)
    yield section("interpretation", top, groups)
    yield section("report", top, groups)
    yield section("tracking", top, groups)
    for engine in (kind for member in top["engine"].any_of for kind in tagged(member, groups)):
        yield f"## `engine`, `kind: {engine.properties['kind'].const}`", engine.description, engine.properties


def section(name: str, top: Nodes, groups: Nodes) -> tuple[str, str, Nodes]:
    """A section of the file."""
    (group,) = references(top[name])
    return f"## `{name}`", top[name].description or groups[group].description, groups[group].properties


def below(name: str, group: str, groups: Nodes) -> Iterator[tuple[str, str, Nodes]]:
    """The groups of settings that are keys of a section."""
    for key, node in groups[group].properties.items():
        for inner in references(node):
            if inner != "Schedule":
                yield f"### `{name}.{key}`", groups[inner].description, groups[inner].properties


def tagged(node: Node | None, groups: Nodes) -> Iterator[Node]:
    """The groups between which a key decides."""
    yield from (groups[name] for member in (node.one_of if node else []) for name in references(member))


def references(node: Node) -> list[str]:
    """Names of the groups that may stand at a place, but for those of a list's items."""
    own = [_name(node)] if node.reference else []
    return own + [name for member in node.members for name in references(member)]


def _name(node: Node) -> str:
    return node.reference.rpartition("/")[2]


def part(title: str, text: str, keys: Nodes) -> Iterator[str]:
    """The lines of a group of settings."""
    yield from ["", title, ""]
    if text:
        yield from [" ".join(text.split()), ""]
    if keys:
        yield from ["| key | may be | default | |", "|---|---|---|---|"]
        yield from (row(key, node) for key, node in keys.items())


def row(key: str, node: Node) -> str:
    """A line of a table."""
    default = f"`{json.dumps(node.default, ensure_ascii=False)}`" if node.says("default") else "needed"
    if isinstance(node.default, dict):
        default = "its keys' defaults" if node.default else "none"
    cells = (f"`{key}`", allowed(node), default, " ".join(node.description.split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def allowed(node: Node) -> str:
    """What may stand there."""
    if node.says("const"):
        return f"`{node.const}`"
    if node.enum:
        return ", ".join(f"`{word}`" for word in node.enum)
    if node.members:
        return ", ".join(dict.fromkeys(map(allowed, node.members)))
    if node.reference:
        return "schedule" if _name(node) == "Schedule" else "keys"
    if node.type == "array":
        return f"list of {allowed(node.items or Node())}"
    if node.type in ("object", ""):
        return "keys"
    bounds = [text.format(f"{getattr(node, key):,}") for key, text in BOUNDS.items() if node.says(key)]
    return " ".join([WORDS[node.type], " ".join(bounds)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page() + "\n", encoding="utf-8")
