"""The most memory that an extraction held, in a process of its own.

python peak_of_extraction.py FOLDER MODEL DTYPE SITE [whole]: prints bytes. `whole`: all weights are read, then cut.
"""

import ctypes
import gc
import sys
from pathlib import Path

from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.language_model import weights
from support.extraction import extraction_config
from support.hostile_reading import forget, highest_bytes


def resident_bytes() -> int:
    """What is held now, files that are mapped among it; what was freed is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what an earlier extraction freed would be used again, uncounted
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    folder, model, dtype, site, *way = sys.argv[1:]
    if way == ["whole"]:
        weights._why_whole = lambda *_: "for comparison"
    corpus = {"n_tokens": 400}
    # The same with a tiny model, so that libraries, corpus and caches are no part of the growth.
    tiny = {"model": {"dtype": dtype}, "store": {"path": f"{folder}/before"}}
    extract(extraction_config(Path(folder), corpus=corpus, **tiny))
    before = resident_bytes()
    forget()
    deep = {"model": {"dtype": dtype, "path": model}, "store": {"path": f"{folder}/store", "sites": [site]}}
    extract(extraction_config(Path(folder), corpus=corpus, **deep))
    print(highest_bytes() - before)


if __name__ == "__main__":
    main()
