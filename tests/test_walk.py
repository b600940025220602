"""The tracer of benchmarks/walk.py, on a made-up checkout: what counts as a file that executes a line."""

import subprocess
import sys
from pathlib import Path

import pytest

TRACER = Path(__file__).parents[1] / "benchmarks/walk_trace.py"
CHECKOUT = {
    "run_pipeline.py": "from project import stores\nfrom project.pipeline.trainer import main\nmain()\n",
    "stores/__init__.py": "def at_import(): return 1\nVALUE = at_import()\nclass Late:\n    x = at_import()\n",
    "pipeline/__init__.py": "",
    "pipeline/trainer.py": (
        "from project.pipeline.feed import Feed\n"
        "def main():\n"
        "    from project.pipeline import late\n"
        "    from project.pipeline.trainee import Trainee\n"
        "    Feed().batch(1)\n"
        "    Feed().batch(0)\n"
        "    Trainee().update()\n"
        "    late.after()\n"
    ),
    "pipeline/feed.py": (
        "from project.pipeline.batches import Batches\n"
        "class Feed:\n"
        "    def batch(self, step):\n"
        "        made = Batches().batch(step)\n"
        "        return made\n"
    ),
    "pipeline/batches.py": (
        "import threading\n"
        "from project.pipeline import decode, other\n"
        "class Batches:\n"
        "    def batch(self, step):\n"
        "        if step: return other.f()\n"
        "        thread = threading.Thread(target=decode.f)\n"
        "        thread.start()\n"
        "        thread.join()\n"
    ),
    "pipeline/decode.py": "def f(): pass\n",
    "pipeline/other.py": "def f(): pass\n",
    "pipeline/trainee.py": "class Trainee:\n    def update(self): pass\n",
    "pipeline/late.py": "from project.pipeline.helper import g\ng()\ndef after(): pass\n",
    "pipeline/helper.py": "def g(): pass\n",
    "project/__init__.py": "",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The packages are reached by links, as strata_sae reaches them."""
    for name, text in CHECKOUT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("pipeline", "stores"):
        (tmp_path / "project" / name).symlink_to(f"../{name}")
    return tmp_path


def noted(checkout: Path, begin: str = "", end: str = "") -> list[str]:
    out = checkout / "noted"
    command = [sys.executable, "-P", str(TRACER), str(checkout), str(out), begin, end]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(checkout)})
    return out.read_text(encoding="utf-8").splitlines()


def test_a_whole_command_is_noted_but_for_what_imports_execute(checkout: Path) -> None:
    names = ["trainer", "feed", "batches", "other", "decode", "trainee", "late"]
    assert noted(checkout) == [f"pipeline/{name}.py" for name in names]


def test_a_part_is_noted_with_the_callers_that_go_on_in_it(checkout: Path) -> None:
    names = ["batches", "decode", "feed", "trainer", "trainee"]
    assert noted(checkout, "Batches.batch", "Trainee.update") == [f"pipeline/{name}.py" for name in names]


def test_a_part_that_never_begins_notes_nothing(checkout: Path) -> None:
    assert noted(checkout, "Batches.serve", "Trainee.update") == []
