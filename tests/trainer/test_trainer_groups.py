from pipeline.trainer.groups import describe, expand, group

VARIANT = {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}}}


def test_every_variant_at_every_site(make_config):
    jobs = expand(make_config({"a": VARIANT, "b": VARIANT}), ["s1", "s2"])
    assert [job.name for job in jobs] == ["a@s1", "b@s1", "a@s2", "b@s2"]


def test_own_settings_win_and_separate(make_config):
    variants = {
        "a": VARIANT,
        "rate": {**VARIANT, "learning_rate": 0.5},
        "seed": {**VARIANT, "seed": 7},
        "batch": {**VARIANT, "batch_size": 32},
        "zero": {**VARIANT, "seed": 0},
    }
    groups = group(expand(make_config(variants), ["s"]))
    assert [[job.variant_name for job in together.jobs] for together in groups] == [
        ["a", "rate", "zero"],
        ["seed"],
        ["batch"],
    ]
    assert [job.learning_rate for job in groups[0].jobs] == [0.003, 0.5, 0.003]
    assert (groups[1].seed, groups[2].batch_size) == (7, 32)
    assert describe(groups)[0] == "s: batches of 64 rows, seed 0, read once for a, rate, zero"
