"""`strata report`: stage 4, or several runs side by side."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import Overrides, config_of
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import reader_of

log = logging.getLogger(__name__)

ConfigOrRuns = Annotated[
    list[Path],
    typer.Argument(
        metavar="CONFIG | RUN...",
        parser=reader_of("CONFIG"),
        help="YAML file of one run, or its folder; or the folders of several runs, to compare them.",
    ),
]


def report(paths: ConfigOrRuns, overrides: Overrides) -> None:
    """Stage 4: one HTML page and one CSV table; of several runs, with what differs between them."""
    from strata_sae.pipeline.commands.judging import judge_alone

    folders = [path for path in paths if path.is_dir()]
    if not folders and len(paths) == 1:
        config = config_of(paths[0], overrides)
        with stages.trackers(config):
            judge_alone(config.run_path(), partial(stages.write_report, config))
        return
    if len(folders) < len(paths):
        raise ConfigError(f"report: {', '.join(map(str, paths))}: give the config of one run, or the folders of runs")
    if overrides:
        raise ConfigError("--set: changes a config, and the runs whose folders are given are trained; leave it out")
    if len(folders) == 1:
        run = outside_stores(folders[0], "RUN")
        judge_alone(run, partial(stages.write_report_of, run))
        return
    outside_stores(folders[0].resolve().parent, "RUN")
    from strata_sae.pipeline.report.comparison_page import write_comparison

    log.info("comparison: %s", write_comparison(folders))
