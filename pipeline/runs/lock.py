"""One writer per run folder."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go of it when the process ends, however it ends.

    Raises: CheckpointError if another process holds it. A file system without locks is taken at its word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise CheckpointError(
                    f"{folder}: another process is writing this run; wait for it, or give this run another name"
                ) from None
        yield
    finally:
        os.close(descriptor)
