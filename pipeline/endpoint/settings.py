"""Which language model is asked, and what that may cost."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from strata_sae.pipeline.settings import Settings

ModelName = Annotated[str, Field(min_length=1, max_length=200)]


class EndpointSettings(Settings):
    """A server that speaks OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama, OpenRouter."""

    base_url: Annotated[str, Field(max_length=500)] | None = None
    """Address of the server, such as http://127.0.0.1:8000/v1; null: no language model is asked."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = None
    """Name of the environment variable that holds the key; null: none is sent. The key itself is never written."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests that are under way at once (count)."""
    max_requests: int | None = Field(default=None, ge=1)
    """Requests that may be sent by one command, repetitions included (count); null: any number."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and answers that one command may use, by the server's own count (count); null: any number."""
    timeout_seconds: float = Field(default=60.0, gt=0.0, le=3600.0)
    """For an answer (seconds)."""
    retries: int = Field(default=5, ge=0, le=20)
    """Of a request that failed for a passing reason: 429, 5xx, a timeout, a cut answer (count)."""

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s@?#]+", value):
            raise ValueError(
                "write it as https://host:port/v1, without a user, a password or a query: configs are shared. A key "
                "stands in the environment variable that interpretation.key_env names"
            )
        return value
