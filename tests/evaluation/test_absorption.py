"""First-letter absorption of rows and codes of which is known what is absorbed, and of what has no answer."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.absorption import probes
from strata_sae.pipeline.evaluation.absorption.latents import f1, letter_latents
from strata_sae.pipeline.evaluation.absorption.letters import row_probe, seed_absorption
from strata_sae.pipeline.evaluation.absorption.measure import absorbed, cosines_with, folded, projections_on
from strata_sae.pipeline.reading.first_letters import EXAMPLES, TEST, Word, letter_words, prompts_of
from strata_sae.pipeline.runs.absorption_records import PROBES
from support.planted_absorption import codes, rows


def one(code: list[float], cosine: list[float], projection: float, latents: list[int]) -> tuple[float, bool]:
    """Of one row."""
    fraction, is_full = absorbed(
        torch.tensor([code]), torch.tensor([projection]).double(), torch.tensor(cosine).double(), latents
    )
    return float(fraction), bool(is_full)


def test_the_cases_of_a_row():
    cosine = [0.8, 0.5, 0.05, -0.5]
    assert one([1, 0, 0, 0], cosine, 0.8, [0]) == (0.0, False)  # the letter's latent writes it all
    assert one([0, 1, 0, 0], cosine, 0.5, [0]) == (1.0, True)  # another does
    assert one([0, 1, 0, 0], cosine, 1.3, [0]) == (0.0, False)  # too little of the row
    fraction, is_full = one([0.5, 1, 0, 0], cosine, 0.9, [0])  # both: .4 and .5
    assert (fraction, is_full) == (pytest.approx(0.5 / 0.9), False)
    assert one([0.5, 3, 0, 0], cosine, 0.9, [0])[0] == pytest.approx(0.5 / 0.9)  # no more than is missing
    assert one([0, 0, 30, 0], cosine, 1.0, [0]) == (0.0, True)  # along the probe by .05: full knows it, fraction not


def test_at_most_three_absorb_and_all_of_the_letters_latents_count():
    cosine = [0.5] * 6
    assert one([0, 1, 1, 1, 1, 1], cosine, 2.5, [0]) == (1.0, False)
    assert one([0, 0.5, 0.5, 0.5, 0.5, 0.5], cosine, 2.0, [0]) == (0.0, False)  # 3 of .25 are below .4 of 2
    assert one([0, 1, 1, 0, 0, 0], cosine, 1.0, [0, 1])[0] == pytest.approx(0.5)


@pytest.mark.parametrize("projection", [0.0, -1.0, -1e-30])
def test_a_row_that_does_not_point_along_the_probe_is_not_absorbed(projection: float):
    assert one([0, 1, 0, 0], [0.8, 0.5, 0.05, -0.5], projection, [0]) == (0.0, False)
    assert one([0, 0, 0, 0], [0.8, 0.5, 0.05, -0.5], projection, [0]) == (0.0, False)


def test_decoder_norms_are_folded_and_zero_rows_write_nothing():
    W_dec = torch.tensor([[2.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    assert folded(torch.tensor([[1.0, 7.0, 1.0]]), W_dec).tolist() == [[2.0, 0.0, 5.0]]
    assert cosines_with(torch.tensor([5.0, 0.0]), W_dec).tolist() == pytest.approx([1.0, 0.0, 0.6])
    assert projections_on(torch.tensor([5.0, 0.0]), torch.tensor([[3.0, 1.0]])).tolist() == [3.0]


def test_scaling_a_decoder_row_changes_no_number():
    generator = torch.Generator().manual_seed(0)
    W_dec, code = torch.randn(30, 8, generator=generator), torch.rand(40, 30, generator=generator)
    x, direction, scale = code @ W_dec, torch.randn(8, generator=generator), 1 + 9 * torch.rand(30, generator=generator)

    def of(code: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
        return absorbed(
            folded(code, W_dec), projections_on(direction, x), cosines_with(direction, W_dec), [1, 2]
        ).fraction_N

    assert torch.allclose(of(code, W_dec), of(code / scale, W_dec * scale[:, None]), atol=1e-6)
    assert of(code, W_dec).std() > 0  # control
    assert not torch.allclose(of(code, W_dec), of(code / scale, W_dec), atol=1e-3)  # control: other codes


def objective(probe: probes.Probe, x: torch.Tensor, y: torch.Tensor, penalty: probes.Penalty) -> float:
    weight = (len(y) - y.sum(dim=0)) / y.sum(dim=0)
    entropy = binary_cross_entropy_with_logits(probe.logits(x.double()), y.double(), pos_weight=weight.double())
    W = probe.W_CM.double()
    return float(entropy + penalty.square / 2 * W.square().sum() + penalty.absolute * W.abs().sum(dim=1).mean())


def made_up(n: int = 120, d: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    letters = torch.arange(n) % 5
    x = torch.randn(n, d, generator=generator) * torch.rand(d, generator=generator) * 4
    x[:, 7] += 50
    x[:, 9] = 0.0  # a dead latent
    return x + torch.randn(5, d, generator=generator)[letters] * (x.std(dim=0) > 0), letters[:, None] == torch.arange(5)


def test_our_probes_are_at_the_minimum_of_their_objective():
    rows_NM, y = made_up()
    codes_NE, sparse = rows_NM.sub(50.0 * (rows_NM > 30)).relu(), probes.Penalty(square=0.0, absolute=0.01)
    for x, penalty, probe in (
        (rows_NM, probes.ROW_PENALTY, probes.minimum(rows_NM, y, probes.ROW_PENALTY)),
        (codes_NE, sparse, probes.sparse_minimum(codes_NE, y, sparse)),
    ):
        assert probe.is_converged
        best = objective(probe, x, y, penalty)
        generator = torch.Generator().manual_seed(0)
        for size in (1e-3, 1e-2, 1e-1):
            step = size * torch.randn(probe.W_CM.shape, generator=generator, dtype=torch.float64)
            assert objective(probe._replace(W_CM=probe.W_CM + step), x, y, penalty) > best
            assert objective(probe._replace(b_C=probe.b_C + size), x, y, penalty) >= best - 1e-9
            assert objective(probe._replace(b_C=probe.b_C - size), x, y, penalty) >= best - 1e-9
        theirs = probes.trained(x, y, penalty, probes.CODE_TRAINING, torch.Generator().manual_seed(0))
        assert objective(theirs, x, y, penalty) > best + 0.01  # 50 steps in all: not at the minimum
        assert probe.W_CM[:, 9].abs().max() == 0


def test_latents_of_a_letter_end_where_one_more_adds_little():
    generator = torch.Generator().manual_seed(0)
    is_letter = torch.arange(200) % 4 == 0
    first, second = is_letter & (torch.arange(200) % 8 == 0), is_letter & (torch.arange(200) % 8 == 4)
    code = torch.stack([first, second, torch.rand(200, generator=generator) > 0.5], dim=1).float()
    found = letter_latents(torch.tensor([2.0, 1.0, 0.5]), code, is_letter, code, is_letter, only_positive=False)
    assert found.latents == [0, 1]  # each fires on one half: two latents split the letter
    assert 0 < found.one_latent_f1 < 1
    alone = letter_latents(torch.tensor([2.0, -1.0, -2.0]), code, is_letter, code, is_letter, only_positive=True)
    assert alone.latents == [0]
    none = letter_latents(torch.tensor([0.0, -1.0, 0.0]), code, is_letter, code, is_letter, only_positive=True)
    assert none == ([], 0.0)
    dead = letter_latents(
        torch.tensor([1.0, 0.5]), torch.zeros(200, 2), is_letter, torch.zeros(200, 2), is_letter, only_positive=False
    )
    assert len(dead.latents) == 1  # as SAEBench: k = 1 always counts


def test_f1_without_a_yes_is_0():
    nothing, something = torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, True])
    assert (f1(nothing, something), f1(something, nothing), f1(nothing, nothing)) == (0.0, 0.0, 0.0)
    assert f1(something, something) == 1.0


def test_what_was_planted_is_measured():
    data = rows()
    probe = row_probe(data, "own")
    found = seed_absorption(data, probe, codes(data), min_letters=4)
    letters = {letter.letter: letter for letter in found.letters}
    assert letters.keys() == set("abcd")
    a = letters["a"]
    assert (a.n_words, a.latents, a.fraction, a.full) == (4, [0], 0.5, 0.5)
    assert all((letters[letter].fraction, letters[letter].full) == (0.0, 0.0) for letter in "bcd")
    assert (found.fraction, found.full, found.split_latents, found.n_words) == (0.125, 0.125, 1.0, 16)
    assert found.is_converged
    none = seed_absorption(data, probe, codes(data, absorbed_words=()), min_letters=4)
    assert (none.fraction, none.full) == (0.0, 0.0)  # control


def test_probes_as_theirs_do_not_find_the_latent_where_rows_are_few():
    """50 steps leave the ranking of latents near its random start; absorption is then measured of other latents."""
    data, planted = rows(), codes(rows())
    own, theirs = (seed_absorption(data, row_probe(data, kind), planted, min_letters=4) for kind in PROBES)
    assert (own.one_latent_f1, own.split_latents) == (pytest.approx(1.0, abs=0.1), 1.0)
    assert theirs.one_latent_f1 < 0.8
    assert theirs.is_converged is None


def test_fewer_letters_than_are_asked_for_give_no_number():
    data = rows()
    probe = row_probe(data, "own")
    found = seed_absorption(data, probe, codes(data), min_letters=5)
    assert (found.fraction, found.full, found.split_latents) == (None, None, None)
    assert len(found.letters) == 4
    assert seed_absorption(data, probe, codes(data), min_letters=4).fraction is not None  # control


def test_a_letter_that_no_latent_says_is_left_out_and_named():
    data = rows()
    silent = codes(data)
    silent.train_NE[:, 1] = 0.0
    found = seed_absorption(data, row_probe(data, "own"), silent, min_letters=1)
    # Its rows are also told by the silence of the others: weights of 0 or less, which stand for no letter.
    assert found.without_latent == ["b"]
    assert {letter.letter for letter in found.letters} == set("acd")


def test_dead_latents_are_no_error():
    data = rows()
    dead = codes(data)
    for part in dead[:3]:
        part.zero_()
    for kind in PROBES:
        found = seed_absorption(data, row_probe(data, kind), dead, min_letters=1)
        assert {letter.fraction for letter in found.letters} <= {0.0}
        assert found.one_latent_f1 < 0.6


VOCABULARY = {
    number: f" {letter}{'x' * (2 + number % 5)}{other}".encode()
    for number, (letter, other) in enumerate((a, b) for b in "abcdefgh" for a in "abcdefghij")
}


def test_words_are_a_space_and_letters_of_lowest_id():
    tokens = {
        9: b" late",
        1: b" the",
        2: b"late",
        3: b" l8te",
        4: b" La",
        5: b" Lamp",
        6: b" l\xc3\xa4mp",
        7: b"  lamp",
        8: b" lion",
    }
    assert letter_words(tokens, None) == [Word(5, " Lamp"), Word(8, " lion"), Word(9, " late"), Word(1, " the")]
    assert letter_words(tokens, 2) == [Word(5, " Lamp"), Word(8, " lion"), Word(1, " the")]


def test_prompts_ask_for_every_word_after_ten_others():
    words = letter_words(VOCABULARY, None)
    prompts = prompts_of(words, 0)
    lines = [text.split("\n") for text in prompts.texts]
    assert all(len(of_text) == EXAMPLES + 2 for of_text in lines)
    asked = [of_text[-1].removesuffix(" has the first letter:") for of_text in lines]
    first, test = asked[: prompts.n_train], asked[prompts.n_train :]
    assert sorted([*first, *test[: len(test) // 2]]) == sorted(word.text for word in words)
    assert test[: len(test) // 2] == test[len(test) // 2 :]  # asked again, in their order
    for word, of_text, letter, part in zip(asked, lines, prompts.letter_N, prompts.part_N, strict=True):
        examples = [line.removesuffix(f": {line[-1]}").removesuffix(" has the first letter") for line in of_text[1:-1]]
        assert word not in examples
        assert all(line.endswith(f"first letter: {line[1].upper()}") for line in of_text[1:-1])
        assert word[1] == "abcdefghijklmnopqrstuvwxyz"[letter]
        assert set(examples) <= set(test) or part != TEST
    assert prompts_of(words, 0).texts == prompts.texts
    assert prompts_of(words, 1).texts != prompts.texts


def test_words_of_one_letter_and_too_few_words_are_refused_in_one_line():
    for tokens, says in (
        ({1: b" late", 2: b" lion"}, "begin with one letter (l)"),
        ({1: b"late"}, "one letter (none)"),
        (dict(list(VOCABULARY.items())[:50]), "gives 50 words, 10 of them for testing"),
    ):
        with pytest.raises(ConfigError) as caught:
            prompts_of(letter_words(tokens, None), 0)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    prompts_of(letter_words(dict(list(VOCABULARY.items())[:55]), None), 0)  # control
