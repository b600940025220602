"""The negative control of every test of kills and races: a writer without a commit protocol."""

import os
import random
import time

import strata_sae.stores.writing.units as units


def pause() -> None:
    """Let another process come in between."""
    time.sleep(random.random() * 0.01)


between_files = pause


def commit_carelessly(writer: units.UnitWriter) -> bool:
    """Final names first, no agreement on who has won; what a writer does that takes `rename` for safe."""
    commit, plan = writer._commit, writer._plan
    assert isinstance(commit._key, int)
    staged = {
        spec.shard_path(commit._key): commit._lease.folder / f"{site}.{name}"
        for site, specs in plan.site_specs.items()
        for name, spec in specs.items()
    }
    assert staged.keys() == commit._writers.keys()
    for path, shard in commit._writers.items():
        shard.finish()
        final = commit._store / path
        final.parent.mkdir(parents=True, exist_ok=True)
        between_files()
        os.replace(staged[path], final)
    units.commit_path(commit._store, plan, commit._key).write_text("{}")
    commit.close()
    return True
