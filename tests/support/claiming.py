"""Processes that claim one name, played as threads: between any two lines of the code of claims another one may come.

Each has its own memory of what it saw. One that dies stops at some line for good, as a killed process does.
"""

import os
import random
import secrets
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from strata_sae.stores.files import claims, locks
from strata_sae.stores.files.beats import Beat, Observer, Pulse, read_beat
from strata_sae.stores.files.claims import Buried, claim
from strata_sae.stores.files.locks import Owner, looked_at
from support.without_flock import Time

N_PLAYERS = 4
SECONDS_PER_LINE = 0.5
BEAT_SECONDS = 10.0
CODE = {claims.__file__, locks.__file__}


class Ended(BaseException):
    """The play is over."""


class Player(threading.Thread):
    """A process that claims the name again and again, and holds it for some time."""

    def __init__(self, world: "Interleaved") -> None:
        super().__init__(daemon=True)
        self.world, self.observer = world, Observer(world.time)
        self.turn, self.paused = threading.Semaphore(0), threading.Semaphore(0)
        self.inside = self.over = False
        self.pulses: list[HandBeaten] = []
        self.start()

    def run(self) -> None:
        """Play until the end."""
        sys.settrace(self._trace)
        try:
            self.line()
            while True:
                held = claim(self.world.path, buried=self.world.told)
                if held is None:
                    self.line()
                    continue
                self.world.enter(self)
                for _ in range(self.world.draw.randrange(200)):
                    self.line()
                self.inside = False
                self.world.robbed += held.is_lost()
                held.release()
        except Ended:
            pass
        finally:
            sys.settrace(None)
            self.over = True
            self.paused.release()

    def line(self) -> None:
        """Let the others come in between."""
        if self.over:
            raise Ended
        self.paused.release()
        self.turn.acquire()
        if self.over:
            raise Ended

    def beat(self) -> None:
        """What the threads of its claims do."""
        for pulse in self.pulses:
            pulse.beat()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in CODE and frame.f_code is not removed_by_moving.__code__:
            return None
        if event == "line":
            self.line()
        return self._trace


def playing() -> Player:
    player = threading.current_thread()
    assert isinstance(player, Player)
    return player


class HandBeaten(Pulse):
    """Beats when the play says so."""

    def __init__(self, descriptor: int, run: str = "", *, needed: bool = False) -> None:
        self._descriptor, self._number, self._run_name = descriptor, secrets.randbits(60), run
        self._write()
        playing().pulses.append(self)

    def stop(self) -> None:
        """Beat no more."""
        playing().pulses.remove(self)


class Interleaved:
    """Plays some processes, a line at a time, and counts what must not happen."""

    def __init__(self, path: Path, time: Time, draw: random.Random, *, die_anywhere: bool = False) -> None:
        self.path, self.time, self.draw, self.die_anywhere = path, time, draw, die_anywhere
        self.held = self.together = self.robbed = self.buried = self.died = 0
        self._living: list[Player] = []

    def play(self, n_lines: int) -> "Interleaved":
        """Let so many lines of code run, of processes drawn at random; time goes on, and the living beat."""
        everybody, last_beat = [], self.time.now
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "Pulse", HandBeaten)
            patch.setattr(locks, "_OBSERVER", self)
            for _ in range(n_lines):
                while len(self._living) < N_PLAYERS:
                    self._living.append(Player(self))
                    everybody.append(self._living[-1])
                    self._living[-1].paused.acquire()
                player = self.draw.choice(self._living)
                if (player.inside or self.die_anywhere) and self.draw.random() < 0.004:
                    self._living.remove(player)
                    self.died += 1
                    continue
                player.turn.release()
                player.paused.acquire()
                self.time.now += SECONDS_PER_LINE
                if self.time.now - last_beat >= BEAT_SECONDS:
                    last_beat = self.time.now
                    for owner in self._living:
                        owner.beat()
            for player in everybody:
                player.over = True
                player.turn.release()
                player.join()
        return self

    def is_still(self, lock: Path, beat: Beat | None) -> bool:
        """What the process that plays has seen of a lock file."""
        return playing().observer.is_still(lock, beat)

    def enter(self, player: Player) -> None:
        """It holds the name from now on."""
        self.held += 1
        self.together += any(other.inside for other in self._living)
        player.inside = True

    def told(self, beat: Beat | None) -> None:
        """The owner of a claim died."""
        self.buried += 1


def removed_by_moving(lock: Path, buried: Buried | None) -> bool:
    """As it was first: whoever sees a dead owner moves its file away, and puts back what was another one's."""
    with looked_at(lock, beats=True) as (owner, descriptor):
        if owner is Owner.LIVES:
            return False
        if descriptor < 0:
            return True
        taken = lock.with_name(f"{lock.name}.{threading.get_ident()}")
        try:
            os.rename(lock, taken)
        except FileNotFoundError:
            return True
        if not os.path.samestat(os.fstat(descriptor), os.stat(taken)):
            with suppress(FileExistsError):
                os.link(taken, lock)
            os.unlink(taken)
            return False
        if buried is not None:
            buried(read_beat(descriptor))
        os.unlink(taken)
        return True
