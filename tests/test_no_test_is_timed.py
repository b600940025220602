"""No test depends on how fast the machine is: none reads a clock, sleeps, or gives up after a time, but those named."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time"}
SLEEPS = {"sleep", "wait_for_timeout"}
WAITS = {"join", "wait", "communicate", "result"}
"""Calls that give up after their first argument, where it is a number."""
LIMIT_SECONDS = 1800

JITTER = "lets another process come in between, or be ahead; nothing waits for it"
OLD = "makes files look days old"
ALLOWED = {
    "support/waiting.py wait_until: sleep": "the one place that looks again and again, without end",
    "support/careless.py pause: sleep": JITTER,
    "support/kill_extractors.py step: sleep": JITTER,
    "support/lying_server.py _send: sleep": "a server that stalls, which the client has to give up",
    "support/lying_server.py _write: sleep": "a server that sends drop by drop, which the client has to give up",
    "stores/test_shared_windows.py train: sleep": JITTER,
    "stores/test_shared_windows.py test_kills_of_random_trainers_change_no_row: sleep": JITTER,
    "stores/test_shared_windows.py TRAINER: sleep": JITTER,
    "stores/test_staged.py write: sleep": JITTER,
    "stores/test_faults_writers.py commit: sleep": JITTER,
    "stores/test_listing.py test_the_age_is_the_manifests: time": OLD,
    "stores/test_chunk_cache.py test_leavings_of_dead_writers_are_removed: time": OLD,
    "stores/test_chunk_cache.py test_what_was_not_used_for_a_day_goes_first: time": OLD,
    "support/browsing.py : set_options": "five minutes in the place of five seconds: ends what hangs",
    "support/browsing.py browser: launch": "five minutes: ends what hangs",
    "test_supervised.py INTERRUPTED: sleep": "until a signal comes; the second sleep gives a second one time to show",
}
"""File, function and call -> why the speed of the machine does not matter there."""


def timed(tree: ast.AST, place: str) -> Iterator[str]:
    """`place function: call` of each call that has to do with time, those in programs within strings as well."""
    for node in ast.iter_child_nodes(tree):
        file, _, function = place.partition(" ")
        inner = f"{file} {node.name}" if isinstance(node, ast.FunctionDef) else place
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and not function:
            inner = f"{file} {node.targets[0].id}"
        if isinstance(node, ast.Call) and (call := _timed_call(node)):
            yield f"{place}: {call}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            try:
                yield from timed(ast.parse(node.value), place)
            except SyntaxError:
                continue
        yield from timed(node, inner)


def _timed_call(call: ast.Call) -> str:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    if name in CLOCKS | SLEEPS or (owner, name) == ("time", "time"):
        return name
    if owner == "mark" or name == "timeout":
        return f"{name}" if isinstance(first, int | float) and first < LIMIT_SECONDS else ""
    gives_up = name in WAITS and isinstance(first, int | float)
    return name if gives_up or any(keyword.arg == "timeout" for keyword in call.keywords) else ""


def found() -> set[str]:
    """In all tests."""
    files = [file for file in ROOT.rglob("*.py") if file != Path(__file__)]
    return {
        entry
        for file in files
        for entry in timed(ast.parse(file.read_text(encoding="utf-8")), f"{file.relative_to(ROOT).as_posix()} ")
    }


def test_no_test_is_timed_but_those_that_say_why() -> None:
    assert found() - ALLOWED.keys() == set(), "wait with `waiting.wait_until`, count instead of timing, or say why here"
    assert ALLOWED.keys() - found() == set(), "no longer there"


def test_pytests_own_limit_only_ends_what_hangs() -> None:
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["pytest"]["ini_options"]["timeout"] >= LIMIT_SECONDS


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(0.1)",
        "assert time.monotonic() - began < 5",
        "assert perf_counter() - began < 5",
        "then = time.time()",
        "subprocess.run(command, timeout=60)",
        "child.join(30)",
        "event.wait(1.5)",
        "page.wait_for_timeout(60)",
        "@pytest.mark.timeout(60)\ndef test_b(): ...",
        "PROGRAM = 'import time\\ntime.sleep(1)'",
    ],
)
def test_a_timed_test_is_seen(line: str) -> None:
    """Control."""
    source = "def test_a():\n" + "\n".join(f"    {part}" for part in line.splitlines())
    assert len(list(timed(ast.parse(source), "test_a.py "))) == 1


@pytest.mark.parametrize("line", ["', '.join(words)", "child.join()", "event.wait()", "pytest.mark.timeout(3000)"])
def test_what_has_no_limit_is_not_reported(line: str) -> None:
    assert list(timed(ast.parse(line), "test_a.py ")) == []
