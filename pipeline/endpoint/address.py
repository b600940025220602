"""Where a server of a language model is, whether text leaves this machine on the way there, and the key for it."""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from strata_sae.pipeline.endpoint.settings import EndpointSettings
from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores.files import environment

LONGEST_KEY = 8192
"""Characters; the header lines of servers are limited to about as many."""


class Address(NamedTuple):
    """A server, as requests are sent to it."""

    url: str
    """Of chat completions."""
    host: str
    """With the port where one is given."""
    is_here: bool
    """By the loopback interface: nothing leaves this machine."""
    is_encrypted: bool


def address_of(settings: EndpointSettings) -> Address:
    """The server that the settings name. Raises: ConfigError if they name none, or its address cannot be one."""
    if settings.base_url is None:
        raise ConfigError("interpretation.base_url: is not set; name a server such as http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(settings.base_url)
        name, port = parts.hostname or "", parts.port
        if not name or not re.fullmatch(r"[A-Za-z0-9._:-]+", name):
            raise ValueError("names no host")
    except ValueError as error:  # a port that is no number, brackets that do not close
        raise ConfigError(
            f"interpretation.base_url: {settings.base_url!a}: {error}; write it as https://host:port/v1"
        ) from None
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    # Gemini's is /v1beta/openai: a path that has a version is taken as it is.
    if not re.search(r"/v\d\w*(/|$)", path):
        path += "/v1"
    shown = f"[{name}]" if ":" in name else name
    host = shown if port is None else f"{shown}:{port}"
    url = f"{parts.scheme}://{host}{path}/chat/completions"
    return Address(url, host, _is_loopback(name), parts.scheme == "https")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def key_of(settings: EndpointSettings) -> str | None:
    """The key for a server, from the environment; None: none is sent. Raises: ConfigError if it is not there."""
    if settings.key_env is None:
        return None
    where = f"interpretation.key_env: the environment variable {settings.key_env}"
    key = (environment.text(settings.key_env) or "").strip()
    if not key:
        raise ConfigError(f"{where} is not set or empty; export it, or leave key_env out for a server without keys")
    if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= LONGEST_KEY):
        raise ConfigError(f"{where} holds no key: keys are printable ASCII without spaces, up to {LONGEST_KEY} long")
    return key


def without_key(text: str, key: str | None) -> str:
    """A server's words as one short line; left out where a part of the key is among them."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if key is not None and any(
        key[at : at + _SECRET_PART] in line for at in range(max(1, len(key) - _SECRET_PART + 1))
    ):
        return "(its words hold a part of the key, and are left out)"
    return line if len(line) <= _LONGEST_WORDS else f"{line[: _LONGEST_WORDS - 3]}..."


_SECRET_PART = 8
"""Characters in a row: servers show the last four of a key on purpose."""
_LONGEST_WORDS = 240
