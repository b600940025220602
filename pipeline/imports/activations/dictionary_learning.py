"""The activation cache of a fork of dictionary_learning: a folder a submodule, of `config.json` and `shard_<i>.memmap`.

Source: dictionary_learning/cache.py of the fork (crosscoder_learning). A shard is raw rows [n, M], bfloat16 as bits;
`shard_<i>.meta` has its shape. Beside the folders lie `tokens.pt` [N] and `sequence_ranges.pt`: the first row of each
sequence, and N. What lies beyond the `shard_count` of a config is not read by the fork, and not here.
"""

import re

import numpy as np

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.imports.activations.activations import (
    ENCODINGS,
    OUR_SITE,
    Activations,
    Theirs,
    encoding_of,
    same,
)
from strata_sae.pipeline.imports.activations.pieces import Computed, Joined, RawRows
from strata_sae.pipeline.imports.activations.source_folder import MAX_FILES, SourceFolder
from strata_sae.pipeline.imports.activations.torch_files import TorchRows, numbers, read_tensors
from strata_sae.stores import Rows
from strata_sae.stores.files.canonical import Json

_TOKENS, _RANGES = "tokens.pt", "sequence_ranges.pt"
_LAYER = re.compile(r"layer_([0-9]{1,6})_(in|out)")
_HOOKS = {"in": "hook_resid_pre", "out": "hook_resid_post"}


def is_one(folder: SourceFolder) -> bool:
    """Whether it, or a folder in it, has a config and a shard."""
    return bool(_parts(folder))


def read(folder: SourceFolder) -> Activations:
    """A site for each submodule. Raises: ConfigError."""
    parts = _parts(folder)
    if not parts:
        raise ConfigError(f"{folder.path}: holds no config.json with shard_0.memmap, nor do the folders in it")
    configs = {part: folder.object(_in(part, "config.json")) for part in parts}
    if len(parts) > 1 and any(config.get("shuffle_shards") for config in configs.values()):
        raise ConfigError(
            f"{folder.path}: shuffle_shards: each submodule's rows are in an order of their own, so they are not of "
            f"the same tokens; import one, for example {folder.path / parts[0]}"
        )
    totals = {part: folder.count(config, "total_size", _in(part, "config.json")) for part, config in configs.items()}
    same(folder, totals, "total_size")
    sites, encodings = {}, {}
    for part, config in configs.items():
        name = folder.name if part == "." else part
        encodings[part], rows_NM = _rows(folder, part, config)
        sites[name] = Theirs(_site(name), rows_NM)
    same(folder, encodings, "the type")
    n_rows = totals[parts[0]]
    return Activations(
        format="dictionary_learning",
        folder=folder,
        sites=sites,
        encoding=encodings[parts[0]],
        tokens=_tokens(folder, n_rows, configs[parts[0]]) if parts != ["."] else {},
        left_out=[name for part in parts for kind in ("mean.pt", "std.pt") if folder.has(name := _in(part, kind))],
        facts={key: value for key, value in configs[parts[0]].items() if isinstance(value, bool | int | str)},
    )


def _parts(folder: SourceFolder) -> list[str]:
    """Where a config and the first shard lie: the folder itself, or folders in it."""
    if folder.has("config.json") and folder.has("shard_0.memmap"):
        return ["."]
    return [
        part for part in folder.folders() if folder.has(f"{part}/config.json") and folder.has(f"{part}/shard_0.memmap")
    ]


def _in(part: str, name: str) -> str:
    return name if part == "." else f"{part}/{name}"


def _site(name: str) -> str:
    """Our name of `<submodule>_<in or out>`, where its scripts' name of a layer, or ours, stands there."""
    if found := _LAYER.fullmatch(name):
        return f"blocks.{int(found[1])}.{_HOOKS[found[2]]}"
    bare = name.removesuffix("_out").removesuffix("_in")
    return bare if OUR_SITE.fullmatch(bare) else name


