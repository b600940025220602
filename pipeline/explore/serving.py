"""`strata explore`: serves pages to the browsers of this machine until it is interrupted."""

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable

import uvicorn

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.explore.app import Pages, make_app
from strata_sae.pipeline.explore.screen import BadValueError, World
from strata_sae.pipeline.explore.screens_of_all import ALL_SCREENS
from strata_sae.stores.errors import StoreError

log = logging.getLogger(__name__)

HERE = "127.0.0.1"
"""The only address that is listened on; from another machine through ssh -L."""
USUAL_PORT = 8340
TOKEN_BYTES = 24


def listening(port: int | None) -> socket.socket:
    """A socket that listens on this machine alone; on USUAL_PORT, or a free one where that is taken.

    Raises: ConfigError if a port that was asked for is taken.
    """
    try:
        return _bound(USUAL_PORT if port is None else port)
    except OSError as error:
        if port is not None:
            why = error.strerror or str(error)
            raise ConfigError(
                f"--port: {port} cannot be listened on ({why}); choose another, or leave it out"
            ) from None
        return _bound(0)


def _bound(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HERE, port))
    except (OSError, OverflowError):
        opened.close()
        raise
    return opened


def serve(world: World, opened: socket.socket, tell: Callable[[str], None]) -> None:
    """Answer requests until interrupted. tell: is given the address, which holds the token of this start."""
    port, token = opened.getsockname()[1], secrets.token_urlsafe(TOKEN_BYTES)
    pages = Pages(world, token)
    config = uvicorn.Config(
        make_app(pages, token, port), log_level="warning", access_log=False, server_header=False, proxy_headers=False
    )
    tell(f"http://{HERE}:{port}/{token}/")
    threading.Thread(target=warm_up, args=(pages,), name="warm-up", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        uvicorn.Server(config).run(sockets=[opened])


def warm_up(pages: Pages) -> None:
    """Render a page of every screen once the first was asked for, so that no later one waits for loops to compile."""
    pages.shown.wait()
    name, run = next(iter(pages.world.runs.items()))  # loops are the same for all
    saes = list(run.saes)
    densest, document = int(run.saes[saes[0]].codes.table["count"].argmax()), int(run.text.document[0])
    values = {"run": name, "sae": saes[0], "a": saes[0], "b": saes[-1], "q": "the"}
    for screen in ALL_SCREENS:
        with contextlib.suppress(KeyError, BadValueError, StoreError, CheckpointError, ConfigError):
            pages.text(screen, {**values, "latent": str(densest), "document": str(document)})
