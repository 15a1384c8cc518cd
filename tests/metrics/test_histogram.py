import math

import pytest
import torch

from metrics.histogram import histogram_bits


def test_hand_counted_frequencies() -> None:
    """Pixel a was 0 three times and 5 once; of 4 + 256 counts 0 has 4, 5 has 2 and 7 has 1. Pixel b was always 7."""
    train = torch.tensor([[0, 7], [0, 7], [0, 7], [5, 7]], dtype=torch.uint8)
    test = torch.tensor([[0, 7], [7, 5]], dtype=torch.uint8)
    of_each = [4 / 260, 5 / 260, 1 / 260, 1 / 260]
    assert histogram_bits(train, test, each_pixel=True) == pytest.approx(-sum(map(math.log2, of_each)) / 4, rel=1e-12)
    of_all = [4 / 264, 5 / 264, 5 / 264, 2 / 264]  # of 8 values: 0 three times, 5 once, 7 four times
    assert histogram_bits(train, test, each_pixel=False) == pytest.approx(-sum(map(math.log2, of_all)) / 4, rel=1e-12)


def test_even_values_take_eight_bits() -> None:
    train = torch.arange(256, dtype=torch.uint8).repeat(3).view(-1, 1)
    for each_pixel in (True, False):
        assert histogram_bits(train, train[:10], each_pixel) == pytest.approx(8.0, rel=1e-12)


def test_its_own_data_take_their_entropy_as_the_pseudocount_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (500, 1, 3, 2), generator=generator).mul(60).to(torch.uint8)
    entropies = []
    for pixel in x.flatten(1).T:
        p = torch.bincount(pixel.long()).double() / len(x)
        entropies.append(-torch.special.xlogy(p, p).sum().item() / math.log(2))
    assert histogram_bits(x, x, True, pseudocount=1e-12) == pytest.approx(sum(entropies) / 6, rel=1e-9)


def test_it_is_a_distribution() -> None:
    """The probabilities of the 256 values of one pixel add up to one."""
    train = torch.randint(0, 256, (50, 1), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    values = torch.arange(256, dtype=torch.uint8).view(-1, 1)
    total = sum(2 ** -histogram_bits(train, value[None], True) for value in values)
    assert total == pytest.approx(1, rel=1e-12)


def test_pixels_that_differ_gain_by_histograms_of_their_own() -> None:
    x = torch.tensor([10, 200], dtype=torch.uint8).repeat(1000, 1)
    assert histogram_bits(x, x, True) < 0.5 < 1.0 < histogram_bits(x, x, False)


@pytest.mark.parametrize(
    ("train", "test", "pseudocount"), [((4, 3), (4, 2), 1.0), ((0, 3), (4, 3), 1.0), ((4, 3), (4, 3), 0.0)]
)
def test_what_has_no_answer_is_refused(train: tuple[int, int], test: tuple[int, int], pseudocount: float) -> None:
    with pytest.raises(ValueError, match=r"histogram_bits|pseudocount") as caught:
        histogram_bits(
            torch.zeros(train, dtype=torch.uint8), torch.zeros(test, dtype=torch.uint8), True, pseudocount=pseudocount
        )
    assert "\n" not in str(caught.value)
