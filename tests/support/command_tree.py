"""Every command of the command line, from its own registrations."""

from collections.abc import Callable, Iterator
from typing import Any

import typer


def callbacks(app: typer.Typer, path: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """The function behind each, and how it is called."""
    commands = [*app.registered_commands, *filter(None, [app.registered_callback])]
    yield from ((f"{path}{c.callback.__name__}", c.callback) for c in commands if c.callback is not None)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from callbacks(group.typer_instance, f"{path}{group.name} ")
