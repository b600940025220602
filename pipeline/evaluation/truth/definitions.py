"""What each number of truth.json is: its unit and its definition."""

_COSINE, _SHARE = "cosine", "fraction"
_OF_LATENTS = (
    "mean over all latents, each as a detector of the feature that its decoder row is nearest to by |cosine|; 0 where "
    "it is 0/0 (SAELens)"
)
_OF_FEATURES = (
    "mean over the features that are on in any row, each with its latent of the assignment of mcc; 0 without one"
)
_CHILDREN = "mean over the children of which it is defined"
_PAIRS = "of latents with two children: share whose parent + child 1 and parent + child 2 are nearest to"

DEFINITIONS: dict[str, tuple[str, str]] = {
    "r2": ("fraction of variance", "1 - sum ||x - xhat||^2 / sum ||x - mean||^2, pooled over the rows"),
    "r2_ceiling": (
        "fraction of variance",
        "r2 of the truth itself: 1 - the noise's share of the variance. An SAE beyond it has learnt noise",
    ),
    "l0": ("latents per row", "mean number of latents of a row whose code is not 0"),
    "true_l0": ("features per row", "mean number of features of a row"),
    "dead_latents": ("latents", "latents that are on in no row"),
    "mcc": (
        _COSINE,
        "mean |cosine| of latents and features in the one-to-one assignment that makes its sum largest (Hungarian)",
    ),
    "uniqueness": (_SHARE, "different features that are the nearest of any latent by |cosine|, over latents"),
    "precision_per_latent": (_SHARE, f"rows with latent and feature / rows with the latent: {_OF_LATENTS}"),
    "recall_per_latent": (_SHARE, f"rows with latent and feature / rows with the feature: {_OF_LATENTS}"),
    "f1_per_latent": (_SHARE, f"harmonic mean of precision and recall: {_OF_LATENTS}"),
    "precision_per_feature": (_SHARE, f"rows with latent and feature / rows with the latent: {_OF_FEATURES}"),
    "recall_per_feature": (_SHARE, f"rows with latent and feature / rows with the feature: {_OF_FEATURES}"),
    "f1_per_feature": (_SHARE, f"harmonic mean of precision and recall: {_OF_FEATURES}"),
    "feature_cosine_mean": (_COSINE, "of each feature the largest cosine of a decoder row to it; their mean"),
    "feature_cosine_min": (_COSINE, "of each feature the largest cosine of a decoder row to it; the least of them"),
    "latent_absorption": (
        _SHARE,
        "of the rows with a child in which the child's latent is on, those in which the parent's latent is off; "
        f"{_CHILDREN}",
    ),
    "projection_absorption": (
        _SHARE,
        "of the rows with a child, those of which <xhat, parent> is below half of what the row holds of the parent; "
        f"{_CHILDREN}",
    ),
    "leakage": ("model units", f"<decoder row of the child's latent, parent>; {_CHILDREN}"),
    "suppression": (
        _SHARE,
        "1 - what the parent's latent adds along the parent in rows with the child / in rows with the parent and no "
        f"child; {_CHILDREN}",
    ),
    "pair_detection": (_SHARE, f"{_PAIRS} the two children of one parent"),
    "single_detection": (_SHARE, f"{_PAIRS} one and the same feature"),
    "adjusted_cosine_mean": (
        _COSINE,
        "as feature_cosine_mean, of parent + ratio * child, the ratio being the child's running mean in training",
    ),
    "adjusted_cosine_min": (_COSINE, "as feature_cosine_min, of parent + ratio * child"),
    "adjusted_pair_detection": (_SHARE, "as pair_detection, of parent + ratio * child"),
    "adjusted_single_detection": (_SHARE, "as single_detection, of parent + ratio * child"),
}
