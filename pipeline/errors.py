"""The errors a user can cause. Each message says where, what was found, what is allowed, and what to do.

Exception
 ├── ConfigError       a config, a corpus or a command line that cannot work; exit code 2
 ├── CheckpointError   a run folder that does not hold what it should; exit code 1
 └── stores.StoreError an activation store that does not hold what it should; exit code 1
BaseException
 └── StoppedError      the process was asked to end (SIGTERM), and has; exit code 143
"""

import difflib
import re
from collections.abc import Iterable

LARGEST_INT = 2**63 - 1
"""The largest integer that is accepted: a record, a file's offset and the seed of every library can hold it."""
LARGEST_FLOAT = 3.4e38
"""The largest other number that is accepted: training is float32, where a larger one is infinite."""


class ConfigError(Exception):
    """Input that cannot work: a config key, a corpus, a model, a site."""


class CheckpointError(Exception):
    """A run folder, checkpoint or result that is damaged or belongs to another config."""


class StoppedError(BaseException):
    """A process was asked to end. What is finished is kept, and the same command goes on from there.

    No Exception, as KeyboardInterrupt is none: it comes anywhere, and must not be taken for a failure of what was
    running just then.
    """

    def __init__(self) -> None:
        super().__init__("stopped on request (SIGTERM); what is finished is kept, and the same command goes on")


def shown(text: str) -> str:
    """A text for a line of an error: what may be a secret in an address is `***`, and what is too long is cut."""
    text = _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", text)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SECRETS = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@'\"]+(?=@)|(?<=[?&])([\w.-]+=)[^&\s'\"]+", re.IGNORECASE)
"""User and password of an address, and the values of its query, as signed ones have it."""


def one_line(text: str | BaseException) -> str:
    """All that an error of another library says, in one line."""
    return " ".join(str(text).split())


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """A question naming the nearest known name ("; did you mean 'x'?"), or nothing when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
