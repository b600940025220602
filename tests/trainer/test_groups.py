from strata_sae.pipeline.trainer.groups import describe, expand, group, never_dead
from strata_sae.pipeline.trainer.memory import checkpoint_bytes, memory_bytes

VARIANT = {"sae": {"architecture": "topk", "d_sae": 64, "k": 4}, "objective": {"reconstruction": {}}}


def test_every_variant_at_every_site(make_config):
    jobs = expand(make_config({"a": VARIANT, "b": VARIANT}), ["s1", "s2"])
    assert [job.name for job in jobs] == ["a@s1", "b@s1", "a@s2", "b@s2"]


def test_own_settings_win_and_separate(make_config):
    variants = {
        "a": VARIANT,
        "rate": {**VARIANT, "training": {"learning_rate": 0.5}},
        "seed": {**VARIANT, "seed": 7},
        "batch": {**VARIANT, "training": {"batch_size": 32}},
        "zero": {**VARIANT, "seed": 0},
    }
    groups = group(expand(make_config(variants), ["s"]))
    assert [[job.variant_name for job in together.jobs] for together in groups] == [
        ["a", "rate", "zero"],
        ["seed"],
        ["batch"],
    ]
    assert [job.training.learning_rate for job in groups[0].jobs] == [0.003, 0.5, 0.003]
    assert (groups[1].seed, groups[2].batch_size) == (7, 32)
    assert describe(groups)[0] == "s: batches of 64 rows, seed 0, read once for a, rate, zero"


def test_memory_and_disk_are_counted(make_config):
    config = make_config({"a": VARIANT, "b": VARIANT}, window_rows=100)
    (together,) = group(expand(config, ["s"]))
    parameters = 2 * (2 * 64 * 16 + 64 + 16)
    expected = 4 * parameters * 4 + 64 * 64 * 4 + 2 * 100 * 64
    assert memory_bytes(together, config.training, d_out=16, row_bytes=64, n_rows=1000) == expected
    assert checkpoint_bytes(together, d_out=16) == 9 * parameters * 4


def test_dead_latents_that_would_never_be_found_are_announced(make_config):
    reviving = {**VARIANT, "objective": {"reconstruction": {}, "aux_k": {}}}
    variants = {"plain": VARIANT, "late": reviving, "fine": {**reviving, "training": {"dead_after_rows": 3840}}}
    (line,) = never_dead(expand(make_config(variants, dead_after_rows=3841), ["s"]))
    assert line.startswith("late: ")
    assert never_dead(expand(make_config(variants, dead_after_rows=3840), ["s"])) == []