def _rows(folder: SourceFolder, part: str, config: dict[str, Json]) -> tuple[str, Rows]:
    """Encoding and rows of a submodule. Raises: ConfigError if a shard is missing, cut, or not as config.json says."""
    about = _in(part, "config.json")
    width, n_shards = folder.count(config, "d_model", about), folder.count(config, "shard_count", about)
    if n_shards > MAX_FILES:
        raise ConfigError(f"{folder.path / about}: shard_count: {n_shards} is not allowed; up to {MAX_FILES:,}")
    described = {number: _shard(folder, part, number, width) for number in range(n_shards)}
    same(folder, {f"shard {number}": encoding for number, (encoding, _) in described.items()}, "the type")
    found = sum(n_rows for _, n_rows in described.values())
    if found != (total := folder.count(config, "total_size", about)):
        raise ConfigError(
            f"{folder.path / about}: total_size: {total:,}, but its {n_shards} shards have {found:,} rows"
        )
    encoding = described[0][0]
    rows = [
        RawRows(folder, _in(part, f"shard_{number}.memmap"), ENCODINGS[encoding], (n_rows, width))
        for number, (_, n_rows) in described.items()
    ]
    return encoding, Joined(rows)


def _shard(folder: SourceFolder, part: str, number: int, width: int) -> tuple[str, int]:
    """Encoding and number of rows of a shard. Raises: ConfigError."""
    name = _in(part, f"shard_{number}.memmap")
    meta_name = _in(part, f"shard_{number}.meta")
    meta, where = folder.object(meta_name), str(folder.path / meta_name)
    shape, dtype = meta.get("shape"), meta.get("dtype", "float32")  # older versions wrote float32 alone
    if not isinstance(shape, list) or [type(size) for size in shape] != [int, int] or not isinstance(dtype, str):
        raise ConfigError(f"{where}: shape {shown(str(shape))}, dtype {shown(str(dtype))} are not those of rows [n, M]")
    n_rows, found_width = int(str(shape[0])), shape[1]
    if found_width != width or not 0 < n_rows < 2**48:
        raise ConfigError(f"{where}: shape {shown(str(shape))}, but config.json says rows of {width}")
    encoding = encoding_of(dtype, where)
    needed = n_rows * width * np.dtype(ENCODINGS[encoding]).itemsize
    if folder.n_bytes(name) != needed:
        raise ConfigError(
            f"{folder.path / name}: {folder.n_bytes(name):,} bytes, but its .meta says {needed:,}; the file is cut"
        )
    return encoding, n_rows


def _tokens(folder: SourceFolder, n_rows: int, config: dict[str, Json]) -> dict[str, Rows]:
    """What is known of the token map: ids, and which rows are of one sequence. Raises: ConfigError."""
    fields: dict[str, Rows] = {}
    if config.get("store_tokens"):
        tensor = read_tensors(folder, _TOKENS).get("")
        if tensor is None or tensor.shape != (n_rows,) or tensor.is_floating_point():
            raise ConfigError(f"{folder.path / _TOKENS}: holds no token id for each of the {n_rows:,} rows")
        fields["token_id"] = TorchRows(folder, _TOKENS, "", tensor, flat=True)
    if config.get("store_sequence_ranges"):
        tensor = read_tensors(folder, _RANGES).get("")
        starts = None if tensor is None or tensor.is_floating_point() else numbers(tensor).reshape(-1).astype(np.int64)
        if starts is None or len(starts) < 2 or (starts[0], starts[-1]) != (0, n_rows) or np.diff(starts).min() < 0:
            raise ConfigError(f"{folder.path / _RANGES}: is no list of first rows from 0 to {n_rows:,}, ascending")
        firsts = starts[:-1]

        def document(rows_N: np.ndarray) -> np.ndarray:
            return np.searchsorted(firsts, rows_N, side="right") - 1

        fields["document"] = Computed(n_rows, document)
        fields["position"] = Computed(n_rows, lambda rows_N: rows_N - firsts[document(rows_N)])
    return fields
