"""What a server's header lines say: text from anybody, of which only what is expected becomes a number."""

import re
from email.message import Message

_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def content_length(headers: Message) -> int | None:
    """Bytes that the answer announces; None if it does not say, or nothing that is a size."""
    return _number(headers, "Content-Length")


def retry_after(headers: Message) -> float:
    """Seconds after which to ask again; 0 where the answer does not say, or names a date."""
    return float(_number(headers, "Retry-After") or 0)


def content_range(headers: Message) -> tuple[int, int] | None:
    """First and last byte of the part that is sent, or None."""
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2])) if found else None


def changes_bytes(headers: Message) -> bool:
    """Whether what is sent is not the file as it is, but compressed on the way."""
    return bool(headers.get("Content-Encoding", "identity") != "identity")


def object_identity(headers: Message) -> str | None:
    """What names the object that the bytes are of, as far as the server says: its ETag, or else its time and size.

    A weak ETag (`W/`) counts like a strong one: servers say it of files that they could also send compressed.
    """
    etag = headers.get("ETag", "").removeprefix("W/")
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    size = found[3] if found else ""
    modified = headers.get("Last-Modified", "")
    if etag:
        return f"ETag {etag[:200]!a}"
    return f"last modified {modified[:200]!a}, {size} bytes" if modified else None


def _number(headers: Message, name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if _NUMBER.fullmatch(text) else None
