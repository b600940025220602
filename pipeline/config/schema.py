"""The JSON schema of a config file, and how to find a place in it."""

from dataclasses import dataclass
from typing import TypeAlias

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.strict_yaml import Yaml

Node: TypeAlias = dict[str, Yaml]

_WORDS: dict[Yaml, str] = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def json_schema() -> Node:
    """The JSON schema of a config file: every key with its type, bounds and description, as editors use it.

    No key is required in it: a sweep, `--set`, or the file that a file of variants is added to may give what is
    missing. `load` says what is.
    """
    schema: Node = RunConfig.model_json_schema()
    for node in [schema, *_nodes(schema["$defs"])]:
        if isinstance(node.get("required"), list):
            del node["required"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def whole_config() -> "Place":
    """The root of a config's schema."""
    schema = json_schema()
    return Place(schema, _node(schema["$defs"]))


@dataclass(frozen=True)
class Place:
    """What the schema says of one place in a config. Where the schema has no such place, the node is empty."""

    node: Node
    definitions: Node

    @property
    def discriminator(self) -> str | None:
        """The key that decides between the groups of settings that may stand here; None where none does."""
        name = _node(self.node.get("discriminator")).get("propertyName")
        return None if name is None else str(name)

    @property
    def tags(self) -> list[str]:
        """The values that the discriminator may have, in the order of the registry; pydantic sorts the mapping."""
        mapping = _node(_node(self.node.get("discriminator")).get("mapping"))
        tag_of = {str(reference): tag for tag, reference in mapping.items()}
        return [tag_of[str(_node(member)["$ref"])] for member in _items(self.node.get("oneOf"))]

    @property
    def description(self) -> str:
        """What the settings class says of this key, on one line."""
        return " ".join(str(self.node.get("description", "")).split())

    @property
    def is_union(self) -> bool:
        """Whether pydantic's locations name a branch here. null is no branch."""
        return len([option for option in self._options() if option.get("type") != "null"]) > 1

    @property
    def groups(self) -> list[str]:
        """The names of the settings classes that may stand here."""
        return [str(option["title"]) for option in self._options() if "properties" in option]

    @property
    def keys(self) -> list[str]:
        """The keys of the settings that stand here."""
        return list(_node(self.node.get("properties")))

    @property
    def names(self) -> list[str]:
        """The words that may stand here."""
        found = [name for option in self._options() for name in _items(option.get("enum", [option.get("const")]))]
        return [str(name) for name in found if name is not None]

    @property
    def words(self) -> str:
        """What may stand here: "an integer or null"."""
        free = [option for option in self._options() if "enum" not in option and "const" not in option]
        return " or ".join(dict.fromkeys(_WORDS[option.get("type")] for option in free)) or "something else"

    def of(self, value: Yaml) -> "Place":
        """The settings that `value` should become, in a union those that its discriminator names."""
        options = [option for option in self._options() if "properties" in option]
        tag = value.get(self.discriminator) if isinstance(value, dict) and self.discriminator else None
        if isinstance(tag, str) and tag in self.tags:
            reference = _node(_node(self.node["discriminator"])["mapping"])[tag]
            options = [self._resolved({"$ref": reference})]
        return Place(options[0] if len(options) == 1 else {}, self.definitions)

    def child(self, step: str | int, value: Yaml) -> "Place":
        """The place of `value[step]`."""
        for option in [self.of(value).node, *self._options()]:
            for inner in _inner(option, step):
                return Place(_node(inner), self.definitions)
        return Place({}, self.definitions)

    def _options(self) -> list[Node]:
        """The members of a union; one member for anything else."""
        node = self._resolved(self.node)
        members = [*_items(node.get("anyOf")), *_items(node.get("oneOf"))]
        if not members:
            return [node]
        return [option for member in members for option in Place(_node(member), self.definitions)._options()]

    def _resolved(self, node: Node) -> Node:
        reference = node.get("$ref")
        return node if reference is None else _node(self.definitions[str(reference).rpartition("/")[2]])


def _inner(node: Node, step: str | int) -> list[Yaml]:
    """The nodes of an item or a key of what `node` describes: one or none."""
    if isinstance(step, int):
        return [node["items"]] if "items" in node else _items(node.get("prefixItems"))[:1]
    if "properties" in node:
        properties = _node(node["properties"])
        return [properties[step]] if step in properties else []
    return [*_node(node.get("patternProperties")).values()] or [
        inner for inner in [node.get("additionalProperties")] if isinstance(inner, dict)
    ]


def _nodes(value: Yaml) -> list[Node]:
    """Every mapping inside."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    found = [node for item in inside for node in _nodes(item)]
    return [value, *found] if isinstance(value, dict) else found


def _node(value: Yaml) -> Node:
    return value if isinstance(value, dict) else {}


def _items(value: Yaml) -> list[Yaml]:
    return value if isinstance(value, list) else []
