"""Trackers follow a run's folder: whatever becomes of one of them, training neither waits for it nor hears of it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from threading import Event, Thread

from strata_sae.pipeline.config.tracking import TrackingSettings
from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.pipeline.runs.claims import TRACKING, busy, claim_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.tracking.found import Found, Looked
from strata_sae.pipeline.tracking.link import Link

log = logging.getLogger(__name__)


@contextmanager
def following(run: RunFolder, settings: TrackingSettings) -> Iterator["Follower"]:
    """While the block runs, and once after it, trackers are sent what is new in the folder, by a thread of their own.

    Raises: ConfigError as `check_installed`. What comes later is a line of the log.
    """
    check_installed(settings)
    follower = Follower(run, settings)
    if not settings.to:
        yield follower
        return
    done = Event()
    thread = Thread(target=_follow, args=(follower, done, settings.every_seconds), name="trackers", daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        done.set()
        thread.join()


def check_installed(settings: TrackingSettings) -> None:
    """Raises: ConfigError naming the first tracker that is not installed."""
    for name in settings.to:
        if find_spec(name) is None:
            raise ConfigError(f"tracking.to: {name} is not installed: pip install 'strata-sae[{name}]'")


def _follow(follower: "Follower", done: Event, every_seconds: float) -> None:
    while not done.wait(every_seconds):
        follower.send_curves()
    follower.end()


class Follower:
    """The trackers of a run; each is left out from its first error on."""

    def __init__(self, run: RunFolder, settings: TrackingSettings) -> None:
        self._run, self._looked = run, Looked(run)
        self._links = [Link(name, run.tracking, settings.project) for name in dict.fromkeys(settings.to)]
        self._claim = ExitStack()
        self._is_claimed = False
        self.problems: list[str] = []
        """Why trackers are left out, a line each."""

    def send_curves(self) -> None:
        """Send the lines that are new, unless another process does."""
        self._send(self._looked.curves, needed=False)

    def end(self) -> None:
        """Send everything that is new, and close the trackers."""
        with self._claim:
            self._send(self._looked.everything, needed=True)
            self._each(Link.close)

    def _send(self, look: Callable[[], list[Found]], *, needed: bool) -> None:
        if not self._links or not self._run.path.is_dir():
            return
        try:
            if not self._is_claimed and not self._claimed(needed):
                return
            found = look()
        except Exception as error:
            self._links = []
            self._tell("all trackers", error)
        self._each(lambda link: link.send(found))

    def _claimed(self, needed: bool) -> bool:
        """Whether this process sends from now on. Raises: CheckpointError if another one does, and it is needed."""
        if (hold := claim_in(self._run, TRACKING)) is not None:
            self._claim.enter_context(hold)
            self._is_claimed = True
        elif needed:
            raise busy(self._run, [TRACKING])
        return self._is_claimed

    def _each(self, act: Callable[[Link], None]) -> None:
        """Let every tracker act; one that raises whatever error is left out."""
        for link in list(self._links):
            try:
                act(link)
            except Exception as error:
                self._links.remove(link)
                self._tell(link.name, error)

    def _tell(self, who: str, error: Exception) -> None:
        said = one_line(error) or type(error).__name__
        self.problems.append(f"{who}: left out from here on: {said[:500]}; `strata track` sends what is missing")
        log.warning("%s", self.problems[-1])
