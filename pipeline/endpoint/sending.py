"""Sending one request until it is answered: repetitions, their pauses, the budget, and when to stop all of it."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from strata_sae.pipeline.endpoint.address import address_of, key_of
from strata_sae.pipeline.endpoint.answers import Kept
from strata_sae.pipeline.endpoint.budget import Budget
from strata_sae.pipeline.endpoint.dialects import Dialects
from strata_sae.pipeline.endpoint.errors import EndpointError, PassingError, RefusedError
from strata_sae.pipeline.endpoint.reading import estimated_tokens
from strata_sae.pipeline.endpoint.request import Request
from strata_sae.pipeline.endpoint.settings import EndpointSettings
from strata_sae.pipeline.endpoint.wire import Wire
from strata_sae.pipeline.progress import duration

Pause = Callable[[threading.Event, float], None]
"""Waits so many seconds, or until the event is set."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Before the n-th repetition, from 0: a random part of first x 2^n, or of longest where that is less. Random over the
whole of it ("full jitter"; M. Brooker, Exponential backoff and jitter, 2015), so that requests which failed together
are not repeated together."""
LONGEST_RETRY_AFTER_SECONDS = 600.0
"""A server that asks for more is asked again after this."""
TOLD_SECONDS = 10.0
"""A server that asks for a longer pause is named."""
MOST_FAILED_IN_A_ROW = 20
"""Requests, each with all its repetitions, after which the server counts as broken."""


class StoppedAskingError(Exception):
    """A request is given up, since a request of another thread raised an error that ends all. Never leaves `ask`."""


class Sender:
    """Sends requests to one server. Several threads may use it at once."""

    def __init__(self, settings: EndpointSettings, shown: Callable[[str], None], pause: Pause | None = None) -> None:
        """Raises: ConfigError if the settings name no server that could be one."""
        self.address = address_of(settings)
        self.budget = Budget(settings)
        self.n_repeated = 0
        self._settings, self._shown = settings, shown
        self._pause: Pause = pause or (lambda stop, seconds: (stop.wait(seconds), None)[1])
        self._dialects = Dialects(shown)
        self._has_answered = False
        self._failed_in_a_row = 0
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._stop = threading.Event()

    @contextmanager
    def opened(self) -> Iterator[threading.Event]:
        """A block in which requests can be sent. Yields what ends all of its pauses; set at the end."""
        self._stop = threading.Event()
        try:
            yield self._stop
        finally:
            self._stop.set()
            with self._lock:
                wire, self._wire = self._wire, None
            if wire is not None:
                wire.close()

    def send(self, request: Request) -> Kept | str:
        """The answer, or the failure as `Answered.failure` names it.

        Raises: EndpointError where no repetition helps; ConfigError where the key, or httpx, is not there.
        """
        estimate = estimated_tokens(request) + request.max_tokens
        n_repeated = 0
        while True:
            if self._stop.is_set():
                raise StoppedAskingError
            self._opened_wire()  # what stands against sending is told before anything counts as sent
            if not self.budget.begin(estimate):
                return "budget"
            used = 0
            try:
                if self._stop.is_set():  # meanwhile: the budget waits for requests that are under way
                    raise StoppedAskingError
                kept = self._post(request)
                if kept is not None:
                    used = kept.prompt_tokens + kept.answer_tokens or estimate
                    self._succeeded()
                    return kept
            except PassingError as error:
                if n_repeated == self._settings.retries or self._is_hopeless(error):
                    return self._failed(error)
                self._wait(error, n_repeated)
                n_repeated += 1
                with self._lock:
                    self.n_repeated += 1
            finally:
                self.budget.end(estimate, used)

    def _post(self, request: Request) -> Kept | None:
        """The answer; None: the model refuses a parameter, and is to be asked again without it."""
        body = self._dialects.body(request)
        try:
            return self._opened_wire().post(body)
        except RefusedError as error:
            if self._dialects.learn(request.model, body, error):
                return None
            advice = _ADVICE.get(error.status, "")
            raise EndpointError(f"{self.address.host}: HTTP {error.status}: {error.said}{advice}") from None

    def _opened_wire(self) -> Wire:
        with self._lock:
            if self._wire is None:
                settings = self._settings
                self._wire = Wire(self.address, key_of(settings), settings.timeout_seconds, settings.concurrency)
            return self._wire

    def _succeeded(self) -> None:
        with self._lock:
            self._has_answered, self._failed_in_a_row = True, 0

    def _is_hopeless(self, error: PassingError) -> bool:
        """Whether there is no connection, and none of this command's requests was ever answered."""
        return error.kind == "unreachable" and not self._has_answered

    def _failed(self, error: PassingError) -> str:
        """What a request counts as that failed with all its repetitions. Raises: EndpointError if many did in a row."""
        with self._lock:
            self._failed_in_a_row += 1
            n_failed = self._failed_in_a_row
        if error.kind == "unreachable":
            raise EndpointError(
                f"interpretation.base_url: no answer from {self.address.host} ({error.said}); start the server or "
                "correct the address, and run the same command again: answers that came are kept"
            )
        if n_failed >= MOST_FAILED_IN_A_ROW:
            raise EndpointError(
                f"{self.address.host}: the last {n_failed} requests failed, each {self._settings.retries + 1} times, "
                f"the last one with {error.said}; run the same command again later: answers that came are kept"
            )
        return error.kind

    def _wait(self, error: PassingError, n_repeated: int) -> None:
        seconds = random.uniform(0.0, min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**n_repeated))
        if error.retry_after_seconds is not None:
            asked_for = min(error.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
            if asked_for > TOLD_SECONDS:
                self._shown(f"{self.address.host}: asks for a pause of {duration(asked_for)} ({error.said})")
            seconds += asked_for
        self._pause(self._stop, seconds)


_ADVICE = {
    400: "; see the models' names (interpretation.explainer, scorer) and limits of this server",
    401: "; interpretation.key_env names the environment variable that holds the key",
    403: "; the key may not use this model or server",
    404: "; check interpretation.base_url, and the models' names (interpretation.explainer, scorer)",
}
