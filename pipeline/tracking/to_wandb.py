"""wandb: offline in runs/<run>/tracking/wandb/, unless WANDB_MODE says otherwise; `wandb sync` sends it later."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from strata_sae.pipeline.tracking.tracker import Entry, News, numbers_of, wait_for_a_later_second
from strata_sae.stores.files import environment

if TYPE_CHECKING:
    from wandb import Run, Settings


class ToWandb:
    """A wandb run for each entry, by the entry's id.

    wandb's own process writes the file of an offline run, and what it holds is whole only once the run is finished. So
    runs lie in `unfinished/` until then; a later process removes what a killed one left there, and sends all of it.
    """

    keeps_at_once = False

    def __init__(self, folder: Path, project: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else its errors are sent to its makers
        folder = folder.absolute()  # wandb's process may have begun in another working folder
        self._folder, self._unfinished, self._project = folder, folder / "unfinished", project
        self._runs: dict[str, Run] = {}
        self._failed: set[str] = set()
        if self._unfinished.exists():
            shutil.rmtree(self._unfinished)
        self._unfinished.mkdir(parents=True)

    def send(self, entry: Entry, news: News, since: int | None) -> None:
        """Lines are history; scores are the summary, in which the last ones stand."""
        run = self._runs.get(entry.id) or self._open(entry)
        for line in news.lines:
            if line.step >= run.step:  # else the server, whose run goes on, has it
                run.log(numbers_of(line), step=line.step)
        if news.scores:
            run.summary.update(dict(news.scores))
        for path in news.files:
            shutil.copyfile(path, Path(run.dir) / path.name)  # saved from elsewhere it would be a link
            run.save(str(Path(run.dir) / path.name), base_path=run.dir, policy="now")
        if news.ending is not None:
            run.summary.update({"ending": news.ending})
        if news.ending == "diverged":
            self._failed.add(entry.id)

    def close(self) -> None:
        """Finish the runs, and move their folders to where they stay."""
        for entry_id, run in self._runs.items():
            run.finish(exit_code=int(entry_id in self._failed))
        for link in [path for path in self._unfinished.rglob("*") if path.is_symlink()]:
            link.unlink()  # to a log in wandb's cache; `runs delete` removes no folder that holds links
        for path in sorted((self._unfinished / "wandb").glob("*run-*")):
            path.rename(self._folder / path.name)
        shutil.rmtree(self._unfinished)

    def _open(self, entry: Entry) -> "Run":
        import wandb

        wait_for_a_later_second(self._folder.glob(f"*run-*-{entry.id}"))
        run = wandb.init(
            project=self._project,
            id=entry.id,
            name=entry.name,
            group=entry.run,
            config=dict(entry.config),
            dir=str(self._unfinished),
            mode=None if environment.text("WANDB_MODE") else "offline",
            resume="allow",
            reinit="create_new",
            settings=_settings(),
        )
        self._runs[entry.id] = run
        return run


def _settings() -> "Settings":
    """Nothing of the machine, the working folder and the console is sent: a run is what its folder holds."""
    import wandb

    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        host="",
        silent=True,
        symlink=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
