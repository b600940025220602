"""Errors of requests to a server of a language model: those that no repetition mends, and those that may pass."""

from typing import Literal

from strata_sae.pipeline.errors import ConfigError

Passing = Literal["timeout", "server", "cut", "unreachable"]
"""Reasons that may pass: no answer in time; 429, 5xx or no answer within it; a body that ended early; no connection."""


class EndpointError(ConfigError):
    """A request that no repetition mends, or no server at the address; exit code 2. One line, without the key."""


class PassingError(Exception):
    """One request failed for a reason that may pass."""

    def __init__(self, kind: Passing, said: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(said)
        self.kind, self.said, self.retry_after_seconds = kind, said, retry_after_seconds


class RefusedError(Exception):
    """A request was refused with a status that no repetition mends."""

    def __init__(self, status: int, said: str, code: str, parameter: str) -> None:
        """said: the server's words, without the key. code, parameter: of OpenAI's error object; may be empty."""
        super().__init__(said)
        self.status, self.said, self.code, self.parameter = status, said, code, parameter
