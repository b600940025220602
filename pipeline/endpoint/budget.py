"""What one command may still send: requests, and tokens by the server's own count."""

import threading
from collections import deque

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
        self._is_spent = False
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def begin(self, estimated_tokens: int) -> bool:
        """Whether a request may be sent; if so it counts as sent. After the first that may not, none may.

        Waits for requests under way where what they have reserved decides: they take less than they reserve, and the
        next request is not passed over for one that comes later.
        """
        with self._changed:
            self._waiting.append(me := object())
            while self._waiting[0] is not me or (
                not self._is_spent and self._reserved and self._is_over(self._reserved + estimated_tokens)
            ):
                self._changed.wait()
            self._waiting.popleft()
            self._changed.notify_all()
            is_last = self._most_requests is not None and self.n_requests >= self._most_requests
            if self._is_spent or is_last or self._is_over(self._reserved + estimated_tokens):
                self._is_spent = True
                return False
            self.n_requests += 1
            self._reserved += estimated_tokens
            return True

    def _is_over(self, more_tokens: int) -> bool:
        return self._most_tokens is not None and self.n_tokens + more_tokens > self._most_tokens

    def end(self, estimated_tokens: int, tokens: int) -> None:
        """A request that was begun is over, and took so many tokens."""
        with self._changed:
            self._reserved -= estimated_tokens
            self.n_tokens += tokens
            self._changed.notify_all()
