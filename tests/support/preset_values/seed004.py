"""Seed 004: adamkarvonen/dictionary_learning_demo's README.md, demo.py and demo_config.py, and dictionary_learning."""

from support.preset_tables import Fact, Grid, Ours, Table

L1 = [0.012, 0.015, 0.02, 0.03, 0.04, 0.06]
RANKED = "*top_k_*"
NOT_CLIPPED = ("standard_d_sae*", "p_anneal*", "gated*")

CORPUS = [
    Fact("seed", 0, "demo_config.py: random_seeds"),
    Fact("corpus.mode", "packed", "utils.py: documents joined"),
    Fact("corpus.context_length", 1024, "demo_config.py: LLM_CONFIG"),
    Fact("corpus.prepend_bos", False, "demo.py: add_special_tokens=False"),
    Fact("corpus.append_eos", True, "utils.py: documents joined by eos"),
    Ours("name", "the run's folder"),
    Ours("corpus.sources.*", "fineweb's first 10B tokens, of which the source reads the beginning"),
    Ours("corpus.n_tokens", "what the steps read, and the held-out documents"),
    Ours("corpus.heldout_fraction", "the source scores another dataset"),
]

TRAINING = [
    Fact("variants.*.training.input_scale", "statistics", "training.py:83-108: normalize_activations"),
    Fact("variants.*.training.batch_size", 2048, "demo_config.py: sae_batch_size"),
    Fact("variants.*.training.learning_rate", 3e-4, "demo_config.py: learning_rates"),
    Fact("variants.*.training.warmup_steps", 1000, "demo_config.py: WARMUP_STEPS"),
    Fact("variants.*.training.decay_start", 0.8, "demo_config.py: DECAY_START_FRACTION"),
    Fact("variants.*.training.decay", "linear", "trainers/trainer.py:114-169"),
    Fact("variants.*.training.compat", "dictionary_learning", "trainers/trainer.py:114-169: rate 0 at step 0"),
    Fact("variants.*.training.order", "project_clip", "trainers/top_k.py"),
    Fact("variants.*.training.dead_after_rows", 10_000_000, "trainers/top_k.py:217"),
    Fact("variants.*.training.threshold_from", "running_mean", "trainers/top_k.py:300-317"),
    Fact("variants.*.training.threshold_mean", "first_value", "trainers/top_k.py:300-317"),
    Fact("variants.*.training.threshold_beta", 0.999, "demo_config.py: threshold_beta"),
    Fact("variants.*.training.threshold_start_step", 1001, "demo_config.py: threshold_start_step 1000, step > 1000"),
    Fact("variants.*.training.filters.drop_bos", False, "demo.py: remove_bos off"),
    Fact("variants.*.training.filters.drop_special", False, "demo.py: every token"),
    Fact("variants.*.training.filters.drop_template", False, "demo.py: every token"),
    Fact("variants.*.training.filters.max_norm_multiple", None, "demo.py: max_activation_norm_multiple off"),
    *[Fact(f"variants.{name}.training.clip_norm", None, "trainers: no clipping") for name in NOT_CLIPPED],
    *[Fact(f"variants.{name}.training.projection_epsilon", 0.0, "ConstrainedAdam") for name in NOT_CLIPPED],
    *[
        Fact(f"variants.{name}.training.projection_epsilon", 1e-6, "trainers/trainer.py: remove_gradient_parallel")
        for name in (RANKED, "jump_relu*")
    ],
    *[
        Fact(f"variants.{name}.training.clip_norm", 1.0, "trainers: clip_grad_norm_")
        for name in ("standard_new*", RANKED, "jump_relu*")
    ],
    *[Fact(f"variants.{name}.training.beta1", 0.0, "trainers: betas") for name in ("gated*", "jump_relu*")],
    *[
        Fact(f"variants.{name}.training.beta1", 0.9, "trainers: Adam")
        for name in ("standard_*", "p_anneal*", RANKED)
    ],
    Fact("variants.*.training.beta2", 0.999, "trainers: Adam"),
]  # fmt: skip

