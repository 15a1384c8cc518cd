"""Batch normalisation over ranks, without processes: `on_two_ranks` runs the layer on either half of a joint batch."""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import models.layers
from models.layers import BatchNorm2d, joint_sum, one_hot


def pictures(count: int = 6) -> Tensor:
    x = torch.randn(count, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x * torch.tensor([0.1, 1.0, 20.0])[:, None, None] + torch.tensor([100.0, 0.0, -3.0])[:, None, None]


def layers() -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Ours and torch's, alike, with scales and shifts unlike those of a new layer."""
    torch.manual_seed(1)
    ours, theirs = BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


class WaitsForTheOtherRank(Exception):  # noqa: N818
    """Raised where a rank needs a sum that the other rank has not brought its term to yet."""


def on_two_ranks(monkeypatch: pytest.MonkeyPatch, layer: BatchNorm2d, x: Tensor) -> Tensor:
    """What the layer gives for the halves of x, each on a rank of its own.

    The k-th sum of a rank is the sum of what both bring to their k-th. A rank runs until it needs a term that
    the other has not brought; then the other runs, and the first begins anew.
    """
    brought: tuple[list[Tensor], list[Tensor]] = ([], [])

    halves = x.chunk(2)

    def run(rank: int) -> Tensor:
        calls = 0

        def joint_sum_of_both(term: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if len(brought[rank]) < calls:
                brought[rank].append(term)
            if len(brought[1 - rank]) < calls:
                raise WaitsForTheOtherRank
            return brought[0][calls - 1] + brought[1][calls - 1]

        monkeypatch.setattr(models.layers, "joint_sum", joint_sum_of_both)
        return ranks[rank](halves[rank])

    ranks = (layer, copy.deepcopy(layer))
    ranks[1].weight, ranks[1].bias = layer.weight, layer.bias
    monkeypatch.setattr(models.layers.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.layers.dist, "get_world_size", lambda: 2)
    outputs: dict[int, Tensor] = {}
    for rank in (0, 1) * 4:  # there are two sums to wait for
        if rank not in outputs:
            with contextlib.suppress(WaitsForTheOtherRank):
                outputs[rank] = run(rank)
    for mine, theirs in zip(ranks[0].buffers(), ranks[1].buffers(), strict=True):
        assert torch.equal(mine, theirs)  # every rank keeps the same statistics
    return torch.cat([outputs[0], outputs[1]])


# float64; the channel of mean 100 and deviation 0.1 costs three of its sixteen digits, and three more in gradients.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def test_two_ranks_normalise_by_the_joint_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = layers()
    joint = on_two_ranks(monkeypatch, ours, pictures())
    torch.testing.assert_close(joint, theirs(pictures()), **CLOSE)
    apart = torch.cat([theirs(half) for half in pictures().chunk(2)])
    assert (joint - apart).abs().max() > 0.01  # the halves' own statistics are others


def test_two_ranks_keep_the_joint_batchs_running_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = layers()
    for _ in range(3):
        on_two_ranks(monkeypatch, ours, pictures())
        theirs(pictures())
    for mine, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, expected, **CLOSE)
    assert ours.num_batches_tracked == 3


def first_and_second_derivatives(layer: nn.BatchNorm2d, forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Of a curved function of the output by input, scale and shift; then of its squared input gradient by the same."""
    x = pictures().requires_grad_()
    places = [x, layer.weight, layer.bias]
    value = torch.sin(forward(x)).sum()
    first = torch.autograd.grad(value, places, create_graph=True)
    return [*first, *torch.autograd.grad(first[0].square().sum(), places)]


def test_two_ranks_have_the_joint_batchs_first_and_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = layers()
    joint = first_and_second_derivatives(ours, lambda x: on_two_ranks(monkeypatch, ours, x))
    for mine, expected in zip(joint, first_and_second_derivatives(theirs, theirs), strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9 * scale)


def test_joint_sum_can_be_differentiated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both ranks hold the same and have the same loss: the sum is twice the tensor, and so is its gradient.
    monkeypatch.setattr(models.layers.dist, "all_reduce", lambda x: x.mul_(2))
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    total = joint_sum(x)
    assert total.tolist() == [2.0, -4.0]
    assert x.tolist() == [1.0, -2.0]
    (first,) = torch.autograd.grad(total.pow(3).sum(), x, create_graph=True)
    assert first.tolist() == [2 * 3 * 2.0**2, 2 * 3 * 4.0**2]
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [2 * 2 * 6 * 2.0, 2 * 2 * 6 * -4.0]


def test_evaluation_on_two_ranks_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (layer.eval() for layer in layers())

    def unreachable(term: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(models.layers.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.layers.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(models.layers, "joint_sum", unreachable)
    assert torch.equal(ours(pictures()), theirs(pictures()))


@pytest.mark.parametrize("training", [True, False])
def test_one_process_takes_torchs_own_layer(training: bool) -> None:
    ours, theirs = (layer.train(training) for layer in layers())
    assert torch.equal(ours(pictures()), theirs(pictures()))
    for mine, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(mine, expected)


def test_two_ranks_normalise_low_precision_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (layer.float() for layer in layers())
    x = pictures().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joint = on_two_ranks(monkeypatch, ours, x)
    assert joint.dtype == torch.bfloat16
    # One rounding to bfloat16, at the end: half a unit in 2^-8.
    torch.testing.assert_close(joint.float(), theirs(x.float()), rtol=2**-8, atol=1e-4)


def test_one_hot_marks_the_label() -> None:
    encoded = one_hot(torch.tensor([2, 0]), 3)
    assert encoded.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert encoded.dtype == torch.float32
