"""saev's shards: `metadata.json`, `shards.json`, `acts000000.bin`: float32 [example, layer, token, d].

Source: saev's docs/src/developers/protocol.md and src/saev/data/shards.py. The last shard is padded to its full size,
and one without examples may follow it; `shards.json` says how many examples each has.
"""

import re
from collections.abc import Callable

import numpy as np

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.imports.activations.activations import Activations, Theirs
from strata_sae.pipeline.imports.activations.pieces import Computed, Joined, RawRows, in_sequences
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.stores import Rows
from strata_sae.stores.files.canonical import Json

_SHARD = re.compile(r"acts[0-9]{6}\.bin")
_SPECIAL = 2
"""The bit of a token map's flags."""
_CONTENT = ("content_tokens_per_example", "patches_per_ex")
_EXAMPLES = ("n_examples", "n_ex")
_BUDGET = ("max_tokens_per_shard", "patches_per_shard")
_FACTS = ("family", "protocol", "dtype", "pixel_agg", "cls_token", "layers", *_CONTENT, *_EXAMPLES, *_BUDGET)
_MAX_LAYERS = 1024


def is_one(folder: SourceFolder) -> bool:
    """Whether it has the three kinds of files."""
    return folder.has("metadata.json") and folder.has("shards.json") and bool(folder.names("acts*.bin"))


def read(folder: SourceFolder) -> Activations:
    """A site for each layer; documents are examples, and [CLS] is flagged as special. Raises: ConfigError."""
    metadata, where = folder.object("metadata.json"), folder.path / "metadata.json"
    count = _counter(folder, metadata, "metadata.json")
    width, n_examples, layers = count(("d_model",)), count(_EXAMPLES), _layers(metadata, str(where))
    if metadata.get("dtype", "float32") != "float32":
        raise ConfigError(f"{where}: dtype: {shown(repr(metadata['dtype']))} is unknown; allowed: float32")
    if not isinstance(cls_token := metadata.get("cls_token"), bool):
        raise ConfigError(f"{where}: cls_token: is missing, or neither true nor false")
    n_tokens = count(_CONTENT) + cls_token
    per_shard = count(_BUDGET) // (n_tokens * len(layers))
    shards = _shards(folder, per_shard, n_examples, len(layers) * n_tokens * width * 4)
    layer_bytes = n_tokens * width * 4
    sites = {}
    for place, layer in enumerate(layers):
        parts = [
            RawRows(
                folder,
                name,
                "<f4",
                (n_shard * n_tokens, width),
                offset_bytes=place * layer_bytes,
                run_rows=n_tokens,
                stride_bytes=len(layers) * layer_bytes,
            )
            for name, n_shard in shards.items()
        ]
        sites[f"layer {layer}"] = Theirs(f"blocks.{layer}.hook_resid_post", Joined(parts))
    n_rows = n_examples * n_tokens
    tokens: dict[str, Rows] = in_sequences(n_rows, n_tokens)
    if cls_token:
        tokens["flags"] = Computed(n_rows, lambda rows_N: np.where(rows_N % n_tokens == 0, _SPECIAL, 0))
    return Activations(
        format="saev",
        folder=folder,
        sites=sites,
        encoding="float32",
        tokens=tokens,
        model=_text(metadata, "ckpt"),
        dataset=_text(metadata, "dataset"),
        left_out=[name for name in ("labels.bin",) if folder.has(name)],
        # `data` is a pickle in base64, and stays closed.
        facts={key: metadata[key] for key in _FACTS if key in metadata},
    )


def _counter(folder: SourceFolder, found: dict[str, Json], name: str) -> Callable[[tuple[str, ...]], int]:
    """Reads an integer under the first of its names, of which older versions had others."""

    def count(keys: tuple[str, ...]) -> int:
        return folder.count(found, next((key for key in keys if key in found), keys[0]), name)

    return count


def _layers(metadata: dict[str, Json], where: str) -> list[int]:
    layers = metadata.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= _MAX_LAYERS:
        raise ConfigError(f"{where}: layers: is no list of 1 to {_MAX_LAYERS} layers")
    numbers = [
        layer for layer in layers if isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < 10**6
    ]
    if len(set(numbers)) != len(layers):
        raise ConfigError(f"{where}: layers: {shown(str(layers))} are not different numbers of layers")
    return numbers


def _shards(folder: SourceFolder, per_shard: int, n_examples: int, example_bytes: int) -> dict[str, int]:
    """The examples of each shard that has some, in order. Raises: ConfigError if files and metadata do not agree."""
    listed, where = folder.json("shards.json"), folder.path / "shards.json"
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
        raise ConfigError(f"{where}: is no list of shards")
    if per_shard < 1:
        raise ConfigError(f"{folder.path / 'metadata.json'}: its shards are too small for one example")
    found: dict[str, int] = {}
    for number, entry in enumerate(listed):
        assert isinstance(entry, dict)
        name = entry.get("name")
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or name != f"acts{number:06d}.bin":
            raise ConfigError(f"{where}: shard {number} is named {shown(repr(name))}; it is acts{number:06d}.bin")
        key = next((key for key in _EXAMPLES if key in entry), _EXAMPLES[0])
        n_here = folder.count(entry, key, "shards.json", least=0)
        if n_here > per_shard or (n_here < per_shard and sum(found.values()) + n_here != n_examples):
            raise ConfigError(f"{where}: {name} has {n_here} examples; all but the last have {per_shard}")
        if n_here and folder.n_bytes(name) not in (per_shard * example_bytes, n_here * example_bytes):
            raise ConfigError(
                f"{folder.path / name}: {folder.n_bytes(name):,} bytes, but {per_shard} examples have "
                f"{per_shard * example_bytes:,}; the file is cut, or of another cache"
            )
        if n_here:
            found[name] = n_here
    if sum(found.values()) != n_examples:
        raise ConfigError(
            f"{where}: its shards have {sum(found.values()):,} examples, metadata.json says {n_examples:,}"
        )
    return found


def _text(metadata: dict[str, Json], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and value else None
