"""The connection of this process to a Ray cluster that is there already; none is ever started."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from strata_sae.pipeline.errors import ConfigError, one_line
from strata_sae.stores.files import environment

ANY = "auto"
_CONNECT_SECONDS = 10.0
"""How long the head of a cluster may take to answer. Without that, Ray itself tries for two minutes."""
_CURRENT = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` writes the address of the cluster of this machine, the newest one if there are several."""
_SWITCHES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_IGNORE_UNHANDLED_ERRORS": "1"}
"""Set where they are not: nothing is sent to Ray's makers, `uv run` does not copy this folder to each node, and what
became of workers that this process ended itself is not told."""


def check_installed() -> None:
    """Raises: ConfigError where Ray is not installed."""
    if find_spec("ray") is None:
        raise ConfigError("engine: ray is not installed: pip install 'strata-sae[ray]'; or use engine: local")


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """A connection to the cluster whose head is at host:port, or `auto`. One that this process has is used, and kept.

    Yields: the module `ray`. Raises: ConfigError where no cluster answers, or it has another version of Ray or Python.
    """
    check_installed()
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = _found(address)
    with _handlers_kept():
        _connect(ray, address)
    try:
        yield ray
    finally:
        with _handlers_kept():
            ray.shutdown()


def _found(address: str) -> str:
    """The address itself, where something answers. `auto`: what RAY_ADDRESS or the newest `ray start` says.

    Raises: ConfigError where nothing does.
    """
    if address == ANY:
        with suppress(OSError):
            address = _CURRENT.read_text(encoding="utf-8").strip()
        address = environment.text("RAY_ADDRESS") or address
    if address == ANY:
        raise ConfigError(
            "engine.address: no Ray cluster runs on this machine; start one (ray start --head), or set engine.address "
            "to the host:port of its head"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"engine.address: no Ray cluster answers at {address} ({one_line(error)}); start one there (ray start "
            "--head), or set engine.address to the host:port of its head"
        ) from None
    return address


def _connect(ray: ModuleType, address: str) -> None:
    before = environment.text("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address  # it is stronger than the argument
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (Exception, SystemExit) as error:  # whatever Ray says; it also ends a process whose cluster is silent
        raise ConfigError(f"engine.address: cannot join the Ray cluster at {address}: {one_line(error)}") from error
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the one by which a process saves before it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
