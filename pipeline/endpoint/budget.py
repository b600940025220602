"""What one command may still send: requests, and tokens by the server's own count."""

import threading

from strata_sae.pipeline.endpoint.settings import EndpointSettings


class Budget:
    """Counts what is spent. Several threads may use it at once.

    While a request is under way, its tokens count as estimated: the limit of tokens is passed by no more than the
    estimates of the requests then under way were too low.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self._most_requests, self._most_tokens = settings.max_requests, settings.max_tokens
        self.n_requests = 0
        """Sent so far."""
        self.n_tokens = 0
        """Of prompts and answers so far."""
        self._reserved = 0
        self._lock = threading.Lock()

    def begin(self, estimated_tokens: int) -> bool:
        """Whether a request may be sent; if so it counts as sent."""
        with self._lock:
            if self._most_requests is not None and self.n_requests >= self._most_requests:
                return False
            tokens = self.n_tokens + self._reserved + estimated_tokens
            if self._most_tokens is not None and tokens > self._most_tokens:
                return False
            self.n_requests += 1
            self._reserved += estimated_tokens
            return True

    def end(self, estimated_tokens: int, tokens: int) -> None:
        """A request that was begun is over, and took so many tokens."""
        with self._lock:
            self._reserved -= estimated_tokens
            self.n_tokens += tokens
