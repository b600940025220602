"""Text of strangers made safe to show: nothing in a token can become markup, script, or an invisible character."""

import json
import unicodedata
from typing import Any

from markupsafe import Markup

_SYMBOLS = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\n": "↵", "\t": "⇥", "\x7f": "␡"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JSON_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str, keep_lines: bool = False) -> str:
    """The text with control, bidirectional, invisible and unencodable characters shown as a symbol or their number."""
    if text.isprintable():
        return text
    return "".join(char if keep_lines and char == "\n" else _shown(char) for char in text)


def _shown(char: str) -> str:
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    return f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _HIDDEN else char


def finalize(value: Any) -> Any:
    """Jinja's last step for every expression of a template: what is not markup of ours is made visible."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _all_visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(str(key)): _all_visible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_all_visible(item) for item in value]
    return value


def script_json(value: Any) -> Markup:
    """JSON that may stand inside `<script type="application/json">`: no character in it can end the element."""
    text = json.dumps(_all_visible(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))


def csv_cell(value: Any) -> str:
    """A cell no spreadsheet takes for a formula: text that begins like one gets a leading apostrophe; None is empty."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = visible(str(value))
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
