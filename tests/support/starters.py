"""Many extractions that start together on one store, in processes of their own. Usage: starters.py FOLDER N [MODE].

Prints one JSON line: what each process was seen to do, in all. They are forked from this process, which has imported
all. Whoever plans goes on only when all others wait for it. MODE `killed`: the first planner dies (-9) when its tokens
lie on the disk. MODE `careless`: a claim is given to everybody, the negative control.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  forked processes inherit the imports

import strata_sae.pipeline.extractor.plan as plan_step
import strata_sae.pipeline.extractor.unit_filler as unit_filler
import strata_sae.pipeline.once as once
from strata_sae.pipeline.extractor.extract import extract
from support.extraction import extraction_config
from support.waiting import wait_until


class Starters:
    """Files in a folder say what the processes have done: `<what>-<process>`, for each time a letter."""

    def __init__(self, folder: Path, n: int, mode: str) -> None:
        self.folder, self.n, self.mode = folder / "seen", n, mode
        self.folder.mkdir()

    def note(self, what: str) -> None:
        with (self.folder / f"{what}-{os.getpid()}").open("a", encoding="ascii") as file:
            file.write("x")

    def processes(self, what: str) -> int:
        return len(list(self.folder.glob(f"{what}-*")))

    def times(self, what: str) -> int:
        return sum(file.stat().st_size for file in self.folder.glob(f"{what}-*"))

    def noted(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            self.note(what)
            return function(*arguments, **options)

        return called

    def tokenising(self, spool_documents: Callable[..., Any]) -> Callable[..., Any]:
        """Tokenises; goes on when all others wait, if they do; the first may die then."""

        def tokenise(*arguments: Any, **options: Any) -> Any:
            self.note("tokenised")
            spool = spool_documents(*arguments, **options)
            first = self.processes("tokenised") == 1
            if self.mode != "careless":
                wait_until(lambda: self.processes("waited") >= self.n - 1)
            if first and self.mode == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return spool

        return tokenise

    def run(self, folder: Path, store: str) -> int:
        """Fork, and extract in the child. Returns: its process id."""
        if child := os.fork():
            return child
        code = 1
        try:
            pause = once.pause
            plan_step.spool_documents = self.tokenising(plan_step.spool_documents)
            unit_filler.commit_calibration = self.noted(unit_filler.commit_calibration, "calibrated")  # type: ignore[assignment]
            once.made_once.__kwdefaults__["wait"] = self.noted(pause, "waited")
            if self.mode == "careless":
                once.claim = lambda path: nullcontext()  # type: ignore[assignment, misc]
            encoding = {"path": str(folder / store), "encoding": "int8"}
            extract(extraction_config(folder, store=encoding), show_progress=False)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)


def main() -> None:
    """Start all, wait for all, and say what they did."""
    folder, n, mode = Path(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:])
    torch.set_num_threads(1)
    extraction_config(folder)
    starters = Starters(folder, n, mode)
    children = [starters.run(folder, "together") for _ in range(n)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    seen = {what: starters.times(what) for what in ("tokenised", "calibrated")}
    print(json.dumps({**seen, "killed": codes.count(-signal.SIGKILL), "failed": n - codes.count(0)}))


if __name__ == "__main__":
    main()
