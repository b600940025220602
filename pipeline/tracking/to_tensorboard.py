"""TensorBoard: event files in runs/<run>/tracking/tensorboard/<variant>@<site>/."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

from strata_sae.pipeline.tracking.tracker import Entry, News, numbers_of, wait_for_a_later_second

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ToTensorBoard:
    """A writer for each entry, opened with `purge_step`, for which TensorBoard drops what a killed process sent."""

    keeps_at_once = True

    def __init__(self, folder: Path, project: str) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def send(self, entry: Entry, news: News, since: int | None) -> None:
        """Scores stand at the step after the last, so that older ones are dropped with what came after `since`."""
        writer = self._writers.get(entry.id) or self._open(entry, since)
        for line in news.lines:
            for name, value in numbers_of(line).items():
                writer.add_scalar(name, value, line.step)
        for name, value in news.scores.items():
            writer.add_scalar(name, value, news.n_steps + 1)
        for path in news.files:
            writer.add_text(path.name, _as_markdown(path))
        writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _open(self, entry: Entry, since: int | None) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder / entry.label
        wait_for_a_later_second(folder.glob("events.out.tfevents.*"))
        writer = SummaryWriter(str(folder), purge_step=0 if since is None else since + 1)
        self._writers[entry.id] = writer
        if since is None and entry.config:
            writer.add_text("config", f"```json\n{json.dumps(entry.config, indent=2, sort_keys=True)}\n```")
        return writer


def _as_markdown(path: Path) -> str:
    """A CSV file as a table, of which TensorBoard makes HTML; of any other file, where it is: it shows no files."""
    if path.suffix != ".csv":
        return f"`{path.name}` lies in the folder of the run `{path.parent.name}`."
    with open(path, encoding="utf-8", newline="") as file:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in csv.reader(file)]
    lines = [" | ".join(row) for row in rows]
    return "\n".join([lines[0], " | ".join("---" for _ in rows[0]), *lines[1:]])
