"""How far training is: a bar on a terminal, a plain line now and then elsewhere."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Steps of one group, from `start` to `total`; shows rate and time left."""

    def __init__(self, title: str, start: int, total: int, *, shown: bool) -> None:
        self.title, self.start, self.total = title, start, total
        terminal = sys.stderr.isatty()
        self._bar = tqdm(desc=title, initial=start, total=total, unit="step", disable=not (shown and terminal))
        self._plain = shown and not terminal
        self._began = self._told = time.monotonic()

    def reach(self, step: int) -> None:
        """`step` steps are done."""
        self._bar.update(step - self._bar.n)
        now = time.monotonic()
        if self._plain and (step == self.total or now - self._told >= SECONDS_BETWEEN_LINES):
            self._told = now
            rate = (step - self.start) / max(now - self._began, 1e-9)
            left = (self.total - step) / rate
            log.info("%s: step %d/%d, %.1f steps/s, %.0f s left", self.title, step, self.total, rate, left)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
