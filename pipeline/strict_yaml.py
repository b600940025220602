"""YAML as a config needs it: no aliases, tags, duplicate keys or surprises (`no` is text, `1e-4` a number)."""

import math
import re
from typing import NoReturn, TypeAlias

import yaml
from pydantic import JsonValue

from strata_sae.pipeline.errors import ConfigError

MAX_BYTES = 2**20
MAX_DEPTH = 16

Yaml: TypeAlias = JsonValue
"""What a YAML file holds: plain data, which JSON could hold too."""
Path = tuple[str | int, ...]
"""Keys and list positions that lead from the root to a value."""

_CORE_SCHEMA = (  # YAML 1.2's, less octal, hex, .inf and .nan; YAML 1.1 would read 1:30 as 90 and 2024-01-01 as a date
    ("tag:yaml.org,2002:bool", r"true|false|True|False|TRUE|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"(?=.*[.eE])[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789"),
)
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _tag, _pattern, _first in _CORE_SCHEMA:
    for _character in _first:
        _RESOLVERS.setdefault(_character, []).append((_tag, re.compile(rf"(?:{_pattern})\Z")))

_OF_INDENTATION = ("mapping values are not allowed", "expected <block end>", "found character '\\t'")
"""In PyYAML's words: what it says where a line does not begin in the column of those before it, or with a tab."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what makes YAML ambiguous or expensive."""

    yaml_implicit_resolvers = _RESOLVERS
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        assert isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            _refuse("anchors (&) and aliases (*) are not allowed; write the value out", event)
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            _refuse(f"tags are not allowed, got {event.tag}", event)
        if self.depth >= MAX_DEPTH:
            _refuse(f"nested more than {MAX_DEPTH} deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes exactly what `parse` would not read back as text."""

    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Yaml) -> bool:
        return True


def parse(text: str, name: str) -> tuple[Yaml, dict[Path, int]]:
    """The plain data in a YAML text, and the line (from 1) of every value in it.

    Raises: ConfigError "name:line: what is wrong".
    """
    lines: dict[Path, int] = {}
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes; this is not a config file")
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
        return (None if node is None else _plain(loader, node, (), lines)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        said = str(error.problem or error.context)
        hint = (
            "; here or in a line above it, the indentation is wrong: keys of one section begin in the same column"
            if any(word in said for word in _OF_INDENTATION)
            else ""
        )
        raise ConfigError(f"{where}: {said}{hint}") from None
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from None


def unparse(data: Yaml) -> str:
    """YAML that `parse` reads back as the same data, keys in the given order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100)  # ASCII: PyYAML does not quote U+0085


def _plain(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Yaml:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), lines) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
    data: dict[str, Yaml] = {}
    for key_node, value_node in node.value:
        key = _scalar(loader, key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            _refuse(f"a key must be text, got {getattr(key_node, 'value', 'a collection')!r}", key_node)
        if key in data:
            _refuse(f"the key {key!r} stands twice (first in line {lines[(*path, key)]})", key_node)
        data[key] = _plain(loader, value_node, (*path, key), lines)
        lines[(*path, key)] = key_node.start_mark.line + 1
    return data


def _scalar(loader: _Loader, node: yaml.Node) -> Yaml:
    try:
        value: Yaml = loader.construct_object(node)
    except ValueError:  # Python refuses integers of more than 4300 digits
        _refuse("this number has too many digits", node)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(f"{node.value} is too large for a number", node)
    return value


def _refuse(problem: str, at: yaml.Node | yaml.Event) -> NoReturn:
    assert at.start_mark is not None
    raise ConfigError(f"{at.start_mark.name}:{at.start_mark.line + 1}: {problem}")
