"""delphi's cache: its explainers and scorers then run on these rows without running the model.

`latents/<site>/<first>_<last>.safetensors` hold `locations` [n, 3] (sequence, position, latent - first), `activations`
[n] and `tokens` [sequences, positions]; beside them `config.json`, and in `neighbours/` the latents that fire together.
Source: delphi/latents/cache.py, loader.py and neighbours.py (eai-delphi 0.1.3).

Row r of the store is position r % L of sequence r // L: delphi cuts text into sequences of L tokens wherever they fall,
too, and reshapes them into its windows. Rows beyond the last whole sequence are left out.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.numpy

from strata_sae.pipeline.export.viewers.beside import partners
from strata_sae.pipeline.export.viewers.spelling import slug
from strata_sae.pipeline.export.viewers.subject import LatentCodes, Subject
from strata_sae.pipeline.formats.foreign import DoesNotFit
from strata_sae.stores.files.filesystem import naming

log = logging.getLogger(__name__)

_WINDOW = 32
"""delphi's windows, of which a sequence must have a whole number (`ConstructorConfig.example_ctx_len`)."""
_SEQUENCE_TOKENS = 256
"""`CacheConfig.cache_ctx_len`."""
_PAIRS_A_FILE = 2**22
"""About 50 bytes each in memory, 200 MiB in all; a latent of more has a file of its own."""
_NEIGHBOURS = 64


def write(subject: Subject, out: Path) -> None:
    """Fill an empty folder. Raises: DoesNotFit if the store has fewer rows than a window of delphi's."""
    length = _sequence_tokens(subject)
    n_sequences, n_left_out = divmod(subject.text.n_rows, length)
    log.info("delphi: %d sequences of %d tokens; the last %d rows are left out", n_sequences, length, n_left_out)
    module = slug(subject.sae.record.site)
    folder = out / "latents" / module
    folder.mkdir(parents=True)
    (out / "neighbours").mkdir()
    tokens = subject.text.token_id[: n_sequences * length].reshape(n_sequences, length)
    n_files = 0
    for part in _parts(subject.latents("delphi")):
        _write_part(folder, part, tokens)
        n_files += 1
    config = {
        "dataset_repo": subject.source.dataset or "none", "dataset_split": "train", "dataset_name": "",
        "dataset_column": "text", "batch_size": 1, "cache_ctx_len": length, "n_tokens": n_sequences * length,
        "n_splits": n_files, "model_name": subject.source.model or "none",
    }  # fmt: skip
    _write_json(folder / "config.json", config)
    _write_neighbours(subject, out / "neighbours" / f"{module}-co-occurrence.json")


def _sequence_tokens(subject: Subject) -> int:
    """The model's context if windows of delphi's fill it, else delphi's own; less if the store has fewer rows."""
    wanted = subject.source.context_tokens or _SEQUENCE_TOKENS
    wanted = wanted if wanted % _WINDOW == 0 else _SEQUENCE_TOKENS
    if subject.text.n_rows < _WINDOW:
        raise DoesNotFit(f"its store has {subject.text.n_rows} rows, and delphi's windows have {_WINDOW} tokens")
    return min(wanted, subject.text.n_rows // _WINDOW * _WINDOW)


def _parts(latents: Iterator[LatentCodes]) -> Iterator[list[LatentCodes]]:
    """Latents in order, as many together as a file holds."""
    part: list[LatentCodes] = []
    n_pairs = 0
    for codes in latents:
        if part and n_pairs + len(codes.rows) > _PAIRS_A_FILE:
            yield part
            part, n_pairs = [], 0
        part.append(codes)
        n_pairs += len(codes.rows)
    yield part


def _write_part(folder: Path, part: list[LatentCodes], tokens: np.ndarray) -> None:
    first, last = part[0].latent, part[-1].latent
    rows = np.concatenate([codes.rows for codes in part])
    latents = np.repeat(np.arange(len(part)), [len(codes.rows) for codes in part])
    values = np.concatenate([codes.values for codes in part])
    inside = rows < tokens.size
    rows, latents, values = rows[inside], latents[inside], values[inside]
    small = len(part) <= 2**16 and len(tokens) <= 2**16 and tokens.shape[1] <= 2**16
    locations = np.empty((len(rows), 3), np.uint16 if small else np.uint32)
    locations[:, 0], locations[:, 1] = np.divmod(rows, tokens.shape[1])
    locations[:, 2] = latents
    path = folder / f"{first}_{last}.safetensors"
    with naming(path):
        # Values as they are: float16, which delphi writes, ends at 65,504.
        data = {"locations": locations, "activations": values, "tokens": np.ascontiguousarray(tokens)}
        path.write_bytes(safetensors.numpy.save(data))  # an OSError of save_file's has no number


def _write_neighbours(subject: Subject, path: Path) -> None:
    """{latent: its neighbours}; line by line, since 65,536 latents have 4 million."""
    with naming(path), path.open("xb") as file:
        for latent in range(subject.sae.d_sae):
            found = json.dumps(_neighbours(subject, latent), separators=(",", ":"))
            file.write(f'{"," if latent else "{"}\n"{latent}":{found}'.encode())
        file.write(b"\n}\n")


def _neighbours(subject: Subject, latent: int) -> list[list[float]]:
    """[Jaccard's index, latent], the closest first, as delphi's reader takes them."""
    found = partners(subject, latent, _NEIGHBOURS)
    pairs = sorted(zip(found.jaccard, found.latents, strict=True), key=lambda pair: (-pair[0], pair[1]))
    return [list(pair) for pair in pairs]


def _write_json(path: Path, data: object) -> None:
    with naming(path):
        path.write_bytes(json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n")
