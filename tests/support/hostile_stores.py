"""Stores that were made to do harm: each is an honest small store with one thing changed, every checksum made to fit.

`GROUPS` holds them by what is changed; a case alters the store it is given. See hostile_reading.py for their reader.
"""

from pathlib import Path

from support.hostile_contents import CHUNKS, COMMITS, MANIFESTS, PLANS
from support.hostile_edits import COMMIT, Case, rewrite, rewrite_commit, rewrite_plan, rewrite_shard
from support.hostile_folders import DESCRIPTIONS, FILES, JSON, METADATA


def other_commit(store: Path) -> None:
    """Another store's commit record, in full agreement with itself."""
    rewrite_commit(store, COMMIT, lambda record: record.update(plan_id="0" * 64))


GROUPS: dict[str, dict[str, Case]] = {
    "plans": {name: lambda store, edit=edit: rewrite_plan(store, edit) for name, edit in PLANS.items()},
    "commits": {
        **{name: lambda store, edit=edit: rewrite_commit(store, COMMIT, edit) for name, edit in COMMITS.items()},
        "of another plan": other_commit,
    },
    "manifests": {
        name: lambda store, edit=edit: rewrite(store / "MANIFEST.json", edit) for name, edit in MANIFESTS.items()
    },
    "chunks": {name: lambda store, make=make: rewrite_shard(store, make()) for name, make in CHUNKS.items()},
    "zarr metadata": METADATA,
    "files": FILES,
    "json": JSON,
    "descriptions": DESCRIPTIONS,
}
