"""The command line, held at named moments until it is asked to end or let go on: `python held_command.py COMMAND ...`.

STRATA_TEST_HOLD: a JSON object of `at` (moment -> how often it comes before the process is held there), `folder`, in
which a file `reached-<moment>-<name>` says that it is held and `go-<moment>` lets every process go on, and `name`;
`terminates: true`: it asks itself to end, as a scheduler would, by its first process.
"""

import functools
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

MOMENTS = {
    "unit": "strata_sae.stores.writing.units UnitWriter commit",
    "checkpoint": "strata_sae.pipeline.trainer.session Session _save",
    "scores": "strata_sae.pipeline.evaluation.evaluate  write_scores",
    "report": "strata_sae.pipeline.report.page  render",
}
"""Moment -> module, class and function that is about to be called."""
VARIABLE = "STRATA_TEST_HOLD"


def hold(moment: str, settings: dict[str, Any], watcher: int) -> None:
    """Say that the moment has come; go on when this process is asked to end, or let go."""
    from strata_sae.pipeline import stopping
    from support.waiting import wait_until

    folder = Path(settings["folder"])
    (folder / f"reached-{moment}-{settings['name']}").touch()
    if settings.get("terminates"):
        os.kill(watcher, signal.SIGTERM)
    wait_until(lambda: stopping.asked() or (folder / f"go-{moment}").exists())


def arm(moment: str, n_before: int, settings: dict[str, Any], watcher: int) -> None:
    """Have the process held before the function is called for the n_before + 1st time."""
    module, owner, name = MOMENTS[moment].split(" ")
    place: Any = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    real, calls = getattr(place, name), []

    @functools.wraps(real)
    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == n_before + 1:
            hold(moment, settings, watcher)
        return real(*arguments, **named)

    setattr(place, name, counted)


def run(settings: dict[str, Any]) -> None:
    """The command line of this process, with sys.argv."""
    for moment, n_before in settings.get("at", {}).items():
        arm(moment, n_before, settings, os.getpid())
    from strata_sae.pipeline.commands.app import main as command_line

    command_line()


def live(file: Path) -> None:
    """Run the commands of a JSON file one after the other, each in a fork of this process, which has all imports.

    The file holds a list of {folder, arguments, hold}, and gets a list of [exit code, stderr].
    """
    for module in ("transformers", "sklearn", *(moment.split(" ")[0] for moment in MOMENTS.values())):
        importlib.import_module(module)
    found = []
    for life in json.loads(file.read_text(encoding="utf-8")):
        errors = file.with_suffix(".stderr")
        child = os.fork()
        if not child:
            with errors.open("w") as stream:
                os.dup2(stream.fileno(), 2)
            os.chdir(life["folder"])
            sys.argv = [sys.argv[0], *life["arguments"]]
            code = 1
            try:
                run(life["hold"])
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            finally:
                sys.stderr.flush()
                os._exit(code)
        found.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), errors.read_text(encoding="utf-8")])
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["lives"]:
        live(Path(sys.argv[2]).absolute())
    else:
        run(json.loads(os.environ.get(VARIABLE) or "{}"))