ARCHITECTURES = [
    Fact("variants.standard_*.sae.architecture", "relu", "demo_config.py: AutoEncoder"),
    Fact("variants.p_anneal*.sae.architecture", "relu", "demo_config.py: AutoEncoder"),
    Fact("variants.gated*.sae.architecture", "gated", "demo_config.py: GatedAutoEncoder"),
    Fact("variants.top_k*.sae.architecture", "topk", "demo_config.py: AutoEncoderTopK"),
    Fact("variants.top_k*.sae.inference", "threshold", "README.md:42: the default approach during inference"),
    Fact("variants.batch_top_k*.sae.architecture", "batch_topk", "demo_config.py: BatchTopKSAE"),
    Fact("variants.matryoshka*.sae.architecture", "batch_topk", "demo_config.py: MatryoshkaBatchTopKSAE"),
    Fact("variants.jump_relu*.sae.architecture", "jump_relu", "demo_config.py: JumpReluAutoEncoder"),
    Fact("variants.standard_new*.sae.decoder", "free", "trainers/standard.py:234-243"),
    *[
        Fact(f"variants.{name}.sae.decoder", "unit", "trainers: rows of norm 1")
        for name in ("standard_d_sae*", "p_anneal*", "gated*", RANKED, "jump_relu*")
    ],
    *[
        fact
        for name in ("standard_*", "p_anneal*")
        for fact in (
            Fact(f"variants.{name}.sae.initial.weights", "normal", "dictionary.py: AutoEncoder"),
            Fact(f"variants.{name}.sae.initial.decoder_norm", 0.1, "dictionary.py: AutoEncoder"),
            Fact(f"variants.{name}.sae.initial.b_enc", "uniform", "dictionary.py: AutoEncoder"),
            Fact(f"variants.{name}.sae.initial.b_dec", "zero", "dictionary.py: AutoEncoder"),
        )
    ],
    Fact("variants.gated*.sae.initial.weights", "normal", "dictionary.py: GatedAutoEncoder"),
    Fact("variants.gated*.sae.initial.b_dec", "zero", "dictionary.py: GatedAutoEncoder"),
    Fact("variants.top_k*.sae.initial.weights", "linear", "top_k.py: nn.Linear"),
    Fact("variants.batch_top_k*.sae.initial.weights", "linear", "batch_top_k.py: nn.Linear"),
    Fact("variants.matryoshka*.sae.initial.weights", "kaiming", "matryoshka_batch_top_k.py"),
    Fact("variants.*top_k_*.sae.initial.b_dec", "geometric_median", "top_k.py:366-371"),
    Fact("variants.jump_relu*.sae.initial.b_dec", "zero", "jumprelu.py"),
    Fact("variants.jump_relu*.sae.initial_threshold", 0.001, "jumprelu.py"),
    Fact("variants.jump_relu*.sae.bandwidth", 0.001, "demo_config.py: bandwidth"),
    Fact("variants.jump_relu*.sae.compat", "dictionary_learning", "jumprelu.py:170"),
]  # fmt: skip

