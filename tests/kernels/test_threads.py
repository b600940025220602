"""Loops on several threads: every row once, in order, the same bits for any number of threads, also after a fork."""

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import cpu
from strata_sae.pipeline.kernels.machine.compiled import loops
from strata_sae.pipeline.kernels.machine.compiled.loops import over_rows
from strata_sae.pipeline.kernels.machine.reference import AdamStep

fork = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
"""Python warns of what is tested here."""


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    usual = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(usual)


@pytest.fixture(params=[1, 2, 3])
def n_threads(request, set_threads) -> int:
    set_threads(request.param)
    return request.param


def assert_covers(n_rows: int, rows_at_once: int) -> None:
    """Every row is taken once, no more at a time than asked, and the results are in the order of the rows."""
    taken: list[int] = []

    def loop(start: int, stop: int, offset: int) -> tuple[int, int]:
        taken.extend(range(start, stop))
        return start + offset, stop + offset

    results = over_rows(loop, n_rows, rows_at_once, 1000)
    assert sorted(taken) == list(range(n_rows))
    starts = range(0, n_rows, rows_at_once)
    assert results == [(start + 1000, min(start + rows_at_once, n_rows) + 1000) for start in starts]


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("n_rows", [0, 1, 2, 63, 64, 65, 1000])
@pytest.mark.parametrize("rows_at_once", [1, 7, 64, 5000])
def test_every_row_is_taken_once_and_results_come_in_order(n_rows, rows_at_once):
    assert_covers(n_rows, rows_at_once)


@pytest.mark.usefixtures("n_threads")
def test_a_stretch_left_out_would_be_seen(monkeypatch):
    monkeypatch.setattr(loops, "deque", lambda stretches: deque(list(stretches)[:-1]))
    with pytest.raises(AssertionError):
        assert_covers(65, 7)


@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize("failing", [0, 3, 9])
def test_an_exception_reaches_the_caller_and_the_next_call_works(failing):
    def loop(start: int, stop: int) -> None:
        if start == failing:
            raise ValueError(f"row {start}")

    with pytest.raises(ValueError, match=f"row {failing}"):
        over_rows(loop, 10, 1)
    assert_covers(65, 7)


@pytest.mark.parametrize("n", [2, 3])
def test_an_exception_in_another_thread_reaches_the_caller(set_threads, n):
    set_threads(n)
    raised = threading.Event()

    def loop(start: int, stop: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert raised.wait()
            return
        raised.set()
        raise ValueError(f"row {start}")

    with pytest.raises(ValueError, match="row"):
        over_rows(loop, 10, 1)
    assert_covers(65, 7)


def results_of_all(seed: int = 0) -> list[Tensor]:
    """What every operation of the CPU gives, on more rows than one thread takes at a time."""
    generator = torch.Generator().manual_seed(seed)
    n_rows, n_latents, width, k = 333, 517, 37, 9
    x_BM, W_EM = (torch.randn(n, width, generator=generator) for n in (n_rows, n_latents))
    b_E, pre_BE = torch.randn(n_latents, generator=generator), torch.randn(n_rows, n_latents, generator=generator)
    indices_P = torch.randint(n_latents, (10007,), generator=generator)
    rows_P = torch.randint(n_rows, (10007,), generator=generator).sort().values
    offsets, weights_P = torch.bincount(rows_P, minlength=n_rows).cumsum(0), torch.randn(10007, generator=generator)
    offsets = torch.nn.functional.pad(offsets, (1, 0))
    W, gradient, mean, square = (torch.randn(n_latents, width, generator=generator) for _ in range(4))
    cpu.adam(W, gradient, mean, square.square_(), AdamStep(3, 0.01, 0.9, 0.999, 1e-8, 0.7), b_E)
    slack_B = torch.full((n_rows,), 0.5)
    return [
        cpu.weighted_sums(indices_P, W_EM, offsets, weights_P),
        cpu.sampled_dots(x_BM, W_EM, rows_P, indices_P, offsets),
        *cpu.row_topk(pre_BE, k),
        *cpu.entries_above(pre_BE, b_E, 1.0),
        *cpu.certified_topk((x_BM @ W_EM.T + b_E).bfloat16(), slack_B, x_BM, W_EM, b_E, k, 8 * k),
        *cpu.row_products(gradient, W),
        W, mean, square,
    ]  # fmt: skip


def same_bits(results: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(results, others, strict=True))


def test_any_number_of_threads_gives_the_same_bits(set_threads):
    set_threads(1)
    expected = results_of_all()
    assert bool(expected[9].all()), "rows that are not certain are not filled in"
    for n in (1, 2, 3, 2):
        set_threads(n)
        assert same_bits(results_of_all(), expected)


def test_another_last_bit_would_be_seen():
    results = results_of_all()
    changed = results.copy()
    changed[1] = changed[1].clone()
    changed[1][5000] = torch.nextafter(changed[1][5000], torch.tensor(torch.inf))
    assert same_bits(results, results.copy())
    assert not same_bits(results, changed)


def exit_code_of_child(work: Callable[[], bool], seconds: float | None = None) -> int | None:
    """0 if work() is true in a forked child; None if it is not done in `seconds`, where they are given."""
    child = multiprocessing.get_context("fork").Process(target=lambda: exit(not work()))
    child.start()
    child.join(seconds)
    code = child.exitcode
    if code is None:
        child.kill()
        child.join()
    child.close()
    return code


@fork
@pytest.mark.parametrize("n", [2, 3])
def test_a_forked_child_starts_threads_of_its_own(set_threads, n):
    set_threads(n)
    pre_BE = torch.randn(333, 40, generator=torch.Generator().manual_seed(0))
    expected = list(cpu.row_topk(pre_BE, 3))
    assert n - 1 in loops._pools

    def work() -> bool:
        return not loops._pools and same_bits(list(cpu.row_topk(pre_BE, 3)), expected) and n - 1 in loops._pools

    assert exit_code_of_child(work) == 0
    assert exit_code_of_child(lambda: not work()) == 1
    assert same_bits(list(cpu.row_topk(pre_BE, 3)), expected)


@fork
def test_with_its_parents_threads_a_child_would_wait_for_ever(set_threads):
    set_threads(2)
    assert_covers(65, 7)
    pools = loops._pools.copy()

    def work() -> bool:
        loops._pools.update(pools)
        assert_covers(65, 7)
        return True

    assert exit_code_of_child(work, 1.0) is None
