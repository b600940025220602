"""What a store keeps of the model's head, so that a direction's effect on the logits needs no model (docs/store.md)."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from strata_sae.stores import ActivationStore, StoreError, Token, parse_tokens
from strata_sae.stores.files.canonical import parse_json

UNEMBEDDING = "unembedding.safetensors"
UNEMBEDDING_TOKENS = "unembedding_tokens.json"
"""What every row of W_U stands for, in the form of token_bytes.json, which has the ids that occur only."""
NORMS = ("rms", "layer", "none")
BLOCK_BYTES = 2**24
"""Of W_U as float32, made from float16 for one product at a time: a whole one would be twice what the store keeps."""
_MAX_HEADER_BYTES = 2**16
_SIZES = {"F16": 2, "F32": 4}
_FORMAT = {"format": "strata unembedding", "version": "1"}


class Head(NamedTuple):
    """The final norm and the unembedding of a model."""

    W_U: np.ndarray
    """float16 [V, M]. Half of float32's bytes; weights published as float16 or bfloat16 keep their value where it lies
    between 6e-5 and 65,504 (float16 has three bits of precision more than bfloat16), others to 5e-4 of it."""
    norm_weight: np.ndarray
    """float32 [M], as it multiplies: of Gemma 1 + its parameter. Ones where the norm has none."""
    norm: str
    """`rms`, `layer` (which removes the mean of a row first) or `none`."""
    eps: float
    left_out: str
    """What the model does between norm and logits beyond W_U, in words; empty where it does nothing."""

    def effects(self, direction_M: np.ndarray) -> np.ndarray:
        """Change of every logit, float32 [V], per unit of a direction added to the residual stream before the norm.

        The norm's division by the size of the row is left out: it is one positive factor for all tokens.
        """
        folded_M = direction_M.astype(np.float32)
        if self.norm == "layer":
            folded_M = folded_M - folded_M.mean()
        folded_M = folded_M * self.norm_weight
        n_tokens, width = self.W_U.shape
        block = max(1, BLOCK_BYTES // (4 * width))
        found_V = np.empty(n_tokens, np.float32)
        for first in range(0, n_tokens, block):
            found_V[first : first + block] = self.W_U[first : first + block].astype(np.float32) @ folded_M
        return found_V

    def to_bytes(self) -> bytes:
        """The file: safetensors with W_U and norm_weight, and the rest as its metadata."""
        arrays = {"W_U": np.ascontiguousarray(self.W_U), "norm_weight": self.norm_weight}
        said = {"norm": self.norm, "eps": repr(self.eps), "left_out": self.left_out}
        return safetensors.numpy.save(arrays, _FORMAT | said)


def head_of_bytes(data: bytes, where: str) -> Head:
    """Read back what `Head.to_bytes` made; W_U is a view of `data`. Raises: StoreError if it is anything else."""
    try:
        n_header = int.from_bytes(data[:8], "little")
        if n_header > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {n_header:,} bytes")
        header = parse_json(data[8 : 8 + n_header], where)
        if not isinstance(header, dict) or set(header) != {"__metadata__", "W_U", "norm_weight"}:
            raise ValueError("other tensors than W_U and norm_weight")
        said = header["__metadata__"]
        if not isinstance(said, dict) or not _FORMAT.items() <= said.items() or said.get("norm") not in NORMS:
            raise ValueError("not the metadata of an unembedding of version 1")
        body = memoryview(data)[8 + n_header :]
        W_U, weight = (_tensor(header[name], body, kind) for name, kind in (("W_U", "F16"), ("norm_weight", "F32")))
        if W_U.ndim != 2 or weight.shape != W_U.shape[1:]:
            raise ValueError(f"W_U {W_U.shape} and norm_weight {weight.shape} do not belong together")
        return Head(W_U, weight, str(said["norm"]), float(str(said["eps"])), str(said["left_out"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{where}: no unembedding ({error}); fetch the store again") from None


def _tensor(entry: object, body: memoryview, kind: str) -> np.ndarray:
    """A view of one tensor, checked against its entry of the header."""
    if not isinstance(entry, dict) or entry.get("dtype") != kind:
        raise ValueError(f"a tensor that is not {kind}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in [*shape, *offsets]):
        raise ValueError("a shape or an offset that is no count")
    first, last = offsets
    if last - first != math.prod(shape) * _SIZES[kind] or last > len(body):
        raise ValueError("a tensor that its bytes do not fill")
    return np.frombuffer(body[first:last], {"F16": "<f2", "F32": "<f4"}[kind]).reshape(shape)


class KeptHead:
    """The head that a store keeps, and the text of its tokens."""

    def __init__(self, store: ActivationStore) -> None:
        """Raises: StoreError if the file is damaged."""
        self._store = store
        self.head = head_of_bytes(store.extra(UNEMBEDDING), f"{store.path}/extras/{UNEMBEDDING}")

    @cached_property
    def tokens(self) -> Mapping[int, Token]:
        """What each row of W_U stands for; of a store that does not say so, the tokens that occur in it."""
        if UNEMBEDDING_TOKENS not in self._store.extras:
            return self._store.tokens
        return parse_tokens(self._store.extra(UNEMBEDDING_TOKENS), self._store.path / UNEMBEDDING_TOKENS)
