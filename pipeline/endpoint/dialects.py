"""Models that refuse a parameter which others need: what is sent to them instead."""

import threading
from collections.abc import Callable

from strata_sae.pipeline.endpoint.errors import RefusedError
from strata_sae.pipeline.endpoint.request import Request
from strata_sae.stores.files.canonical import Json

_INSTEAD: dict[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}
"""Parameter -> its other name; None: it is left out. OpenAI's reasoning models refuse the first two."""
_CODES = ("unsupported_parameter", "unsupported_value")
"""Of OpenAI's error object."""


class Dialects:
    """By model, the parameters that it refuses. Several threads may use it at once."""

    def __init__(self, shown: Callable[[str], None]) -> None:
        """shown: gets a line for each parameter that a model refuses."""
        self._refused: dict[str, frozenset[str]] = {}
        self._shown = shown
        self._lock = threading.Lock()

    def body(self, request: Request) -> dict[str, Json]:
        """What is sent. The key of the answer stays that of `Request.body`."""
        body = request.body()
        for name in self._refused.get(request.model, ()):
            value, instead = body.pop(name), _INSTEAD[name]
            if instead is not None:
                body[instead] = value
        return body

    def learn(self, model: str, sent: dict[str, Json], error: RefusedError) -> bool:
        """Whether to send a request again, since the parameter that was refused can be renamed or left out.

        sent: the body that was refused. A parameter that is no part of it is not given up twice.
        """
        name = error.parameter
        if error.status != 400 or error.code not in _CODES or name not in _INSTEAD:
            return False
        with self._lock:
            known = self._refused.get(model, frozenset())
            if name not in sent:
                return False
            self._refused[model] = known | {name}
        if name in known:  # learned meanwhile, from another request
            return True
        instead = _INSTEAD[name]
        self._shown(f"{model}: refuses {name}; " + (f"it is sent as {instead}" if instead else "it is left out"))
        return True
