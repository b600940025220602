"""How loops are compiled: without the GIL, once for each machine and dtype, and kept on disk where that is possible."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from strata_sae.pipeline.kernels.machine.compiled.cache import CheckedCache, folder

VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Of all loops together: one is compiled with those it calls inside, and each is kept under the version of all."""


def _compile(**flags: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(loop: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, error_model="numpy", **flags)(loop)
        if (place := folder(VERSION)) is not None:
            dispatcher._cache = CheckedCache(loop, place)
        return dispatcher

    return decorate


compiled = _compile()
compiled_fused = _compile(fastmath={"contract"})
"""A product and a sum may be rounded once, together."""
compiled_any_order = _compile(fastmath={"contract", "reassoc"})
"""And a sum may be split into several: one order for each machine, and rounding errors as small."""
