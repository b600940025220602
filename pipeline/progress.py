"""How far a long piece of work is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20.0  # a log of an hour then has 180 lines


def duration(seconds: float) -> str:
    """A time as people say it, in its two largest units: `2 d 3 h`, `4 min 10 s`, `0.5 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, unit, smaller in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            return f"{whole // large:,} {unit} {whole % large // small} {smaller}"
    return f"{whole} s"


class Progress:
    """Counts `unit`s from `start` to `total` (None: not known); shows the rate and the time left on stderr."""

    def __init__(self, title: str, total: int | None, unit: str, *, start: int = 0, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=title,
            initial=start,
            total=total,
            unit=unit,
            unit_scale=True,
            dynamic_ncols=True,
            disable=not (shown and terminal),
        )
        self._title, self._total, self._unit = title, total, unit
        self._plain = shown and not terminal
        self._note = ""
        self._start = self.done = start
        self._began = self._told = time.monotonic()

    def expect(self, total: int) -> None:
        """Set the total, where it becomes known only later."""
        self._total = self._bar.total = total

    def advance(self, n: int) -> None:
        """Count `n` more as done."""
        self.done += n
        self._bar.update(n)
        now = time.monotonic()
        if self._plain and now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            self._line(now)

    def note(self, text: str) -> None:
        """Show `text` beside the count from now on."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Leave the bar, or the last line, as it is."""
        self._bar.close()
        if self._plain and self.done > self._start:
            self._line(time.monotonic())
            self._plain = False

    def _line(self, now: float) -> None:
        rate = (self.done - self._start) / max(now - self._began, 1e-9)
        of_total, left = "", ""
        if self._total is not None:
            of_total = f" of {self._total:,}"
            left = f", {(self._total - self.done) / rate:.0f} s left" if rate > 0 and self.done < self._total else ""
        note = f"; {self._note}" if self._note else ""
        line = f"{self._title}: {self.done:,}{of_total} {self._unit}s, {rate:,.1f}/s{left}{note}"
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
