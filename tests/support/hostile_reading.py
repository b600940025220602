"""Reads stores one after another as a user would, with little memory, and says what became of each.

python hostile_reading.py: paths on stdin, one a line; prints one JSON line for each. A store that takes more of the
processor than HANGS_SECONDS ends the process without a line.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from strata_sae.stores import ActivationStore, Batches, Filters, StoreError, verify

HANGS_SECONDS = 600
"""Of the processor. Nothing is measured by it: it ends what would never end."""
MAX_BYTES = 2 * 2**30


def use(path: Path) -> None:
    """Everything a reader does with a store."""
    store = ActivationStore.open(path)
    assert isinstance(store.vocabulary, dict)
    site = next(iter(store.plan.sites))
    json.dumps(store.summary(), allow_nan=False)
    store.statistics(site)
    store.mean_square_norm(site, "train", Filters(max_norm_multiple=4.0))
    with Batches(store, site, batch_size=64, threads=1) as batches:
        for step in range(8):
            batches.batch(step)
    for _ in store.in_order(site, "heldout", Filters(), 64):
        pass
    if problems := verify(path, deep=True):
        raise StoreError("; ".join(problems))


def highest_bytes() -> int:
    """Most memory held since the last `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        forget()
        signal.setitimer(signal.ITIMER_PROF, HANGS_SECONDS)
        message = ""
        try:
            use(path)
            outcome = "used"
        except StoreError as error:
            outcome, message = "refused", str(error)
        except BaseException as error:
            outcome = repr(error)[:2000]
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([path.name, outcome, message[:4000], highest_bytes()]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
