"""absorption.json of every finished SAE, from stored rows of first-letter prompts; no model is needed."""

import logging

import torch

from strata_sae.pipeline.available import choose_device
from strata_sae.pipeline.config.judging import AbsorptionSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.evaluation.absorption.letters import Codes, RowProbe, SeedRows, row_probe, seed_absorption
from strata_sae.pipeline.evaluation.comparing.spread import spread_over_seeds
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.first_letters import rows_of_seeds
from strata_sae.pipeline.reading.labelled import LabelledRows, labelled_root
from strata_sae.pipeline.reading.routes import sae_sites_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.absorption_records import (
    PROBES,
    AbsorptionOf,
    AbsorptionOfProbes,
    AbsorptionPart,
    AbsorptionRecord,
    SeedAbsorption,
    not_measured,
)
from strata_sae.pipeline.runs.chain import read_absorption, read_config
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.pipeline.runs.trained import TrainedSAE, finished, load
from strata_sae.stores import ActivationStore

log = logging.getLogger(__name__)

DEFINITION = (
    "SAEBench 0.6.0's fraction and full form, decoder norms folded into the codes, on test words whose first letter a "
    "linear probe of the row tells; means over letters with F1 above 0.6"
)


def measure_absorption(config: TrainConfig, *, show_progress: bool = False) -> None:
    """Measure absorption of every SAE that finished training, if the config asks for it; what is there is skipped.

    Where rows of the prompts are missing nothing is measured, and one line says how to make them.
    Raises: StoreError, ConfigError, CheckpointError.
    """
    settings = config.evaluation.absorption
    if settings is None:
        return
    stores, run = open_store(config), RunFolder(config.run_path())
    for folder in run.trained():
        if reason := not_measured(read_config(folder).record):
            log.info("%s: no first-letter absorption: %s", folder.name, reason)
    for site in sae_sites_of(config):
        folders = [
            folder
            for folder in finished(run, site, stores.at(site).id)
            if not_measured(read_config(folder).record) is None
        ]
        if folders:
            _measure_site(config, settings, site, stores.at(site), folders, show_progress)


def _measure_site(
    config: TrainConfig,
    settings: AbsorptionSettings,
    site: str,
    store: ActivationStore,
    folders: list[VariantFolder],
    show_progress: bool,
) -> None:
    labelled = rows_of_seeds(config, settings, [site], store)
    if missing := [str(seed) for seed in range(settings.seeds) if seed not in labelled]:
        log.warning(
            "%s: first-letter absorption is not measured: %s holds no rows of the prompts of seed %s; "
            "evaluate --with-model makes them",
            site,
            labelled_root(config),
            ", ".join(missing),
        )
        return
    ids = [labelled[seed].store.id for seed in range(settings.seeds)]
    device = choose_device(config.training.device, "training.device")
    todo = []
    for folder in folders:
        trained = load(folder, device)
        if _is_measured(trained, measured_as := _measured_as(trained, settings, ids)):
            log.info("%s: absorption measured already", folder.name)
        else:
            todo.append((trained, measured_as))
    if not todo:
        return
    of_seeds = [_seed_rows(labelled[seed], seed, site) for seed in range(settings.seeds)]
    if untold := [str(rows.seed) for rows in of_seeds if not rows.letters()]:
        log.warning(
            "%s: first-letter absorption is not measured: of seed %s no letter has a word to train on and one to test "
            "on; set evaluation.absorption.words_per_letter higher and evaluate --with-model, or take a text with more "
            "words",
            site,
            ", ".join(untold),
        )
        return
    probed = [(rows, [row_probe(rows, probes) for probes in PROBES]) for rows in of_seeds]
    with Progress(f"{site}: absorption", len(todo) * settings.seeds, "seed", shown=show_progress) as bar:
        for trained, measured_as in todo:
            seeds = []
            for rows, row_probes in probed:
                seeds.append(_of_seed(trained, rows, row_probes, settings.min_letters, device))
                bar.advance(1)
            _write(trained, measured_as, seeds)


def _seed_rows(labelled: LabelledRows, seed: int, site: str) -> SeedRows:
    x_NM = torch.tensor(labelled.rows(site))
    letter_N, part_N = (torch.from_numpy(labelled.labels[name]) for name in ("letter", "part"))
    return SeedRows.of(seed, labelled.store.id, x_NM, letter_N, part_N)


def _of_seed(
    trained: TrainedSAE, rows: SeedRows, row_probes: list[RowProbe], min_letters: int, device: torch.device
) -> list[SeedAbsorption]:
    """With each kind of probes, in the order of PROBES."""
    parts = (rows.train_NM, rows.test_NM, rows.asked_again_NM)
    with torch.no_grad():
        dense = [trained.encode(x_NM.to(device)).to_dense().float().cpu() for x_NM in parts]
        codes = Codes.of(dense, trained.sae.W_dec.float().cpu())
    return [seed_absorption(rows, probe, codes, min_letters) for probe in row_probes]


def _write(trained: TrainedSAE, measured_as: AbsorptionOf, seeds: list[list[SeedAbsorption]]) -> None:
    by_probes = dict(zip(PROBES, zip(*seeds, strict=True), strict=True))
    record = AbsorptionRecord(
        **dict(measured_as),
        probes={
            probes: AbsorptionOfProbes(
                fraction=spread_over_seeds([seed.fraction for seed in of_seeds]),
                full=spread_over_seeds([seed.full for seed in of_seeds]),
                split_latents=spread_over_seeds([seed.split_latents for seed in of_seeds]),
                probe_f1=spread_over_seeds([seed.probe_f1 for seed in of_seeds]),
                one_latent_f1=spread_over_seeds([seed.one_latent_f1 for seed in of_seeds]),
                seeds=list(of_seeds),
            )
            for probes, of_seeds in by_probes.items()
        },
        fingerprint=fingerprint(measured_as.model_dump(mode="json")),
    )
    write_record(trained.folder.absorption, record)


def _measured_as(trained: TrainedSAE, settings: AbsorptionSettings, ids: list[str]) -> AbsorptionOf:
    return AbsorptionOf(
        sae=trained.record.fingerprint,
        weights_sha256=trained.training.sha256.weights,
        store_id=trained.record.store_id,
        labelled_store_ids=ids,
        settings=AbsorptionPart.model_validate(settings.model_dump(mode="json")),
        definition=DEFINITION,
    )


def _is_measured(trained: TrainedSAE, measured_as: AbsorptionOf) -> bool:
    """Whether the very numbers are there. Raises: CheckpointError if they are, but not as they were written."""
    path = trained.folder.absorption
    if not path.exists():
        return False
    record = read_record(path, AbsorptionRecord).record
    if record.sae == measured_as.sae and any(getattr(record, key) != wanted for key, wanted in measured_as):
        return False  # other settings, rows or weights than now
    read_absorption(trained.folder, trained.record, trained.training)
    return True
