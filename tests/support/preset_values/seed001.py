"""Seed 001: a log of experiments, and the experiment.py of the same family ("hierarchical competition")."""

from support.preset_tables import Fact, Grid, Ours, Table, hub

FAMILY = "experiment.py, hierarchical competition"
CHOSEN = "the log does not say; "
TERM = "objective.orthogonality"

TRAINING = [
    Fact("seed", 42, f"{FAMILY}: seed"),
    Fact("model.path", "google/gemma-2-2b", "log: config of each run"),
    Fact("model.dtype", "bfloat16", f"{FAMILY}: torch_dtype"),
    *hub("monology/pile-uncopyrighted", f"{FAMILY}: load_dataset"),
    Fact("corpus.mode", "sequential", "dictionary_learning's buffer: each text cut at ctx_len, padding dropped"),
    Fact("corpus.context_length", 128, f"{FAMILY}: context_length"),
    Fact("corpus.prepend_bos", True, f"{FAMILY}: the tokenizer's default"),
    Fact("store.sites", ["blocks.12.hook_resid_post"], "log: training results for layer 12; hook_name"),
    Fact("variants.*.training.input_scale", "none", f"{FAMILY}: normalize_activations none"),
    Fact("variants.*.training.batch_size", 2048, f"{FAMILY}: sae_batch_size"),
    Fact("variants.*.training.n_steps", 2441, "log: training_steps of TopK, Standard and Run 2"),
    Fact("variants.*.training.order", "clip_project", f"{FAMILY}: update"),
    Fact("variants.*.training.dead_after_rows", 10_000_000, f"{FAMILY}: dead_feature_threshold"),
    Fact("variants.*.training.filters.drop_bos", False, f"{FAMILY}: every token"),
    Fact("variants.*.training.filters.drop_special", False, f"{FAMILY}: every token"),
    Fact("variants.*.training.filters.drop_template", False, f"{FAMILY}: every token"),
    Fact("variants.*.training.filters.max_norm_multiple", None, f"{FAMILY}: every token"),
    *[
        fact
        for name in ("none*", "static*", "progressive*", "square_root", "constant_weight", "rising_threshold",
                     "graduated", "momentum", "grid*")
        for fact in (
            Fact(f"variants.{name}.training.learning_rate", 2e-4, "log: lr of TopK; 2e-4 / sqrt(F / 2^14)"),
            Fact(f"variants.{name}.training.warmup_steps", 0, f"{FAMILY}: lr_fn"),
            Fact(f"variants.{name}.training.decay_start", 7 / 8, f"{FAMILY}: decay_start"),
            Fact(f"variants.{name}.training.decay", "linear", f"{FAMILY}: lr_fn"),
            Fact(f"variants.{name}.training.clip_norm", 1.0, f"{FAMILY}: clip_grad_norm_"),
            Fact(f"variants.{name}.training.beta1", 0.9, f"{FAMILY}: Adam"),
            Fact(f"variants.{name}.sae.architecture", "topk", "log: trainer_class TrainerTopK"),
            Fact(f"variants.{name}.sae.decoder", "unit", f"{FAMILY}: set_decoder_norm_to_unit_norm"),
            Fact(f"variants.{name}.sae.initial.encoder", "transpose", f"{FAMILY}: W_enc.T"),
            Fact(f"variants.{name}.sae.initial.b_dec", "geometric_median", f"{FAMILY}: step 0"),
            Fact(f"variants.{name}.objective.reconstruction.reduction", "sum", f"{FAMILY}: l2_loss"),
            Fact(f"variants.{name}.objective.aux_k.weight", 1 / 32, f"{FAMILY}: auxk_alpha"),
            Ours(f"variants.{name}.sae.initial.weights", "dictionary_learning's TopK, from which the family comes"),
        )
    ],
]  # fmt: skip

