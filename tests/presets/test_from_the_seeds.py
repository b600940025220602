"""docs/from_the_seeds.md and docs/choosing.md: what they name exists, and no flag of a seed is left out."""

import re
from pathlib import Path

import pytest

from support.page_names import is_key, quoted, unknown

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "from_the_seeds.md").read_text(encoding="utf-8")
PARTS = ("judging", "handing over", "exploring", "interpreting")
"""What rows said that were still to be built."""

SEED_000 = """
--run_name --out_dir --seed --model_name --layer --hook_point --device --dtype --local_text_path --hf_dataset
--hf_dataset_config --hf_split --hf_text_field --seq_len --batch_size --num_steps --n_latents --tied_weights
--activation --recon_loss --lr --weight_decay --grad_clip --log_every --ckpt_every --recon_variant --sparsity
--lambda_base --p_start --p_end --anneal_start_step --anneal_end_step --sparsity_eps --fw_ema_beta --fw_eps --fw_alpha
--fw_warmup_steps --fw_clip_min --fw_clip_max --fw_normalize_mean --eval_num_batches --active_threshold
--redundancy_num_pairs --redundancy_high_sim --target_l0 --btq_eps --btq_tie_break --matryoshka_ms
--matryoshka_recon_agg --matryoshka_include_full --calibrate_l0 --calib_rounds --calib_batches --calib_tol
--mlflow_uri --mlflow_experiment --mlflow_enabled TOY_DEBUG
"""
"""config.py at 34fcf6b."""
SEED_001 = "experiment.py --out_dir final_info.json all_results.npy autoencoder_checkpoint.pt notes.txt"
SEED_002 = """
train_topk_sae_toy.py --cuda --sae-hidden-dim --dataset-num-features --max-step --lr --min-lr --batch-size --seed
--hierarchical --handcode-sae --perturbation_size --model-dim --aux-loss-coeff --dataset-k --sae-k train_sae.py
--sae_hidden_dim --max_step --l1_coefficient --only_count_tokens train_topk_sae.py --abridge l1_penalty.py
gemma_cooccurrences.py --model --ablator-sae-release --ablator-sae-id --dataset-id --max-tokens-in-prompt --n-prompts
--save-frequency --never-save gemma_ablate.py --reader-sae-release --reader-sae-id --abridge-ablations-to
--keep-frequent-features --exclude-latent-threshold gemma_selective_ablate.py --selected-features look_for_pairs.py
--input-path --cooccurrence-path --cooccurrence-threshold --cosine-sim-threshold --ablator-sae-neuronpedia-id
--just-these --skip-torch-sign --max-steps --no-log-scale look_for_cosine_sim_pairs.py --sae-release --sae-id --top-k
filter_for_cluster.py --start-feature --min-cosine-sim --group-size find_4tuples.py --treat-as-zero gemma_cluster.py
gemma_graph.py graph_network.py --n-edges plot_effect_l0.py --threshold --bins --exclude-over print_cooccurrences.py
filter_results.py filter_results2.py convert_json_to_safetensors.py sae_lens_releases.py prompt_server.py --host --port
prompt_client.py --feature-idx --prompt --output-dir --server-host --server-port neuronpedia_utils.py
"""
"""The parsers of sae_hacking's scripts."""
SEED_003 = """
run_pipeline.py extract_activations.py train_sae.py interpret_sae.py MODEL_NAME LAYER_IDX MAX_LENGTH CACHE_DIR M K
USE_MATRYOSHKA USE_BATCH_TOPK N_EPOCHS BATCH LR PATIENCE VAL_RATIO aux_coef aux_k multi_coef N_TOP_NEURONS N_EXAMPLES
"""
"""The constants of its scripts."""
SEED_004 = """
--save_dir --model_name --layers --architectures --device --use_wandb --dry_run --save_checkpoints --hf_repo_id
--mixed_dataset num_tokens eval_num_inputs random_seeds dictionary_widths learning_rates SPARSITY_PENALTIES TARGET_L0s
WARMUP_STEPS SPARSITY_WARMUP_STEPS DECAY_START_FRACTION LLM_CONFIG parallel_training.py dataset_test.py graphing.ipynb
organize_and_upload_trainers.ipynb test_scaling.ipynb
"""
"""demo.py's parser, demo_config.py, and the scripts beside them."""
THEIRS = {"000": SEED_000, "001": SEED_001, "002": SEED_002, "003": SEED_003, "004": SEED_004}


def section(seed: str) -> str:
    return PAGE.split(f"\n## Seed {seed}")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of tables, without headings."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in cells if row[0].strip() not in ("flag", "theirs", "script and flag", "script and constant")]


@pytest.mark.parametrize("seed", THEIRS)
def test_every_script_and_flag_of_a_seed_is_in_its_table(seed: str) -> None:
    named = " ".join(quoted(section(seed)) + [row[0] for row in rows(section(seed))])
    words = set(re.findall(r"[\w.-]+", named))
    assert [flag for flag in THEIRS[seed].split() if flag not in words] == []
    assert "--another_flag" not in words, "control"


@pytest.mark.parametrize("seed", THEIRS)
def test_every_row_has_an_answer(seed: str) -> None:
    assert [row[0] for row in rows(section(seed)) if len(row) != 2 or not row[1].strip()] == []


def test_no_row_is_still_to_come() -> None:
    assert [row[0] for row in rows(PAGE) if row[1].strip() in PARTS] == []
    assert [row[1] for row in rows("| `--flag` | judging |") if row[1].strip() in PARTS], "control"


@pytest.mark.parametrize("page", ["from_the_seeds.md", "choosing.md"])
def test_every_key_command_and_file_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    ours = " ".join(row[-1] for row in rows(text)) + re.sub(r"(?m)^\|.*$", "", text)
    assert len(quoted(ours)) > 20
    assert unknown(ours) == []


def test_control_what_does_not_exist_is_found() -> None:
    wrong = ["`training.n_stepss`", "`objective.lp.q`", "`sae.kk: 3`", "`strata trian FILE`", "`strata train --onyl x`",
             "`configs/presets/seed005.yaml`", "`toy.anything_at_all`"]  # fmt: skip
    assert unknown(" ".join(wrong)) == [name.strip("`") for name in wrong]
    assert is_key("objective.lp.p.begin")
    assert is_key("training.filters.drop_bos")
