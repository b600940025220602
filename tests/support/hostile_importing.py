"""Imports caches of activations one after another, with little memory, and says what became of each.

python hostile_importing.py: a format, a source and a store on a line of stdin each; prints one JSON line for each.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.imports.activations.import_store import Asked, import_store
from strata_sae.stores import StoreError
from support.hostile_reading import HANGS_SECONDS, MAX_BYTES


def main() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    signal.setitimer(signal.ITIMER_PROF, HANGS_SECONDS)
    for line in sys.stdin:
        format, source, out = line.rstrip("\n").split("\t")
        message = ""
        try:
            asked = Asked(format=format)
            import_store(Path(source), Path(out), asked, announce=lambda _: None, advance=lambda _: None)
            outcome = "imported"
        except (ConfigError, StoreError) as error:
            outcome, message = "refused", str(error)
        except BaseException as error:
            outcome = repr(error)[:2000]
        print(json.dumps([outcome, message[:4000]]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
