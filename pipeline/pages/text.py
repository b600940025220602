"""Text for pages: numbers as people read them, and text of strangers that becomes no markup, script or formula."""

import json
import math
import unicodedata
from pathlib import PurePath
from typing import TypeVar

from markupsafe import Markup
from pydantic import JsonValue

from strata_sae.pipeline.paths import impersonal

T = TypeVar("T")

UNKNOWN = "\N{EN DASH}"
"""Stands for a number that is not known."""
DECIMALS = {"latents": 0, "latents per row": 1, "fraction of variance": 4, "cosine": 3, "ratio": 3}
"""Unit -> digits after the point that are worth showing; of other units three digits are."""
_SYMBOLS = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\n": "↵", "\t": "⇥", "\x7f": "␡"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JSON_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_HOMES = ("/home", "/Users")


def visible(text: str, keep_lines: bool = False) -> str:
    """The text with control, bidirectional, invisible and unencodable characters shown as a symbol or their number."""
    if text.isprintable():
        return text
    return "".join(char if keep_lines and char == "\n" else _symbol(char) for char in text)


def _symbol(char: str) -> str:
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    return f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _HIDDEN else char


def cut(text: str, most: int) -> str:
    """At most so many characters of a text; the last one is an ellipsis where some are left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def finalize(value: T) -> T | str:
    """Jinja's last step for every expression of a template: characters of text are made visible, markup stays."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def script_json(value: JsonValue) -> Markup:
    """JSON that may stand inside `<script type="application/json">`: no character in it can end the element."""
    text = json.dumps(_all_visible(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))


def _all_visible(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _all_visible(item) for key, item in value.items()}
    return [_all_visible(item) for item in value] if isinstance(value, list) else value


def csv_cell(value: str | float | None) -> str:
    """A cell no spreadsheet takes for a formula: text that begins like one gets a leading apostrophe; None is empty."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def masked(value: JsonValue) -> JsonValue:
    """The same data with `<name>#<hash>` for every path that names a home or leads from the root, a `file:` URL too.

    A page that is shared then says nothing of whose machine it was made on.
    """
    if isinstance(value, str):
        return _masked_path(value.removeprefix("file://") if value.startswith("file:///") else value)
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


def _masked_path(path: str) -> str:
    hashed = impersonal(path)
    is_home = str(PurePath(path).parent) in _HOMES or PurePath(path).name.startswith("~")
    return hashed[hashed.rindex("#") :] if is_home and hashed != path else hashed


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(n_bytes: float) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def show(value: float | None, unit: str) -> str:
    """A number with as many digits as its unit is worth; a dash for what does not exist."""
    if value is None:
        return UNKNOWN
    if unit in DECIMALS:
        return f"{value:.{DECIMALS[unit]}f}" if DECIMALS[unit] else count(value)
    return f"{value:#.3g}" if abs(value) < 100 else count(value)
