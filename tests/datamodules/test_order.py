"""The order of training examples."""

import itertools

import pytest
import torch

from datamodules.order import OrderedBatches, keyed_generator, positions


def batches(start: int, batch_per_rank: int, rank: int = 0, world_size: int = 1, size: int = 10) -> OrderedBatches:
    return OrderedBatches(size, 7, lambda: start, lambda position: batch_per_rank * world_size, rank, world_size)


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_every_epoch_is_a_permutation(size: int) -> None:
    for epoch in range(4):
        indices = positions(3, epoch * size, (epoch + 1) * size, size)
        assert indices.dtype == torch.int64
        assert torch.equal(indices.sort().values, torch.arange(size))


def test_epochs_and_seeds_differ() -> None:
    drawn = {
        tuple(positions(seed, epoch * 50, epoch * 50 + 50, 50).tolist()) for seed in range(20) for epoch in range(20)
    }
    assert len(drawn) == 400


def test_first_example_is_uniform_over_epochs() -> None:
    """Neighbouring keys must not give related permutations: chi-squared of the first example over 4,000 epochs."""
    counts = torch.bincount(torch.stack([positions(0, e * 8, e * 8 + 1, 8)[0] for e in range(4000)]), minlength=8)
    chi_squared = ((counts - 500.0) ** 2 / 500).sum()
    assert chi_squared < 24.3  # 7 degrees of freedom, p = 0.001


def test_keys_are_kept_apart() -> None:
    seeds = {keyed_generator(*key).initial_seed() for key in [(1, 23), (12, 3), (123,), ("a", 1), ("a", 2), (-1, 0)]}
    assert len(seeds) == 6


def test_the_sequence_is_the_same_from_any_start() -> None:
    whole = positions(5, 0, 45, 10).tolist()
    for start in (0, 1, 9, 10, 11, 29, 30):
        assert positions(5, start, start + 15, 10).tolist() == whole[start : start + 15]


def test_positions_may_be_none_but_not_nonsense() -> None:
    assert positions(0, 4, 4, 10).shape == (0,)
    for start, stop, size in [(0, 1, 0), (-1, 1, 10), (3, 2, 10)]:
        with pytest.raises(ValueError, match="needs 0 <= start <= stop"):
            positions(0, start, stop, size)


def test_a_callers_changes_do_not_reach_the_cached_permutation() -> None:
    before = positions(0, 0, 10, 10)
    kept = before.clone()
    before.zero_()
    assert torch.equal(positions(0, 0, 10, 10), kept)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_joint_batch_by_strides(world_size: int) -> None:
    joint = itertools.islice(batches(4, 6), 8)
    ranks = [batches(4, 6 // world_size, rank, world_size) for rank in range(world_size)]
    for whole, *parts in zip(joint, *ranks, strict=False):
        assert [len(part) for part in parts] == [6 // world_size] * world_size
        assert torch.equal(torch.stack(parts, 1).flatten(), whole)


@pytest.mark.parametrize("world_size", [2, 3])
def test_micro_batches_of_all_ranks_are_those_of_one(world_size: int) -> None:
    """A joint batch of 24 in 4 micro-batches: the k-th of all ranks together are the k-th of one process."""
    whole = next(iter(batches(0, 24, size=100))).chunk(4)
    parts = [next(iter(batches(0, 24 // world_size, r, world_size, size=100))).chunk(4) for r in range(world_size)]
    for k in range(4):
        assert set(torch.cat([part[k] for part in parts]).tolist()) == set(whole[k].tolist())


def test_a_batch_may_span_epochs_and_a_change_of_size_repeats_nothing() -> None:
    first = list(itertools.islice(batches(0, 7), 3))
    then = list(itertools.islice(batches(21, 3), 3))
    assert torch.equal(torch.cat(first + then), positions(7, 0, 30, 10))
    assert torch.equal(next(iter(batches(5, 25))), positions(7, 5, 30, 10))


def test_it_resumes_within_an_epoch() -> None:
    whole = list(itertools.islice(batches(0, 4), 10))
    resumed = list(itertools.islice(batches(6 * 4, 4), 4))
    assert all(torch.equal(a, b) for a, b in zip(whole[6:], resumed, strict=True))


def test_a_second_iteration_goes_on_where_training_stands() -> None:
    samples_seen = 0
    sampler = OrderedBatches(10, 7, lambda: samples_seen, lambda position: 4, 0, 1)
    next(iter(sampler))
    samples_seen = 8
    assert torch.equal(next(iter(sampler)), positions(7, 8, 12, 10))


def shrinking(position: int) -> int:
    """Steps of 24 before position 100, where the last is cut short, and of 6 from there on."""
    return min(24, 100 - position) if position < 100 else 6


@pytest.mark.parametrize("world_size", [1, 2])
def test_steps_of_changing_size_are_shared_out_alike_and_leave_nothing_out(world_size: int) -> None:
    ranks = [OrderedBatches(30, 7, lambda: 0, shrinking, rank, world_size) for rank in range(world_size)]
    steps = [torch.stack(parts, 1).flatten() for parts in itertools.islice(zip(*ranks, strict=True), 8)]
    assert [len(step) for step in steps] == [24, 24, 24, 24, 4, 6, 6, 6]
    assert torch.equal(torch.cat(steps), positions(7, 0, 118, 30))


@pytest.mark.parametrize("done", range(1, 8))
def test_steps_of_changing_size_go_on_from_wherever_a_run_stopped(done: int) -> None:
    whole = list(itertools.islice(OrderedBatches(30, 7, lambda: 0, shrinking, 0, 1), 8))
    resumed = OrderedBatches(30, 7, lambda: sum(map(len, whole[:done])), shrinking, 0, 1)
    for a, b in zip(whole[done:], resumed, strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("joint", [0, 9])
def test_a_step_that_ranks_cannot_share_is_an_error(joint: int) -> None:
    with pytest.raises(ValueError, match=f"a step of {joint} samples cannot be shared by 2 devices"):
        next(iter(OrderedBatches(30, 7, lambda: 0, lambda position: joint, 0, 2)))


def test_it_has_no_length() -> None:
    with pytest.raises(TypeError):
        len(batches(0, 4))  # type: ignore[arg-type]
