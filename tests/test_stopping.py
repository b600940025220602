"""SIGTERM: a command ends with exit code 143 and a line; the same command goes on, and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from strata_sae.pipeline.config import dump
from support.extraction import extraction_config
from support.small_run import ALL, SITE

ROOT = Path(__file__).parents[1]
HELD_COMMAND = ROOT / "tests" / "support" / "held_command.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
ASKED = """\
import os, signal, sys
from strata_sae.pipeline import stopping
from strata_sae.pipeline.errors import StoppedError
def ask(): os.kill(os.getpid(), signal.SIGTERM)
stopping.listen()
"""


def program(body: str, listens: str = ASKED) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", listens + body], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )


# ---- The request


def test_elsewhere_than_between_steps_a_request_ends_what_is_running() -> None:
    done = program("try:\n    ask()\n    print('went on')\nexcept StoppedError as error:\n    print(error)")
    assert done.stdout == STOPPED


def test_between_steps_the_step_is_finished() -> None:
    body = """\
try:
    with stopping.between_steps():
        for step in range(5):
            stopping.check()
            if step == 2:
                ask()
            print("step", step)
finally:
    print("out")
"""
    done = program(body)
    assert done.stdout == "step 0\nstep 1\nstep 2\nout\n"
    assert "StoppedError" in done.stderr


def test_a_request_during_the_last_step_is_not_lost() -> None:
    done = program("with stopping.between_steps():\n    ask()\n    print('last')\nprint('after')")
    assert done.stdout == "last\n"
    assert "StoppedError" in done.stderr


def test_a_second_request_does_not_disturb_what_the_first_one_ends_with() -> None:
    done = program("try:\n    ask()\nexcept StoppedError:\n    ask()\n    print('put away', stopping.asked())")
    assert (done.returncode, done.stdout) == (0, "put away True\n")


def test_it_is_no_error_that_a_library_could_catch() -> None:
    done = program("try:\n    ask()\nexcept Exception:\n    print('caught')")
    assert done.stdout == ""
    assert "StoppedError" in done.stderr


def test_control_a_process_that_does_not_listen_is_killed() -> None:
    done = program("with stopping.between_steps():\n    ask()\nprint('after')", ASKED.replace("stopping.listen()", ""))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


# ---- Commands


STOPPED = "stopped on request (SIGTERM); what is finished is kept, and the same command goes on\n"
MOMENTS = {"unit": 1, "checkpoint": 1, "scores": 0, "report": 0}
"""Where a life is asked to end -> how often it has come there before."""


def files(folder: Path) -> dict[str, bytes]:
    """What must not depend on interruptions: the store, the SAEs, their scores."""
    stores = ("activations.zarr/**/*", "MANIFEST.json", "commits/**/*")
    patterns = [*(f"data/small/{name}" for name in stores), "runs/small/variants/*/*", "runs/small/comparisons.json"]
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


def write_config(folder: Path) -> None:
    """config.yaml, of which everything can be made."""
    made = extraction_config(
        folder,
        store={"path": None, "sites": [SITE]},
        corpus={"heldout_fraction": 0.2},
        training={"n_steps": 12, "warmup_steps": 2, "checkpoint_every_steps": 4, "dead_after_rows": 150},
        variants={"batch": ALL["batch"]},
    )
    (folder / "config.yaml").write_text(dump(made), encoding="utf-8")


def lives(folder: Path, commands: list[tuple[str, dict[str, int]]]) -> list[tuple[int, str]]:
    """Run the config in folders, one after the other; each is asked to end before a moment. Returns: codes, stderr."""
    asked = []
    for name, at in commands:
        (folder / name).mkdir(exist_ok=True)
        hold = {"folder": str(folder / name), "name": "it", "terminates": True, "at": at}
        arguments = ["--quiet", "run", str(folder / "config.yaml")]
        asked.append({"folder": str(folder / name), "arguments": arguments, "hold": hold})
    (folder / "lives.json").write_text(json.dumps(asked), encoding="utf-8")
    subprocess.run([sys.executable, str(HELD_COMMAND), "lives", "lives.json"], cwd=folder, env=ENVIRONMENT, check=True)
    return [(code, said) for code, said in json.loads((folder / "lives.json").read_text(encoding="utf-8"))]


def test_a_run_that_is_asked_to_end_in_each_stage_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_config(tmp_path)
    asked = [("asked", {moment: n_before}) for moment, n_before in MOMENTS.items()]
    ended = lives(tmp_path, [("undisturbed", {}), *asked, ("asked", {}), ("cut", {"checkpoint": 1})])
    assert ended == [(0, ""), *[(143, STOPPED)] * len(MOMENTS), (0, ""), (143, STOPPED)]
    found = tmp_path / "asked"
    assert all((found / f"reached-{moment}-it").exists() for moment in MOMENTS)
    assert files(found) == files(tmp_path / "undisturbed")
    assert (found / "runs/small/report.html").exists()
    assert not (found / "runs/small/claims").exists(), "what was held is given back"
    assert files(tmp_path / "cut") != files(found), "control: what is missing is seen"
    assert any((tmp_path / "cut").glob("runs/small/variants/*/checkpoints/step_*")), (
        "control: it was asked in the midst"
    )
