"""SAELens' cached activations: a folder of Arrow files with a column of contexts [S, M] a hook, and one of token ids.

Source: SAELens' cache_activations_runner.py, which writes it by `datasets`. Nothing of `datasets` is used here: the
files are Arrow streams, mapped by pyarrow.
"""

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.imports.activations.activations import Activations, Theirs, encoding_of, same
from strata_sae.pipeline.imports.activations.arrow_files import ArrowColumn, ArrowShard, Column, Opened
from strata_sae.pipeline.imports.activations.pieces import Joined, in_sequences
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.stores import Rows
from strata_sae.stores.files.canonical import Json

_INFO, _STATE, _TOKENS = "dataset_info.json", "state.json", "token_ids"
_RUNNER = "cache_activations_runner_cfg.json"
"""What SAELens adds to a cache on the hub."""


def is_one(folder: SourceFolder) -> bool:
    """Whether it has what `datasets` writes, with a column of contexts."""
    if not (folder.has(_INFO) and folder.has(_STATE)):
        return False
    try:
        return bool(_contexts(folder.object(_INFO)))
    except ConfigError:
        return False


def read(folder: SourceFolder) -> Activations:
    """A site for each hook; documents are contexts. Raises: ConfigError."""
    info, names = folder.object(_INFO), _data_files(folder)
    hooks = _contexts(info)
    if not hooks:
        raise ConfigError(f"{folder.path / _INFO}: has no column of contexts (Array2D); SAELens writes one a hook")
    contexts = {hook: _shape(folder, hook, feature) for hook, feature in hooks.items()}
    same(folder, {hook: length for hook, (length, _) in contexts.items()}, "the length of a context")
    encodings = {
        hook: encoding_of(str(feature.get("dtype")), f"{folder.path / _INFO}: {shown(hook)}")
        for hook, feature in hooks.items()
    }
    same(folder, encodings, "the type")
    length, encoding = next(iter(contexts.values()))[0], next(iter(encodings.values()))
    columns = [Column(hook, encoding, shape) for hook, shape in contexts.items()]
    if _TOKENS in _features(info):
        columns.append(Column(_TOKENS, "int32", (length,)))
    opened = Opened()
    shards = [ArrowShard(folder, name, columns, opened) for name in names]
    shards = [shard for shard in shards if shard.n_rows]
    if not shards:
        raise ConfigError(f"{folder.path}: its files hold no contexts")
    joined = {column.name: Joined([ArrowColumn(shard, column) for shard in shards]) for column in columns}
    tokens: dict[str, Rows] = in_sequences(joined[next(iter(hooks))].shape[0], length)
    if _TOKENS in joined:
        tokens["token_id"] = joined[_TOKENS]
    runner = folder.object(_RUNNER) if folder.has(_RUNNER) else {}
    return Activations(
        format="saelens",
        folder=folder,
        sites={hook: Theirs(hook, joined[hook]) for hook in hooks},
        encoding=encoding,
        tokens=tokens,
        model=_text(runner, "model_name"),
        dataset=_text(runner, "dataset_path"),
        facts={"context_size": length},
    )


def _features(info: dict[str, Json]) -> dict[str, Json]:
    features = info.get("features")
    return features if isinstance(features, dict) else {}


def _contexts(info: dict[str, Json]) -> dict[str, dict[str, Json]]:
    """The columns that hold contexts."""
    features = _features(info).items()
    return {name: value for name, value in features if isinstance(value, dict) and value.get("_type") == "Array2D"}


def _shape(folder: SourceFolder, hook: str, feature: dict[str, Json]) -> tuple[int, int]:
    shape = feature.get("shape")
    if isinstance(shape, list) and len(shape) == 2:
        length, width = shape
        if isinstance(length, int) and isinstance(width, int) and 0 < length < 2**31 and 0 < width < 2**31:
            return length, width
    raise ConfigError(f"{folder.path / _INFO}: {shown(hook)}: shape {shown(str(shape))}; a context is [S, M]")


def _data_files(folder: SourceFolder) -> list[str]:
    """The files that the state names, in order. Raises: ConfigError."""
    state = folder.object(_STATE)
    listed = state.get("_data_files")
    names = [entry.get("filename") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    if not names or len(names) != len(listed if isinstance(listed, list) else []):
        raise ConfigError(f"{folder.path / _STATE}: _data_files: is no list of files")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise ConfigError(f"{folder.path / _STATE}: it selects rows by an index; save the dataset again to flatten it")
    found = [name for name in names if isinstance(name, str)]
    if len(set(found)) != len(names):
        raise ConfigError(f"{folder.path / _STATE}: _data_files: {shown(str(names))} are not different names")
    return found


def _text(found: dict[str, Json], key: str) -> str | None:
    value = found.get(key)
    return value if isinstance(value, str) and value else None
