"""The section about probes: what a few latents know of a label, beside all numbers of the row."""

from strata_sae.pipeline.report.run_data import Run, Trained
from strata_sae.pipeline.report.sections import Section, SectionTable
from strata_sae.pipeline.runs.chain import read_probing
from strata_sae.pipeline.runs.judging_records import SeedSpread
from strata_sae.pipeline.runs.probing_records import ProbingRecord, Task

Probed = list[tuple[Trained, ProbingRecord]]
_UNIT = "test AUC, 0.5 to 1"


def probing_section(run: Run) -> Section | None:
    """AUC of every SAE on every task, a table for each site; None of a run without probes."""
    tables, notes, n_seeds = [], [], 0
    for number, site in enumerate(run.sites):
        probed = [(sae, record) for sae in run.at(site) if (record := _record(run, sae)) is not None]
        if not probed:
            continue
        n_seeds = len(probed[0][1].seeds)
        tables += _tables(number, site, probed)
        notes += _left_out(site, probed)
    if not n_seeds:
        return None
    return Section(
        anchor="probing",
        title="Probing",
        lede=(
            f"A logistic regression on the k latents whose class means differ most, tested on rows it has not seen; "
            f"mean and standard deviation over {n_seeds} draws of the rows. The column raw rows is the same probe on "
            "all numbers of the row, without an SAE. A difference smaller than the deviations is none. Tasks are those "
            "of sae-probes, with the last token of each text, or labels of the store's own tokens; of these no "
            "document and no token id is in both training and testing."
        ),
        tables=tables,
        figures=[],
        notes=notes,
    )


def _record(run: Run, sae: Trained) -> ProbingRecord | None:
    config, training = sae.config, sae.training
    if config is None or training is None:
        return None
    return run.read(sae.folder.probing, lambda: read_probing(sae.folder, config, training))


def _tables(number: int, site: str, probed: Probed) -> list[SectionTable]:
    """One for the AUCs of a site's SAEs, a row for each task and k; one for what the tasks are."""
    tasks = {task.name: task for _, record in probed for task in record.probed}
    ks = sorted({probe.k for task in tasks.values() for probe in task.probes})
    if not tasks:
        return []
    heads = [("task", ""), ("k", "latents"), *((sae.variant, _UNIT) for sae, _ in probed), ("raw rows", _UNIT)]
    rows: list[list[str | float | None]] = [
        [name, k, *(_auc(record, name, k) for _, record in probed), _spelt(task.dense.auc)]
        for name, task in tasks.items()
        for k in ks
    ]
    about: list[list[str | float | None]] = [
        [
            name,
            "last token of a text" if task.source == "texts" else "tokens of held-out rows",
            task.n_negative,
            task.n_positive,
            task.n_documents,
            task.n_train,
            task.n_test,
        ]
        for name, task in tasks.items()
    ]
    columns = [("class 0", "rows"), ("class 1", "rows"), ("documents", "or texts"), ("train", "rows"), ("test", "rows")]
    return [
        SectionTable(f"probing_{number}", f"{site}: AUC of k-sparse probes, mean ± s.d. over seeds", heads, rows),
        SectionTable(
            f"probing_tasks_{number}", f"{site}: the tasks", [("task", ""), ("labels of", ""), *columns], about
        ),
    ]


def _auc(record: ProbingRecord, name: str, k: int) -> str | None:
    found = (task for task in record.probed if task.name == name)
    return next((_of_k(task, k) for task in found), None)


def _of_k(task: Task, k: int) -> str | None:
    return next((_spelt(probe.scores.auc) for probe in task.probes if probe.k == k), None)


def _spelt(spread: SeedSpread) -> str | None:
    if spread.mean is None:
        return None
    deviation = spread.standard_deviation
    return f"{spread.mean:.3f}" if deviation is None else f"{spread.mean:.3f} ± {deviation:.3f}"


def _left_out(site: str, probed: Probed) -> list[str]:
    """A line for each reason, with the tasks and the SAEs that it holds for."""
    reasons: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for sae, record in probed:
        for task in record.left_out:
            tasks, saes = reasons.setdefault(task.reason, ({}, {}))
            tasks[task.name], saes[sae.variant] = None, None
    lines = []
    for reason, (tasks, saes) in reasons.items():
        of = "" if len(saes) == len(probed) else f" ({', '.join(saes)})"
        lines.append(f"{site}: left out: {', '.join(tasks)}{of}: {reason}.")
    return lines
