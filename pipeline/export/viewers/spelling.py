"""Tokens and names of strangers as text that any viewer and its database takes."""

import re
from functools import lru_cache

from strata_sae.pipeline.pages.text import visible


@lru_cache(maxsize=2**16)
def spelled(text: str) -> str:
    """A token's text with what is invisible as symbols, but for spaces, lines and tabs.

    Among the invisible are NUL, which PostgreSQL refuses, and marks that turn the direction of text.
    """
    return text if text.isprintable() else "\t".join(visible(part, keep_lines=True) for part in text.split("\t"))


def slug(name: str) -> str:
    """A name of letters, digits, `.`, `_` and `-`, as folders and addresses have them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "none"


def rounded(value: float) -> float:
    """Five digits, whatever the units of the rows are."""
    return float(f"{value:.5g}")
