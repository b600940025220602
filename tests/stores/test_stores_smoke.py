from stores import ActivationStore


def test_make(make_store):
    s = ActivationStore.open(make_store())
    assert s.plan.n_rows == 1000
