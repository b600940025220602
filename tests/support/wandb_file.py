"""Reads the `.wandb` file of an offline run: records in LevelDB's log format. wandb has no reader in Python."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES, BLOCK_BYTES, RECORD_HEADER_BYTES = 7, 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The records as far as they are whole, as wandb's protocol buffer has them."""
    from wandb.proto import wandb_internal_pb2

    for data in _whole(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def _whole(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    at, parts = HEADER_BYTES, b""
    while at + RECORD_HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < RECORD_HEADER_BYTES:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0 or at + RECORD_HEADER_BYTES + size > len(data):
            return
        at += RECORD_HEADER_BYTES
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[at : at + size]
        at += size
        if kind in (FULL, LAST):
            yield parts
