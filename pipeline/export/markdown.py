"""Text of strangers on a page in Markdown: it is read as it stands, and becomes no markup, link, formula or HTML."""

import re

from strata_sae.pipeline.pages.text import visible

_MARKUP = re.compile(r"([\\`*_{}\[\]|~$])")
_LINK = re.compile(r"(?i)(://|www\.|@)")
_MAX = 2000


def escaped(text: str) -> str:
    """One line of text, cut where it is very long. Such as pages of GitHub and the hub read it."""
    line = " ".join(visible(text[:_MAX], keep_lines=True).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A word joiner: neither an address nor a name after @ becomes a link.
    return _MARKUP.sub(r"\\\1", _LINK.sub("\\1\N{WORD JOINER}", line))
