"""A store, a config and a record, whatever language the machine speaks; prints what must not depend on it.

python small_life.py FOLDER CONFIG
"""

import hashlib
import json
import locale
import sys
from pathlib import Path
from typing import Any

from strata_sae.pipeline.config import load
from strata_sae.pipeline.runs.record_files import read_record, write_record
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.stores import ActivationStore, Batches, StoreError, verify
from support.made_up_records import sae_record
from support.small_store import build_store

WORDS = {0: "é", 1: "ıİ", 2: "日本", 3: "😀", 4: "\u202e", 5: "ß"}


def live(folder: Path, config_file: Path) -> dict[str, Any]:
    path = build_store(folder / "store", 300, provenance={"corpus": {"words": list(WORDS.values())}})
    store = ActivationStore.open(path)
    with Batches(store, "blocks.1.hook_resid_post", batch_size=32, threads=1) as batches:
        served = hashlib.sha256(b"".join(batches.batch(step)[0].tobytes() for step in range(10))).hexdigest()
    (folder / "config.yaml").write_bytes(config_file.read_bytes() + "# é ıİ 日本\n".encode())
    config = load(folder / "config.yaml", [])
    record = sae_record("é", "ß", {"architecture": "ıİ", "d_sae": 4, "I": 0.1}, d_out=2)
    write_record(folder / "record.json", record)
    (path / "plan.json").chmod(0o644)
    (path / "plan.json").write_bytes(b"\xff")
    try:
        ActivationStore.open(path)
    except StoreError as error:
        message = ascii(str(error).replace(str(folder), ""))
    return {
        "store": store.id,
        "served": served,
        "summary": store.summary()["corpus"],
        "config": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        "record": [
            read_record(folder / "record.json", SAERecord).record == record,
            hashlib.sha256((folder / "record.json").read_bytes()).hexdigest(),
        ],
        "message": message,
        "problems": len(verify(path)),
    }


if __name__ == "__main__":
    found = live(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"preferred": locale.getpreferredencoding(False), "found": found}))
