"""A shared page says nothing of whose machine it was: paths that name a home or lead from the root are hashed."""

from pathlib import PurePath
from typing import Any

from strata_sae.pipeline.paths import impersonal

_HOMES = ("/home", "/Users")


def masked(value: Any) -> Any:
    """The same data with every text that is such a path as `<name>#<hash>`; a `file:` URL counts as one."""
    if isinstance(value, str):
        return _text(value.removeprefix("file://") if value.startswith("file:///") else value)
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


def _text(path: str) -> str:
    hashed = impersonal(path)
    is_home = str(PurePath(path).parent) in _HOMES or PurePath(path).name.startswith("~")
    return hashed[hashed.rindex("#") :] if is_home and hashed != path else hashed
