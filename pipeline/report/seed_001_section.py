"""Reference rows: what the log of seed 001 says of its own SAEs, which a run with its term is read beside."""

from strata_sae.pipeline.report.run_data import Run
from strata_sae.pipeline.report.sections import Section, SectionTable

TERM = "orthogonality"
LEDE = (
    "From the log of the experiment that the orthogonality term comes from: Gemma-2-2B, resid_post of layer 12, "
    "d_sae 16,384. Nothing of it was measured here."
)
NOTES = [
    "Unmatched: L0 is 8,896, 320 and 40, and training took 1 or 5 million tokens, so that no two rows but the last two "
    "are comparable, and those differ in tokens; the log itself says that k explains the gap.",
    "unlearning is not reproduced: it needs gated WMDP texts and generation with interventions.",
    "MSE is of SAEBench: divided by the tokens of a batch, not by the dimension; its explained variance is the "
    "form that SAEBench now calls legacy.",
]
HEADS = [
    ("Row", ""),
    ("Matched", ""),
    ("k", "latents per row"),
    ("Tokens", "millions"),
    ("L0", "latents per row"),
    ("KL score", "1: as without SAE"),
    ("CE score", "1: as without SAE"),
    ("Explained variance", "legacy form"),
    ("MSE", "by SAEBench"),
    ("Cosine", "cosine"),
    ("Absorption", "mean of letters"),
    ("Probe, top 1", "accuracy"),
    ("Unlearning", "not reproduced"),
]
ROWS: list[list[str | float | None]] = [
    ["Standard", "unmatched", None, 5, 8895.81, 0.99957, 1.0, 0.984375, 0.08887, 0.99609, 0.01614, 0.64486, 0.0],
    ["TopK", "unmatched", 320, 5, 320.0, 0.98777, 0.98849, 0.74609, 1.60156, 0.92188, 0.02959, 0.74494, 0.06367],
    ["TopK + term, run 1", "unmatched", 40, 1, 40.0, 0.91731, 0.91612, 0.52734, 3.0, 0.84766, None, None, None],
    ["TopK + term, run 2", "unmatched", 40, 5, 40.0, 0.95963, 0.95888, 0.60938, 2.48438, 0.875, None, None, None],
]


def seed_001_section(run: Run) -> Section | None:
    """The rows, where any SAE of the run has the term; else None."""
    if not any(sae.config and TERM in sae.config.objective for sae in run.trained):
        return None
    table = SectionTable("seed_001", "Seed 001, as its log has it", HEADS, ROWS)
    return Section("seed-001", "Seed 001 for reference", LEDE, [table], [], NOTES)
