"""stability.json: the mean maximum correlation (MCC) of the decoders of seeds, beside that of random dictionaries.

Every latent of one SAE is given a partner in the other, no partner twice, so that the sum of the cosines of their
decoder rows is as large as possible; MCC is the mean of these cosines. High-dimensional rows that know nothing of each
other have an MCC well above 0, the more latents the higher: only what exceeds the null says that seeds agree.
"""

import logging
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.evaluation.comparing.scored import recipe_of
from strata_sae.pipeline.evaluation.comparing.spread import spread_over_seeds
from strata_sae.pipeline.kernels.assignment import cheapest_pairs
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.comparison_records import DecoderStability, SeedPair, Stability
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.judging_records import SeedSpread
from strata_sae.pipeline.runs.record_files import fingerprint, read_record, write_record
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.pipeline.runs.trained import load

log = logging.getLogger(__name__)

Rows = NDArray[np.float32]

NULL_DRAWS = 20
NULL_SEED = 0
MAX_COSINES = 2**24
"""Cosines of one matching (count): with its float64 copy 0.2 GB, and at most 5 seconds. Of SAEs above 4,096 latents as
many latents of the first as that allows are drawn, and matched among all of the second."""


class Member(NamedTuple):
    """A finished SAE."""

    folder: VariantFolder
    record: SAERecord
    weights_sha256: str
    recipe: str


def measure_stability(config: TrainConfig) -> None:
    """Write stability.json of the recipes of a run with two seeds or more; one that fits what is there stays."""
    run = RunFolder(config.run_path())
    groups, refused = _members(run, config)
    if not groups and not refused:
        return
    identity = _identity(groups, refused)
    if _is_measured(run, identity):
        log.info("%s: seeds compared already", run.path)
        return
    recipes: list[DecoderStability] = []
    for members in groups:
        try:
            recipes.append(stability_of(members, recipes))
        except CheckpointError as error:
            log.warning("%s: seeds not compared: %s", members[0].folder.name, error)
            refused.append(f"{members[0].folder.name}: {error}")
    write_record(run.stability, Stability(fingerprint=identity, recipes=recipes, refused=refused))
    log.info("%s: compared the seeds of %d recipes", run.path, len(recipes))


def stability_of(members: list[Member], before: list[DecoderStability]) -> DecoderStability:
    """The seeds of one recipe at one site.

    before: recipes that were measured; the null of one of the same shape is the same.
    Raises: CheckpointError for weights that are damaged or not finite.
    """
    decoders = [_unit_rows(member) for member in members]
    (d_sae, d_out), matched = decoders[0].shape, matched_latents(*decoders[0].shape[:1])
    pairs = [
        SeedPair(first=one.folder.variant, second=other.folder.variant, mcc=mcc(a_EM[matched], b_EM))
        for (one, a_EM), (other, b_EM) in combinations(zip(members, decoders, strict=True), 2)
    ]
    known = [recipe.null_mcc for recipe in before if (recipe.d_sae, recipe.d_out) == (d_sae, d_out)]
    return DecoderStability(
        site=members[0].folder.site,
        recipe=members[0].folder.variant,
        variants=[member.folder.variant for member in members],
        seeds=[member.record.seed for member in members],
        weights_sha256=[member.weights_sha256 for member in members],
        d_sae=d_sae,
        d_out=d_out,
        n_matched=len(matched),
        pairs=pairs,
        mcc=spread_over_seeds([pair.mcc for pair in pairs]),
        null_mcc=known[0] if known else null_of(d_sae, d_out),
        null_seed=NULL_SEED,
    )


def mcc(a_EM: Rows, b_EM: Rows) -> float:
    """Mean cosine of rows of norm 1, each of the first matched with a row of its own of the second.

    The first has no more rows than the second; those of the second that are left over do not count.
    """
    cosine_EE = a_EM @ b_EM.T
    first, second = cheapest_pairs(-torch.from_numpy(cosine_EE))
    return float(cosine_EE[first.numpy(), second.numpy()].mean(dtype=np.float64))


def matched_latents(d_sae: int) -> NDArray[np.int64]:
    """The latents of the first SAE that are matched: all, or of a wide SAE some that are drawn."""
    n_matched = min(d_sae, max(1, MAX_COSINES // d_sae))
    if n_matched == d_sae:
        return np.arange(d_sae)
    return np.sort(np.random.default_rng([NULL_SEED, d_sae]).choice(d_sae, n_matched, replace=False))


def null_of(d_sae: int, d_out: int) -> SeedSpread:
    """The MCC of pairs of dictionaries whose rows point anywhere, matched in the same way."""
    found: list[float | None] = []
    n_matched = len(matched_latents(d_sae))
    for number in range(NULL_DRAWS):
        draw = np.random.default_rng([NULL_SEED, d_sae, d_out, number])
        a_EM, b_EM = (draw.standard_normal((n, d_out), dtype=np.float32) for n in (n_matched, d_sae))
        found.append(mcc(unit(a_EM), unit(b_EM)))
    return spread_over_seeds(found)


def unit(rows_EM: Rows) -> Rows:
    """Rows of norm 1; a row of zeros stays one, so that its cosine with any other is 0."""
    norm_E = np.linalg.norm(rows_EM, axis=1, keepdims=True)
    return rows_EM / np.maximum(norm_E, np.float32(1e-30))


def _members(run: RunFolder, config: TrainConfig) -> tuple[list[list[Member]], list[str]]:
    """The SAEs of each recipe and site with several seeds, by seed; and a line for each that cannot be read."""
    groups: dict[tuple[str, str], dict[int, Member]] = {}
    refused = []
    for folder in run.trained():
        try:
            record = read_config(folder).record
            training = read_training(folder, record).record
        except CheckpointError as error:
            log.warning("%s: seeds not compared: %s", folder.name, error)
            refused.append(f"{folder.name}: {error}")
            continue
        if training.status == "finished":
            member = Member(folder, record, training.sha256.weights, recipe_of(config, record))
            groups.setdefault((folder.site, member.recipe), {}).setdefault(record.seed, member)
    several = [by_seed for by_seed in groups.values() if len(by_seed) > 1]
    return [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in several], refused


def _unit_rows(member: Member) -> Rows:
    """The decoder rows of an SAE, of norm 1."""
    rows_EM = load(member.folder).sae.W_dec.float().numpy()
    if not np.isfinite(rows_EM).all():
        raise CheckpointError(f"{member.folder.weights}: W_dec: holds numbers that are not finite; train it again")
    return unit(rows_EM)


def _identity(groups: list[list[Member]], refused: list[str]) -> str:
    """Of everything that the numbers depend on."""
    compared: list[JsonValue] = [
        [member.folder.name, member.weights_sha256, member.recipe] for members in groups for member in members
    ]
    return fingerprint({"compared": compared, "refused": [*refused], "null": [NULL_DRAWS, NULL_SEED, MAX_COSINES]})


def _is_measured(run: RunFolder, identity: str) -> bool:
    """Whether the very numbers are there; a file that is damaged is written anew."""
    if not run.stability.exists():
        return False
    try:
        return read_record(run.stability, Stability).record.fingerprint == identity
    except CheckpointError as error:
        log.warning("%s: compared again", error)
        return False
