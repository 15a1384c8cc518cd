import itertools

import torch

from models.training.randomness import keyed_generator, keyed_seed, sample_generator


def test_neighbouring_keys_have_seeds_of_their_own() -> None:
    keys = list(itertools.product(range(20), repeat=3)) + list(itertools.product(range(200), repeat=2))
    seeds = {keyed_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert len({seed & 0xFFFFFFFF for seed in seeds}) > len(keys) - 4  # 0.3 expected by chance


def test_a_key_is_more_than_its_digits() -> None:
    assert len({keyed_seed(1, 23), keyed_seed(12, 3), keyed_seed(123), keyed_seed(-1, 23), keyed_seed(23, 1)}) == 5


def test_seeds_are_what_torch_takes() -> None:
    assert all(0 <= keyed_seed(i) < 2**63 for i in range(1000))


def test_seeds_stay_what_they_are() -> None:
    """Recorded once: other values would draw other samples for every figure written down so far."""
    assert keyed_seed(0) == 4246866556266386882
    assert keyed_seed(7, 1000, 0) == 5298956082221366246
    assert sample_generator(7, 1000).initial_seed() == 1841234907


def test_bits_of_seeds_are_balanced() -> None:
    seeds = torch.tensor([keyed_seed(0, i) for i in range(4000)])
    shares = torch.stack([(seeds >> bit & 1).double().mean() for bit in range(63)])
    assert (shares - 0.5).abs().max() < 5 * 0.5 / 4000**0.5  # five standard deviations


def test_no_two_of_200000_indices_share_a_generator() -> None:
    # Hashed seeds of 32 bits would share 4.7 pairs on average.
    assert len({sample_generator(0, index).initial_seed() & 0xFFFFFFFF for index in range(200_000)}) == 200_000


def test_sample_seeds_keep_to_the_bits_torch_reads() -> None:
    assert all(sample_generator(3, index).initial_seed() < 2**32 for index in (0, 1, 10**6, 2**40))


def test_torch_reads_32_bits_of_a_seed() -> None:
    """Why `sample_generator` makes its seeds itself: should torch read more one day, this says so."""
    low, high = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.rand(4, generator=low), torch.rand(4, generator=high))


def test_samples_of_neighbouring_indices_and_seeds_are_uncorrelated() -> None:
    generators = [sample_generator(seed, index) for seed in range(8) for index in range(8)]
    draws = torch.stack([torch.randn(4096, generator=generator) for generator in generators])
    off_diagonal = torch.corrcoef(draws) - torch.eye(len(draws))
    assert off_diagonal.abs().max() < 5.5 / 4096**0.5  # 2016 pairs: 5.5 standard deviations, once in 10,000 tries


def test_keyed_generator_repeats_itself() -> None:
    first, second, other = (torch.rand(4, generator=keyed_generator(*key)) for key in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_generators_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    torch.randn(4, generator=keyed_generator(1))
    torch.randn(4, generator=sample_generator(1, 2))
    assert torch.equal(torch.get_rng_state(), before)
