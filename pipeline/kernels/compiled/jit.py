"""How loops are compiled: without the GIL, once for each machine and dtype, and kept on disk where that is possible.

Kept beside this package, or in the user's cache folder, or in NUMBA_CACHE_DIR; where none of them can be written, each
process compiles for some seconds.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Of all loops together: one is compiled with those it calls inside, and Numba looks for changes in its file alone."""


def _compile(**flags: Any) -> Callable[[Callable[..., Any]], Any]:
    def decorate(loop: Callable[..., Any]) -> Any:
        loop.__qualname__ += f"_{VERSION[:12]}"  # which names the file it is kept in
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy", **flags)(loop)
        except RuntimeError:  # there is no folder to keep it in
            return numba.njit(nogil=True, error_model="numpy", **flags)(loop)

    return decorate


compiled = _compile()
compiled_fused = _compile(fastmath={"contract"})
"""A product and a sum may be rounded once, together."""
compiled_any_order = _compile(fastmath={"contract", "reassoc"})
"""And a sum may be split into several: one order for each machine, and rounding errors as small."""
