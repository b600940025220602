"""L1: language, encoding and time zone of the machine change nothing that is written or read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.small_life import live

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
PLACES = {
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "Turkish on the Chatham Islands": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Chatham"},
}


def environment(place: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON", "TZ"))}
    paths = os.pathsep.join([str(ROOT), str(SUPPORT.parent)])
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **PLACES.get(place, {})}


def lived(place: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "small_life.py"), str(folder), str(ROOT / "configs" / "demo.yaml")],
        cwd=ROOT, env=environment(place), capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_same_store_comes_to_be_everywhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    expected = live(tmp_path / "here", ROOT / "configs" / "demo.yaml")
    for place in PLACES:
        found = lived(place, tmp_path / f"földer {place}")
        assert found["found"] == expected, place
        assert (found["preferred"] == "utf-8") == (place != "C")


def test_a_file_opened_without_its_encoding_fails_there(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'file')!r}, 'w').write('\\u00e9')"
    done = subprocess.run([sys.executable, "-c", code], env=environment("C"), capture_output=True, text=True)
    assert "UnicodeEncodeError" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_the_store_suite_passes_everywhere(place: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/stores", "tests/config",
         "-m", "not long", "--deselect", "tests/stores/test_faults_places.py"],
        cwd=ROOT, env={**environment(place), "STRATA_POWER_CUTS": "100", "STRATA_BIT_FLIPS": "60"},
        capture_output=True, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
