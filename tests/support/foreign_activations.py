"""Small caches of activations, written as the programs that they are of write them.

Of those that no registry holds, the code that writes them was read, and its calls are repeated here: activault's
pipeline/vault/hook_uploader.py (`_queue_save_in_mem`, `_save`, `_get_metadata`), saev's src/saev/data/shards.py
(`Metadata.dump`, `ShardWriter`), and dictionary_learning/cache.py of its fork (`save_shard`, `collect`). `tests/peers`
has the real SAELens.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from safetensors.numpy import save_file

SITE, OTHER = "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"
N_SEQUENCES, LENGTH, WIDTH = 12, 4, 5
SHAPE = (N_SEQUENCES, LENGTH, WIDTH)


class Cache(NamedTuple):
    """What was written, and what a store of it must hold."""

    path: Path
    rows: dict[str, np.ndarray]
    """Site -> [N, M]; bfloat16 as bits."""
    tokens: dict[str, np.ndarray]
    """The fields of the token map that its files know."""
    model: str | None = None


def made_rows(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def made_ids(shape: tuple[int, ...] = SHAPE[:2]) -> np.ndarray:
    return np.random.default_rng(99).integers(0, 40, shape)


def flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, rows.shape[-1])


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(np.uint16)


def sequences(ids: np.ndarray | None, n: int = N_SEQUENCES, length: int = LENGTH) -> dict[str, np.ndarray]:
    """The token map of sequences of equal length."""
    known = {} if ids is None else {"token_id": ids.reshape(-1)}
    return {**known, "document": np.repeat(np.arange(n), length), "position": np.tile(np.arange(length), n)}


def saelens(path: Path, *, dtype: str = "float32", batch: int = 4) -> Cache:
    """Two files of record batches of `batch` contexts, as `Dataset.save_to_disk` writes them."""
    path.mkdir(parents=True)
    rows, ids = made_rows(0).astype(dtype), made_ids()
    value = {"float32": pyarrow.float32(), "float16": pyarrow.float16()}[dtype]
    extension = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": json.dumps([list(SHAPE[1:]), dtype]),
    }
    fields = [
        pyarrow.field(SITE, pyarrow.list_(pyarrow.list_(value)), metadata=extension),
        pyarrow.field("token_ids", pyarrow.list_(pyarrow.int32(), LENGTH)),
    ]
    schema = pyarrow.schema(fields, metadata={"huggingface": "{}"})
    names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (slice(0, 8), slice(8, 12)), strict=True):
        with pyarrow.OSFile(str(path / name), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
            for at in range(part.start, part.stop, batch):
                some = slice(at, min(at + batch, part.stop))
                columns = [
                    pyarrow.array([list(context) for context in rows[some]], fields[0].type),
                    pyarrow.array(ids[some].tolist(), fields[1].type),
                ]
                stream.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=schema))
    info = {
        SITE: {"shape": list(SHAPE[1:]), "dtype": dtype, "_type": "Array2D"},
        "token_ids": {"feature": {"dtype": "int32", "_type": "Value"}, "length": LENGTH, "_type": "List"},
    }
    (path / "dataset_info.json").write_text(json.dumps({"features": info, "license": ""}))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (path / "state.json").write_text(json.dumps(state, indent=2))
    return Cache(path, {SITE: flat(rows)}, sequences(ids))


def dictionary_learning(path: Path, *, dtype: torch.dtype = torch.bfloat16) -> Cache:
    """Two submodules of three shards; sequences of unequal lengths, one of them empty."""
    lengths = [5, 0, 9, 4, 7, 3, 11, 2, 6, 1, 8, 4]
    n_rows = sum(lengths)
    ids, rows = made_ids((n_rows,)), {}
    for seed, name in enumerate(("layer_1_out", "layer_3_out")):
        folder = path / name
        folder.mkdir(parents=True)
        found = torch.from_numpy(made_rows(seed, (n_rows, WIDTH))).to(dtype)
        for number, part in enumerate(found.split(25)):
            array = part.view(torch.int16).numpy() if dtype == torch.bfloat16 else part.numpy()
            mapped = np.memmap(folder / f"shard_{number}.memmap", dtype=array.dtype, mode="w+", shape=array.shape)
            mapped[:] = array
            mapped.flush()
            about = {"shape": list(array.shape), "dtype": str(dtype)}
            (folder / f"shard_{number}.meta").write_text(json.dumps(about))
        config = {
            "batch_size": 4, "context_len": 16, "shard_size": 20, "d_model": WIDTH, "shuffle_shards": False,
            "store_dir": "/home/somebody/cache",
            "io": "out", "total_size": n_rows, "shard_count": -(-n_rows // 25), "store_tokens": True,
            "store_sequence_ranges": True,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        torch.save(found.double().mean(0), folder / "mean.pt")
        torch.save(found.double().std(0), folder / "std.pt")
        rows[(SITE, OTHER)[seed]] = bits(found) if dtype == torch.bfloat16 else found.numpy()
    torch.save(torch.from_numpy(ids), path / "tokens.pt")
    torch.save(torch.tensor(np.cumsum([0, *lengths])), path / "sequence_ranges.pt")
    places = {
        "document": np.repeat(np.arange(len(lengths)), lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
    }
    return Cache(path, rows, {"token_id": ids, **places})


def activault(path: Path, *, dtype: torch.dtype = torch.bfloat16) -> Cache:
    """Two hooks of three groups of two batches of two sequences; names of files do not sort as they were written."""
    groups = ("c0ffee00-1", "0badcafe-2", "77777777-3")
    ids = made_ids()
    rows = {}
    for seed, hook in enumerate((SITE, OTHER)):
        folder = path / hook
        folder.mkdir(parents=True)
        states = torch.from_numpy(made_rows(seed)).to(dtype)
        parts = {}
        for number, group in enumerate(groups):
            some = slice(4 * number, 4 * number + 4)
            combined = {"states": states[some].clone(), "input_ids": torch.from_numpy(ids[some])}
            combined["tensor_bytes"] = sum(t.numel() * t.element_size() for t in combined.values())
            torch.save(combined, folder / f"{group}--{number + 1}_0.saved.pt")
            parts[group] = (combined["states"], ids[some])
        metadata = {
            "batch_size": 2, "sequence_length": LENGTH, "dtype": str(dtype), "d_in": WIDTH, "batches_per_file": 2,
            "shape": [2, LENGTH, WIDTH], "input_ids_shape": [2, LENGTH], "bytes_per_file": 1781,
        }  # fmt: skip
        (folder / "metadata.json").write_text(json.dumps(metadata))
        (folder / "statistics.json").write_text(json.dumps({"mean": [0.0] * WIDTH, "std": [1.0] * WIDTH, "norm": 2.0}))
        ordered = torch.cat([parts[group][0] for group in sorted(groups)])
        rows[hook] = flat(bits(ordered) if dtype == torch.bfloat16 else ordered.numpy())
    config = {
        "run_name": "small", "transformer_config": {"model_name": "google/gemma-2-2b", "dtype": "bfloat16"},
        "data_config": {"data_key": "web-instruct", "seq_length": 6}, "upload_config": {}, "total_tokens": 48,
    }  # fmt: skip
    (path / "cfg.json").write_text(json.dumps(config))
    in_order = np.concatenate([parts[group][1] for group in sorted(groups)])
    return Cache(path, rows, sequences(in_order), "google/gemma-2-2b")


def saev(path: Path, *, n_examples: int = N_SEQUENCES) -> Cache:
    """Two layers, [CLS], five examples a shard; the last padded with zeros, and empty where the one before is full."""
    path.mkdir(parents=True)
    n_tokens, per_shard = LENGTH + 1, 5
    acts = made_rows(0, (n_examples, 2, n_tokens, WIDTH))
    metadata = {
        "family": "dinov2", "ckpt": "dinov2_vitb14_reg", "layers": [1, 3], "content_tokens_per_example": LENGTH,
        "cls_token": True, "d_model": WIDTH, "n_examples": n_examples, "data": "gASVCgAAAAAAAACMBnBpY2tsZZQu",
        "max_tokens_per_shard": 2 * n_tokens * per_shard + 3, "dataset": "/somebody/images/flowers",
        "pixel_agg": None, "dtype": "float32", "protocol": "2.1",
    }  # fmt: skip
    (path / "metadata.json").write_text(json.dumps(metadata, indent=2))
    shards = []
    for number in range(n_examples // per_shard + 1):
        some = acts[number * per_shard : (number + 1) * per_shard]
        name, shape = f"acts{number:06}.bin", (per_shard, 2, n_tokens, WIDTH)
        mapped = np.memmap(path / name, mode="w+", dtype=np.float32, shape=shape)
        mapped[: len(some)] = some
        mapped.flush()
        shards.append({"name": name, "n_examples": len(some)})
    (path / "shards.json").write_text(json.dumps(shards))
    np.zeros((n_examples, LENGTH), np.uint8).tofile(path / "labels.bin")
    rows = {SITE: flat(acts[:, 0].copy()), OTHER: flat(acts[:, 1].copy())}
    flags_N = np.tile([2] + [0] * LENGTH, n_examples)
    return Cache(path, rows, {**sequences(None, n_examples, n_tokens), "flags": flags_N}, "dinov2_vitb14_reg")


def npy(path: Path) -> Cache:
    """Three files of sequences, in a folder that is called as its site."""
    folder = path / SITE
    folder.mkdir(parents=True)
    rows, ids = made_rows(0), made_ids()
    for number, part in enumerate(np.split(rows, [3, 8])):
        np.save(folder / f"part_{number}.npy", part)
    np.save(folder / "token_ids.npy", ids)
    return Cache(folder, {SITE: flat(rows)}, sequences(ids))


def safetensors(path: Path) -> Cache:
    """Two files of two sites and their token ids."""
    path.mkdir(parents=True)
    rows, ids = {SITE: made_rows(0), OTHER: made_rows(1)}, made_ids()
    for number, part in enumerate((slice(0, 7), slice(7, 12))):
        tensors = {name: found[part] for name, found in rows.items()} | {"token_ids": ids[part]}
        save_file(tensors, path / f"{number}.safetensors")
    return Cache(path, {name: flat(found) for name, found in rows.items()}, sequences(ids))


CACHES: dict[str, Callable[..., Any]] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "activault": activault,
    "saev": saev,
    "npy": npy,
    "safetensors": safetensors,
}
