"""A cache that was made to do harm, or is damaged, is refused in one line; nothing of it is run, nothing is left."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.foreign_activations import CACHES
from support.hostile_activations import HARMS, RAN

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "hostile_importing.py"
HONEST = "honest"
Outcomes = dict[tuple[str, str], tuple[Path, str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """(format, case) -> (its folder, outcome, message); all imported by one fresh process with little memory."""
    root, cases, lines = tmp_path_factory.mktemp("hostile"), {}, []
    for format, harms in HARMS.items():
        honest = CACHES[format](root / format / HONEST).path
        for number, (name, harm) in enumerate([(HONEST, None), *harms.items()]):
            folder = root / f"{format}-{number}"
            shutil.copytree(honest, source := folder / honest.name)
            if harm is not None:
                harm(source)
            cases[format, name] = folder
            lines.append(f"{format}\t{source}\t{folder / 'store'}\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], input="".join(lines), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), f"{list(cases)[len(found)]} ends its reader: {done.returncode} {done.stderr}"
    return {case: (folder, *found[number]) for number, (case, folder) in enumerate(cases.items())}


def test_every_format_has_its_cases() -> None:
    assert set(HARMS) == set(CACHES)
    assert min(len(harms) for harms in HARMS.values()) >= 12


@pytest.mark.parametrize("format", HARMS)
def test_an_honest_cache_is_imported(outcomes: Outcomes, format: str) -> None:
    """What is wrong with the others is not how they were made."""
    folder, outcome, message = outcomes[format, HONEST]
    assert (outcome, message) == ("imported", "")
    assert (folder / "store" / "MANIFEST.json").is_file()


@pytest.mark.parametrize(("format", "name"), [(format, name) for format, harms in HARMS.items() for name in harms])
def test_a_hostile_cache_is_refused(outcomes: Outcomes, format: str, name: str) -> None:
    folder, outcome, message = outcomes[format, name]
    assert outcome == "refused", message
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    left = {path.name for path in folder.iterdir()} - {"outside"}
    assert left <= {path.name for path in folder.iterdir() if path.is_dir()} - {"store"}, f"{left} are left behind"
    assert RAN not in left


def test_what_is_said_to_run_a_command_does(tmp_path: Path) -> None:
    """Control: pickle alone runs it."""
    cache = CACHES["npy"](tmp_path / "cache").path
    HARMS["npy"]["a pickle"](cache)
    pickle.loads((cache / "part_1.npy").read_bytes())  # noqa: S301
    assert (cache.parent / RAN).exists()
