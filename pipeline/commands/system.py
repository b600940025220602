"""Whether this system and its environment variables can work at all: looked at before anything heavy is loaded."""

from collections.abc import Mapping

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Libraries read them while they are loaded: one ignores nonsense with a line of its own, one ends in a traceback."""
MOST_THREADS = 4096


def why_not_here(platform: str, environment: Mapping[str, str]) -> str | None:
    """What stands against running here, in a line; None if nothing does. platform: as `sys.platform` has it."""
    if platform == "win32":
        return (
            "Windows is not supported, because it has no flock, on which the locks of stores and runs rest; "
            "use WSL 2, Linux or macOS"
        )
    for name in THREADS:
        if (text := environment.get(name)) and not all(_is_count(part) for part in text.split(",")):
            return f"{name}: {text[:60]!r} is no number of threads; set it to 1 to {MOST_THREADS}, or unset it"
    return None


def _is_count(text: str) -> bool:
    digits = text.strip()
    return digits.isascii() and digits.isdecimal() and len(digits) <= 4 and 0 < int(digits) <= MOST_THREADS