SPARSITY = [
    Fact("variants.*.sae.d_sae", 16_384, "log: dict_size"),
    *[
        Grid(f"variants.{name}_*.sae.k", [320, 40], "log: k of TopK and of Run 3; of runs 1 and 2")
        for name in ("none", "static", "progressive")
    ],
    *[
        fact
        for name in ("none", "static", "progressive")
        for fact in (
            Fact(f"variants.{name}_*.sae.k.start", 80, "log, expert: progressive k from 80"),
            Fact(f"variants.{name}_*.sae.k.end", 320, "log, expert: to 320"),
            Fact(f"variants.{name}_*.sae.k.shape", "linear", "log, expert: linearly"),
        )
    ],
    *[
        Fact(f"variants.{name}*.terms", ["reconstruction", "aux_k", "orthogonality"], "log: the loss")
        for name in ("none", "static", "progressive", "square_root", "constant_weight", "rising_threshold",
                     "graduated", "momentum", "grid")
    ],
    *[
        Fact(f"variants.{name}.sae.k", 320, "log: Run 3")
        for name in ("square_root", "constant_weight", "rising_threshold", "graduated", "momentum", "grid_*")
    ],
]  # fmt: skip

ORTHOGONALITY = [
    Fact(f"variants.*.{TERM}.on", "decoder", CHOSEN + "f_i^T f_j, of decoder rows or activations"),
    Fact(f"variants.*.{TERM}.penalty", "absolute", "log: |f_i^T f_j|"),
    Fact(f"variants.*.{TERM}.reduction", "sum", "log: sum over (i, j)"),
    Fact(f"variants.*.{TERM}.normalisation", "min", "experiment.py, co-activation stability: n_ij"),
    Fact(f"variants.none_*.{TERM}.weight", 0.0, "log: TopK baseline"),
    Fact(f"variants.none_*.{TERM}.threshold.start", 0.1, "log: 0.1 (1 + p)"),
    Fact(f"variants.none_*.{TERM}.threshold.end", 0.0, "log: base (1 - p)"),
    Ours(f"variants.*.{TERM}.watch", "the log, expert: trajectories of chosen pairs; it chooses none"),
    Fact(f"variants.static_*.{TERM}.weight", 0.1, "log, expert: lambda_2 constant; the grid's smallest"),
    Fact(f"variants.static_*.{TERM}.threshold", 0.1, "log: 0.1 (1 + p)"),
    Fact(f"variants.constant_weight.{TERM}.weight", 0.1, "log, expert: lambda_2 constant"),
    *[
        fact
        for name, exponent in (("progressive_*", 2.0), ("square_root", 0.5), ("rising_threshold", 2.0),
                               ("graduated", 2.0), ("momentum", 2.0), ("grid_*", 2.0))
        for fact in (
            Fact(f"variants.{name}.{TERM}.weight.shape", "power", "log: lambda_2 (1 - p)^2, expert: ^0.5"),
            Fact(f"variants.{name}.{TERM}.weight.exponent", exponent, "log: (1 - p)^2, expert: (1 - p)^0.5"),
            Fact(f"variants.{name}.{TERM}.weight.end", 0.0, "log: (1 - p)"),
        )
    ],
    *[
        fact
        for name, end in (("progressive_*", 0.0), ("square_root", 0.0), ("constant_weight", 0.0),
                          ("rising_threshold", 0.2), ("graduated", 0.0), ("momentum", 0.0), ("grid_*", 0.0))
        for fact in (
            Fact(f"variants.{name}.{TERM}.threshold.shape", "linear", "log: base (1 - p), expert: base (1 + p)"),
            Fact(f"variants.{name}.{TERM}.threshold.end", end, "log: base (1 - p), expert: 0.1 (1 + p)"),
        )
    ],
    *[
        fact
        for name in ("progressive_*", "square_root", "rising_threshold", "graduated", "momentum")
        for fact in (
            Fact(f"variants.{name}.{TERM}.weight.start", 0.1, CHOSEN + "the grid's smallest"),
            Fact(f"variants.{name}.{TERM}.threshold.start", 0.1, "log: 0.1 (1 + p)"),
        )
    ],
    Fact(f"variants.constant_weight.{TERM}.threshold.start", 0.1, "log: 0.1 (1 + p)"),
    Grid(f"variants.grid_*.{TERM}.weight.start", [0.1, 0.5, 1.0], "log, expert: lambda_2 max"),
    Grid(f"variants.grid_*.{TERM}.threshold.start", [0.1, 0.2, 0.3, 0.4, 0.5], "log, expert: by 0.1"),
    Fact(f"variants.graduated.{TERM}.shape", "sigmoid", "log, expert: sigmoid competition"),
    Fact(f"variants.momentum.{TERM}.shape", "linear", "log: c_ij"),
    Fact(f"variants.progressive_*.{TERM}.shape", "linear", "log: c_ij"),
    Ours(f"variants.graduated.{TERM}.temperature", CHOSEN + "its steepness"),
    Ours(f"variants.momentum.{TERM}.threshold_momentum", CHOSEN + "its form"),
]  # fmt: skip

