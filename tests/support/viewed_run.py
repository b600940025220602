"""A small run with codes whose vocabulary is hostile, and how its SAEs are looked at by brute force."""

from pathlib import Path
from unittest import mock

import numpy as np

from strata_sae.pipeline.export.viewers.subject import Subject, subject
from strata_sae.pipeline.runs.addresses import trained_at
from strata_sae.stores import Token, write_store
from support import coded_run
from support.coded_run import RUN, SITE

NAME = f"topk@{SITE}"
HOSTILE = {
    3: b"<script>alert(1)</script>",
    4: "\u202eturned \u2066round\u2069".encode(),
    5: b"a\x00b",
    6: b"w" * 10_000,
    7: b"\xe2\x82",
    8: b"\xac",
    9: "line\u2028end\r\n\t".encode(),
    10: b"\xff",
    11: b'"],}\\',
}
"""Token id -> bytes. 7 and 8 are a euro sign together."""


def make(folder: Path) -> Path:
    """As coded_run.make, with these tokens among the ordinary ones."""
    with mock.patch.object(coded_run, "write_store", _with_hostile_words):
        return coded_run.make(folder)


def _with_hostile_words(*arguments: object, vocabulary: dict[int, Token], **more: object) -> object:
    words = vocabulary | {number: Token(data, special=False) for number, data in HOSTILE.items()}
    return write_store(*arguments, vocabulary=words, **more)  # type: ignore[arg-type]


def viewed(name: str = NAME) -> Subject:
    """An SAE of the run in the working folder."""
    return subject(trained_at(RUN / name))


def dense(seen: Subject) -> np.ndarray:
    """All codes of the rows that are kept, float32 [N, E]; 0 on the others."""
    codes_NE = np.zeros((seen.text.n_rows, seen.sae.d_sae), np.float32)
    for latent in range(seen.sae.d_sae):
        rows, values = seen.sae.codes.rows_of(latent)
        codes_NE[rows, latent] = values
    codes_NE[seen.text.position == 0] = 0
    return codes_NE
