"""From a YAML file and `--set` overrides to a RunConfig, and back."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from strata_sae.pipeline.config.engine import spelled_out
from strata_sae.pipeline.config.errors_text import item, kind_of, lines_of, unknown_key
from strata_sae.pipeline.config.run import RunConfig, follow_registries
from strata_sae.pipeline.config.schema import Place, whole_config
from strata_sae.pipeline.config.sweep import expand
from strata_sae.pipeline.errors import ConfigError, nearest, shown
from strata_sae.pipeline.strict_yaml import MAX_BYTES, Yaml, parse, unparse
from strata_sae.pipeline.strict_yaml import Path as KeyPath


def load(path: Path, overrides: Sequence[str] = (), added: Sequence[Path] = ()) -> RunConfig:
    """The config in a YAML file, with the variants of further files, changed by overrides `key.path=value`.

    Sweeps are written out last. Raises: ConfigError with one line per problem, each with its file and line.
    """
    follow_registries()
    data, origins = _mapping(path)
    for other in added:
        _add_variants(other, data, origins)
    for override in overrides:
        data = _changed(override, _with_engine(data), origins)
    data = _without_sweeps(_with_engine(data), origins)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(lines_of(error, data, origins))) from None


def _with_engine(data: dict[str, Yaml]) -> dict[str, Yaml]:
    """The data with the settings of an engine that is called by its name, so that `--set` and errors find its keys."""
    return data | {"engine": spelled_out(data["engine"])} if "engine" in data else data


def dump(config: RunConfig) -> str:
    """YAML of every key of the sections that a config has, defaults included; `load` reads an equal config from it."""
    excluded = {"variants": {"__all__": {"objective": {"__all__": {"term"}}}}}  # a term's key is its name already
    data = config.model_dump(mode="json", exclude=excluded, by_alias=True)
    return unparse({section: value for section, value in data.items() if value not in (None, {})})


def _mapping(path: Path) -> tuple[dict[str, Yaml], dict[KeyPath, str]]:
    """The keys of a file, and where each value stands."""
    data, lines = parse(_read(path), str(path))
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys at the top, got {'nothing' if data is None else kind_of(data)}"
        )
    return data, {key_path: f"{path}:{line}" for key_path, line in lines.items()}


def _add_variants(path: Path, data: dict[str, Yaml], origins: dict[KeyPath, str]) -> None:
    """Put the variants of another file beside those of `data`; of its other keys only `sweep` is used."""
    other, places = _mapping(path)
    theirs = _without_sweeps(other, places).get("variants")
    if not isinstance(theirs, dict):
        raise ConfigError(f"{path}: has no mapping of variants to add")
    ours = data.setdefault("variants", {})
    if not isinstance(ours, dict):
        return  # refused when the config is validated
    for name, variant in theirs.items():
        if name in ours and ours[name] != variant:
            here = origins.get(("variants", name), "the config")
            raise ConfigError(
                f"{places[('variants', name)]}: variants.{name} is another variant in {here}; rename one of them"
            )
        ours[name] = variant
    origins |= {place: origin for place, origin in places.items() if place[:1] == ("variants",) and place[1:]}


def _without_sweeps(data: dict[str, Yaml], origins: dict[KeyPath, str]) -> dict[str, Yaml]:
    """The data with every sweep written out as variants; `origins` then tells where their values come from."""
    variants, common = data.get("variants"), data.get("sweep")
    if not isinstance(variants, dict):
        return data
    try:
        expanded = expand(variants, common)
    except ValueError as error:
        raise ConfigError(f"{origins[()]}: {error}") from None
    for name, (source, _) in expanded.items():
        if name != source:
            inside = {path[2:]: origin for path, origin in origins.items() if path[:2] == ("variants", source)}
            swept = {path[1:]: origin for path, origin in origins.items() if path[0:1] == ("sweep",) and path[1:]}
            swept |= {path[1:]: origin for path, origin in inside.items() if path[:1] == ("sweep",) and path[1:]}
            origins |= {("variants", name, *path): origin for path, origin in inside.items()}
            for (key, *rest), origin in swept.items():
                if not rest:
                    origins["variants", name, *str(key).split(".")] = origin
    written = {name: variant for name, (_, variant) in expanded.items()}
    return {key: value for key, value in data.items() if key != "sweep"} | {"variants": written}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        known = sorted(str(other) for other in [*Path("configs").rglob("*.yaml"), *Path().glob("*.yaml")])
        close = difflib.get_close_matches(str(path), known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"{path}: no such config file{hint}\nconfigs here: {', '.join(known) or 'none; `strata init` writes one'}"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None


def _changed(override: str, data: dict[str, Yaml], origins: dict[KeyPath, str]) -> dict[str, Yaml]:
    """The data with one value changed; `origins` then tells that it came from the command line."""
    origin = f"--set {shown(override)}"
    dotted, equals, text = override.partition("=")
    steps = dotted.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"{origin}: expected key.path=value, for example --set training.n_steps=100")
    try:
        value, _ = parse(text, origin)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {str(error).removeprefix(f'{origin}:1: ')}") from None
    here: Yaml = data
    path: KeyPath = ()
    while steps:
        step, steps = _next_step(here, path, steps, data, origin)
        path, here = (*path, step), item(here, step)
        here = {} if here is None else here
    for old in [known for known in origins if known[: len(path)] == path]:
        del origins[old]
    origins[path] = origin
    changed = _put(data, path, value)
    assert isinstance(changed, dict)
    return changed


def _put(here: Yaml, path: KeyPath, value: Yaml) -> Yaml:
    """A copy with `value` at `path`, where mappings are made for keys that are not there yet."""
    if not path:
        return value
    inner = _put(item(here, path[0]), path[1:], value)
    if isinstance(here, list):
        return [inner if position == path[0] else old for position, old in enumerate(here)]
    return {**(here if isinstance(here, dict) else {}), str(path[0]): inner}


def _next_step(
    here: Yaml, path: KeyPath, steps: list[str], data: dict[str, Yaml], origin: str
) -> tuple[str | int, list[str]]:
    """The key or position that comes next, and the steps left; a key may itself contain dots."""
    where = ".".join(map(str, path))
    if isinstance(here, list):
        if not steps[0].isdecimal() or int(steps[0]) >= len(here):
            raise ConfigError(
                f"{origin}: {where} is a list of {len(here)}; expected a position from 0, got {steps[0]!r}"
            )
        return int(steps[0]), steps[1:]
    if not isinstance(here, dict):
        raise ConfigError(f"{origin}: {where} is {shown(repr(here))}; there is no {steps[0]!r} in it")
    for length in range(len(steps), 0, -1):
        if (key := ".".join(steps[:length])) in here:
            return key, steps[length:]
    keys = _place(path, data).of(here).properties
    if keys and steps[0] not in keys:
        path = (*path, steps[0])
        raise ConfigError(f"{origin}: {'.'.join(map(str, path))}: {unknown_key(path, keys)}")
    if not keys and len(steps) > 1:
        there = f"; there are: {', '.join(here)}" if here else "; the file has none, so write it there"
        hint = nearest(steps[0], here) or there
        raise ConfigError(f"{origin}: {where}.{steps[0]}: no such name{hint}")
    return steps[0], steps[1:]


def _place(path: KeyPath, data: Yaml) -> Place:
    """The place of the schema that a path in the data leads to."""
    place = whole_config()
    for step in path:
        place, data = place.child(step, data), item(data, step)
    return place
