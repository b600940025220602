"""One engine of a cluster at a time works on a store or a run; the file that says so shows a worker that it sees both.

The claim's lock file (stores/files/claims.py) holds the name of the engine's run, and where the command runs.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores.files.beats import Beat, read_beat
from strata_sae.stores.files.claims import claim, lock_of
from strata_sae.stores.files.locks import looked_at

log = logging.getLogger(__name__)


@contextmanager
def only_engine(at: Path, run: str) -> Iterator[list[Path]]:
    """Hold the name `at` while an engine runs; a command that died holds it no more.

    Yields: files that hold `run`, and that every worker has to see under the same paths: one beside `at`, and one in
    this process's folder, unless that one holds the first.
    Raises: ConfigError where a living command holds the name.
    """
    made_here = not at.parent.exists()
    at.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
    held = claim(at, run=f"{run}@{host}:{os.getpid()}", buried=_tell)
    if held is None:
        raise ConfigError(_busy(at))
    proofs = [lock_of(at).absolute()]
    try:
        with held:
            if not proofs[0].resolve().is_relative_to(Path.cwd().resolve()):
                proofs.append(Path.cwd() / f".strata-engine-{run}")
                proofs[1].write_text(run, encoding="ascii")
            yield proofs
    finally:
        for proof in proofs[1:]:
            proof.unlink(missing_ok=True)
        if made_here:
            with suppress(OSError):  # it holds more than this name
                at.parent.rmdir()


def _tell(beat: Beat | None) -> None:
    log.info("an engine that has ended before its workers is taken over%s", f": {_holder(beat)}" if beat else "")


def _holder(beat: Beat) -> str:
    host, _, process = beat.run.partition("@")[2].partition(":")
    return f"process {process} on {host}"


def _busy(at: Path) -> str:
    with looked_at(lock_of(at)) as (_, descriptor):
        beat = read_beat(descriptor) if descriptor >= 0 else None
    where = f" ({_holder(beat)})" if beat and "@" in beat.run else ""
    return (
        f"{lock_of(at)}: another command works on this with an engine{where}; wait until it ends, or end it there: "
        "it is gone on with. If no such process is left, it is taken over 2 minutes after its last sign of life"
    )