BASELINES = [
    Fact("variants.standard.sae.architecture", "relu", "log: Standard"),
    Fact("variants.standard.terms", ["reconstruction", "l1"], "log: Standard"),
    Fact("variants.standard.objective.l1.weight", 0.04, "log: sparsity_penalty"),
    Fact("variants.standard.training.learning_rate", 3e-4, "log: learning_rate"),
    Fact("variants.standard.training.warmup_steps", 1000, f"{FAMILY}: warmup_steps"),
    Fact("variants.standard.training.decay_start", 1.0, "dictionary_learning's StandardTrainer of that time"),
    Fact("variants.standard.training.clip_norm", None, "dictionary_learning's StandardTrainer"),
    Fact("variants.standard.training.projection_epsilon", 0.0, "dictionary_learning's ConstrainedAdam"),
    Ours("variants.standard.sae.initial.*", "dictionary_learning's AutoEncoder"),
    Fact("variants.gated*.sae.architecture", "gated", "log, expert: compare with Gated"),
    Fact("variants.gated_static.terms", ["reconstruction", "l1", "gated_auxiliary", "orthogonality"],
         "log: a static orthogonal SAE to compare with"),
    Fact("variants.gated.terms", ["reconstruction", "l1", "gated_auxiliary"], "dictionary_learning's GatedSAETrainer"),
    Fact("variants.gated*.training.beta1", 0.0, "dictionary_learning's GatedSAETrainer"),
    Fact("variants.gated*.training.clip_norm", None, "dictionary_learning's GatedSAETrainer"),
    Fact("variants.gated*.training.projection_epsilon", 0.0, "dictionary_learning's ConstrainedAdam"),
    Fact("variants.gated*.training.learning_rate", 3e-4, "log: learning_rate"),
    Fact("variants.gated*.training.warmup_steps", 1000, f"{FAMILY}: warmup_steps"),
    Fact(f"variants.gated_static.{TERM}.weight", 0.1, "log, expert: lambda_2 constant; the grid's smallest"),
    Fact(f"variants.gated_static.{TERM}.threshold", 0.1, "log: 0.1 (1 + p)"),
    Ours(f"variants.gated_static.{TERM}.from_progress", CHOSEN + "it has no such SAE"),
    Ours("variants.gated*.sae.initial.*", "dictionary_learning's GatedAutoEncoder"),
    Ours("variants.gated*.objective.l1.weight", CHOSEN + "the log's sparsity_penalty"),
]  # fmt: skip

OURS = [
    Ours("name", "the run's folder"),
    Ours("model.batch_tokens", "32 documents: llm_batch_size"),
    Ours("corpus.n_tokens", "what 2441 steps read, and the held-out documents"),
    Ours("corpus.heldout_fraction", "the source scores another dataset"),
]
TABLES: dict[str, Table] = {
    "seed001_orthogonality": [*TRAINING, *SPARSITY, *ORTHOGONALITY, *BASELINES, *OURS]
}  # fmt: skip
