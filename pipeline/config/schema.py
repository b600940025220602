"""The JSON schema of a config file, and how to find a place in it."""

import re
from collections.abc import Hashable
from functools import lru_cache

from pydantic import AliasPath, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.json_schema import CoreModeRef, CoreRef, DefsRef, GenerateJsonSchema
from pydantic_core.core_schema import DataclassField, ModelField, TypedDictField

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.strict_yaml import Yaml
from strata_sae.stores.files.canonical import as_object

_WORDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def json_schema() -> dict[str, Yaml]:
    """The JSON schema of a config file: every key with its type, bounds and description, as editors use it.

    No key is required in it: a sweep, `--set`, or the file that a file of variants is added to may give what is
    missing. `load` says what is.
    """
    schema = _schema_of_groups()
    properties = as_object(schema["properties"])
    engine = as_object(properties["engine"])
    groups = {key: engine.pop(key) for key in ("oneOf", "discriminator")}
    names: list[Yaml] = [*as_object(as_object(groups["discriminator"])["mapping"])]
    engine["anyOf"] = [{"enum": names}, groups]  # by its name alone, or with its settings
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _schema_of_groups() -> dict[str, Yaml]:
    """The schema as errors are explained by it: the data that they are about name no group alone."""
    schema: dict[str, Yaml] = RunConfig.model_json_schema(schema_generator=_OfAFile)
    return schema


def whole_config() -> "Place":
    """The root of a config's schema."""
    return _whole_config(RunConfig.__pydantic_validator__)


@lru_cache(maxsize=1)
def _whole_config(_: Hashable) -> "Place":
    """Made anew when RunConfig is, which then has another validator: it takes longer than reading a config."""
    schema = _schema_of_groups()
    return Place.model_validate(_inlined(schema, schema["$defs"]))


class _OfAFile(GenerateJsonSchema):
    """Requires no key, and calls the settings of TopK `TopKSettings`, in whichever file the class lies."""

    def field_is_required(self, field: ModelField | DataclassField | TypedDictField, total: bool) -> bool:
        return False

    def get_defs_ref(self, core_mode_ref: CoreModeRef) -> DefsRef:
        reference, mode = core_mode_ref
        return super().get_defs_ref((CoreRef(re.sub(r"[\w.]+\.(\w+)\.Settings:", r"\1Settings:", reference)), mode))


class Place(BaseModel):
    """What the schema says of one place in a config. Where the schema has no such place, it says nothing."""

    model_config = ConfigDict(alias_generator=to_camel)

    type: str = ""
    title: str = ""
    description: str = ""
    const: Yaml = None
    enum: list[Yaml] = []
    properties: dict[str, "Place"] = {}
    pattern_properties: dict[str, "Place"] = {}
    additional_properties: "Place | bool" = True
    items: "Place | None" = None
    prefix_items: list["Place"] = []
    required: list[str] = []
    """Keys without which a value is not meant for this group of settings, where several may stand in a place."""
    any_of: list["Place"] = []
    one_of: list["Place"] = []
    discriminator: str = Field(default="", validation_alias=AliasPath("discriminator", "propertyName"))
    """The key that decides between the groups of settings that may stand here; empty where none does."""

    @property
    def options(self) -> list["Place"]:
        """The members of a union; one member for anything else."""
        members = [*self.any_of, *self.one_of]
        return [option for member in members for option in member.options] if members else [self]

    @property
    def is_union(self) -> bool:
        """Whether pydantic's locations name a branch here. null is no branch."""
        return len([option for option in self.options if option.type != "null"]) > 1

    @property
    def tags(self) -> list[str]:
        """The values that the discriminator may have."""
        return [str(option.properties[self.discriminator].const) for option in self.one_of]

    @property
    def names(self) -> list[str]:
        """The words that may stand here."""
        found = [name for option in self.options for name in [*option.enum, option.const]]
        return [str(name) for name in found if name is not None]

    @property
    def words(self) -> str:
        """What may stand here: "an integer or null"."""
        free = [option.type for option in self.options if not option.enum and option.const is None]
        return " or ".join(dict.fromkeys(_WORDS[kind] for kind in free if kind)) or "something else"

    def of(self, value: Yaml) -> "Place":
        """The settings that `value` should become, in a union those that its discriminator or a required key names."""
        groups = [option for option in self.options if option.properties]
        if len(named := {key for group in groups for key in group.required}) and isinstance(value, dict):
            groups = [group for group in groups if set(group.required) == named & value.keys()]
        if self.discriminator and isinstance(value, dict):
            tag = value.get(self.discriminator)
            groups = [group for group in groups if group.properties[self.discriminator].const == tag]
        return groups[0] if len(groups) == 1 else Place()

    def child(self, step: str | int, value: Yaml) -> "Place":
        """The place of `value[step]`."""
        inner = (option._inner(step) for option in [self.of(value), *self.options])
        return next((place for place in inner if place is not None), Place())

    def _inner(self, step: str | int) -> "Place | None":
        if isinstance(step, int):
            return self.items or next(iter(self.prefix_items), None)
        if self.properties:
            return self.properties.get(step)
        rest = [*self.pattern_properties.values(), self.additional_properties]
        return next((place for place in rest if isinstance(place, Place)), None)


def _inlined(node: Yaml, definitions: Yaml) -> Yaml:
    """The node with every reference replaced by what it refers to; a config refers to nothing that holds itself."""
    if isinstance(node, list):
        return [_inlined(inner, definitions) for inner in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str) and isinstance(definitions, dict):
        target = definitions[reference.rpartition("/")[2]]
        node = (target if isinstance(target, dict) else {}) | {key: node[key] for key in node if key != "$ref"}
    return {key: _inlined(inner, definitions) for key, inner in node.items() if key != "$defs"}