TERMS = [
    Fact("variants.standard_d_sae*.terms", ["reconstruction", "l1"], "trainers/standard.py:111-126"),
    Fact("variants.standard_new*.terms", ["reconstruction", "l1_decoder_norm"], "trainers/standard.py:234-243"),
    Fact("variants.p_anneal*.terms", ["reconstruction", "p_anneal"], "trainers/p_anneal.py"),
    Fact("variants.gated*.terms", ["reconstruction", "l1", "gated_auxiliary"], "trainers/gdm.py:74-86"),
    Fact("variants.top_k*.terms", ["reconstruction", "aux_k"], "trainers/top_k.py"),
    Fact("variants.batch_top_k*.terms", ["reconstruction", "aux_k"], "trainers/batch_top_k.py"),
    Fact("variants.matryoshka*.terms", ["prefix_reconstruction", "aux_k"], "trainers/matryoshka_batch_top_k.py"),
    Fact("variants.jump_relu*.terms", ["reconstruction", "l0"], "trainers/jumprelu.py:147-175"),
    Fact("variants.*.reconstruction.reduction", "sum", "trainers: sum over dimensions, mean over rows"),
    Fact("variants.*.aux_k.weight", 1 / 32, "demo_config.py: auxk_alpha"),
    Fact("variants.*.aux_k.form", "dictionary_learning", "trainers/top_k.py:258-298"),
    Fact("variants.*.weight.start", 0.0, "trainers: sparsity warm-up from 0"),
    Fact("variants.*.prefix_reconstruction.fractions", [1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0],
         "demo_config.py: group_fractions, summed"),
    Fact("variants.*.prefix_reconstruction.compat", "dictionary_learning", "matryoshka_batch_top_k.py:313-356"),
    Fact("variants.*.p_anneal.p_start", 1.0, "demo_config.py: p_start"),
    Fact("variants.*.p_anneal.p_end", 0.2, "demo_config.py: p_end"),
    Fact("variants.*.p_anneal.n_updates", 10, "demo_config.py: n_sparsity_updates"),
    Fact("variants.*.p_anneal.form", "lp_p", "demo_config.py: sparsity_function Lp^p"),
    Fact("variants.*.p_anneal.epsilon", 0.0, "trainers/p_anneal.py"),
    Fact("variants.*.p_anneal.finish", 1.0, "demo_config.py: anneal_end None"),
    Fact("variants.*.p_anneal.compat", "dictionary_learning", "trainers/p_anneal.py:139-178"),
    Fact("variants.*.l0.weight.end", 1.0, "demo_config.py: sparsity_penalty"),
    Grid("variants.standard_d_sae*.objective.l1.weight.end", L1, "demo_config.py: SPARSITY_PENALTIES"),
    Grid("variants.standard_new*.objective.l1_decoder_norm.weight.end", L1, "demo_config.py: SPARSITY_PENALTIES"),
    Grid("variants.p_anneal*.objective.p_anneal.weight.end", [0.006, 0.008, 0.01, 0.015, 0.02, 0.025],
         "demo_config.py: SPARSITY_PENALTIES"),
    Grid("variants.gated*.objective.l1.weight.end", [0.012, 0.018, 0.024, 0.04, 0.06, 0.08],
         "demo_config.py: SPARSITY_PENALTIES"),
]  # fmt: skip


def sweeps(widths: list[int], targets: list[int], n_steps: int, cite: str) -> Table:
    """What differs between a demo and SAEBench: widths, numbers of active latents and steps.

    Steps of warm-up and annealing are shares of the run here.
    """
    return [
        Fact("variants.*.training.n_steps", n_steps, cite),
        Grid("variants.*.sae.d_sae", widths, cite),
        Grid("variants.*top_k_*.sae.k", targets, cite),
        Grid("variants.*.l0.target", [float(target) for target in targets], cite),
        Fact("variants.*.weight.finish", round(5000 / n_steps, 5), "demo_config.py: SPARSITY_WARMUP_STEPS"),
        Fact("variants.*.p_anneal.begin", round(10_000 / n_steps, 5), "demo_config.py: anneal_start"),
    ]


DEMO = [
    Fact("model.path", "EleutherAI/pythia-70m-deduped", "README.md: python demo.py"),
    Fact("model.dtype", "float32", "demo_config.py: LLM_CONFIG"),
    Fact("model.batch_tokens", 64 * 1024, "demo_config.py: LLM_CONFIG"),
    Fact("store.sites", ["blocks.3.hook_resid_post"], "README.md: --layers 3"),
    *sweeps([2**14, 2**16], [80, 160], 50_000_000 // 2048, "README.md: 50M tokens; demo_config.py"),
]
SAEBENCH = [
    Fact("model.path", "google/gemma-2-2b", "demo_config.py: LLM_CONFIG"),
    Fact("model.dtype", "bfloat16", "demo_config.py: LLM_CONFIG"),
    Fact("model.batch_tokens", 4 * 1024, "demo_config.py: LLM_CONFIG"),
    Fact("store.sites", ["blocks.12.hook_resid_post"], "SAEBench: layer 12 of Gemma-2-2B"),
    *sweeps([2**12, 2**14, 2**16], [20, 40, 80, 160, 320, 640], 500_000_000 // 2048, "demo_config.py: SAEBench"),
]
EVERY = [*CORPUS, *TRAINING, *ARCHITECTURES, *TERMS]
TABLES: dict[str, Table] = {"seed004_dictionary_learning": [*EVERY, *DEMO], "seed004_saebench": [*EVERY, *SAEBENCH]}
