"""Batch normalisation over ranks, without processes: `on_two_ranks` runs the layer on either half of a joint batch.
Then its conditional kind and its statistics, spectral norms, and attention, by hand.
"""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models.parts.ranks
from models.parts.layers import (
    BatchNorm2d,
    ConditionalBatchNorm2d,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    normalising_by,
    one_hot,
    spectrally_normalised,
    standing_statistics,
)
from models.parts.ranks import joint_sum


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

        monkeypatch.setattr(models.parts.ranks, "joint_sum", joint_sum_of_both)
        return ranks[rank](halves[rank])

    ranks = (layer, copy.deepcopy(layer))
    if layer.affine:
        ranks[1].weight, ranks[1].bias = layer.weight, layer.bias
    monkeypatch.setattr(models.parts.ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.parts.ranks.dist, "get_world_size", lambda: 2)
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
    monkeypatch.setattr(models.parts.ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.parts.ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(models.parts.ranks.dist, "all_reduce", lambda x: x.mul_(2))
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

    monkeypatch.setattr(models.parts.ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.parts.ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(models.parts.ranks, "joint_sum", unreachable)
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


def test_two_ranks_normalise_without_scale_and_shift_too(monkeypatch: pytest.MonkeyPatch) -> None:
    joint = on_two_ranks(monkeypatch, BatchNorm2d(3, affine=False).double(), pictures())
    torch.testing.assert_close(joint, nn.BatchNorm2d(3, affine=False).double()(pictures()), **CLOSE)


# Conditional batch normalisation, and statistics re-estimated.


def conditional(kind: str) -> ConditionalBatchNorm2d:
    torch.manual_seed(2)
    parts = [nn.Embedding(4, 3) if kind == "label" else nn.Linear(5, 3, bias=False) for _ in range(2)]
    return ConditionalBatchNorm2d(3, parts[0], parts[1], eps=1e-4).double()


@pytest.mark.parametrize("kind", ["label", "vector"])
def test_conditional_normalisation_by_hand(kind: str) -> None:
    layer, x = conditional(kind), pictures()
    c = torch.tensor([0, 3, 3, 1, 2, 0]) if kind == "label" else torch.randn(6, 5, dtype=torch.float64)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    table = [part.weight if kind == "label" else None for part in (layer.gain, layer.bias)]
    rows = [
        t[c] if t is not None else c @ part.weight.T for t, part in zip(table, (layer.gain, layer.bias), strict=True)
    ]
    expected = (x - mean) / (variance + 1e-4).sqrt() * (1 + rows[0])[:, :, None, None] + rows[1][:, :, None, None]
    torch.testing.assert_close(layer(x, c), expected, **CLOSE)


def test_conditional_normalisation_is_joint_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, c = conditional("label"), torch.tensor([0, 3, 3, 1, 2, 0])
    expected = layer(pictures(), c)
    normalised = on_two_ranks(monkeypatch, BatchNorm2d(3, eps=1e-4, affine=False).double(), pictures())
    scale, shift = 1 + layer.gain(c), layer.bias(c)
    torch.testing.assert_close(normalised * scale[:, :, None, None] + shift[:, :, None, None], expected, **CLOSE)


def test_standing_statistics_are_the_batches_mean_and_leave_no_trace() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(BatchNorm2d(3), nn.Conv2d(3, 2, 1), BatchNorm2d(2)).double()
    network(pictures())
    network.eval()
    before = copy.deepcopy(network.state_dict())
    batches = [(pictures() + shift,) for shift in (0.0, 5.0)]
    statistics = standing_statistics(network, batches)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module.training for module in network.modules())

    moments: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for (x,) in batches:
        inner = network[1](F.batch_norm(x, None, None, network[0].weight, network[0].bias, True, eps=network[0].eps))
        for found, value in zip(moments, (x, inner), strict=True):
            found.append((value.mean((0, 2, 3)), value.var((0, 2, 3))))
    for (mean, variance), found in zip(statistics, moments, strict=True):
        torch.testing.assert_close(mean, torch.stack([m for m, _ in found]).mean(0), **CLOSE)
        torch.testing.assert_close(variance, torch.stack([v for _, v in found]).mean(0), **CLOSE)

    with normalising_by(network, statistics):
        (mean, variance), x = statistics[0], pictures()
        expected = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        torch.testing.assert_close(network[0](x), expected, **CLOSE)
    assert torch.equal(network[0].running_mean, before["0.running_mean"])


def test_standing_statistics_wait_for_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(term: Tensor) -> Tensor:
        raise AssertionError

    expected = standing_statistics(BatchNorm2d(3).double(), [(pictures(),)])
    monkeypatch.setattr(models.parts.ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.parts.ranks.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(models.parts.ranks, "joint_sum", unreachable)
    torch.testing.assert_close(standing_statistics(BatchNorm2d(3).double(), [(pictures(),)]), expected)


def test_an_error_while_statistics_stand_brings_the_networks_own_back() -> None:
    network = BatchNorm2d(3).double().eval()
    own = network.running_mean
    with pytest.raises(IndexError), normalising_by(network, [(torch.ones(3), torch.ones(3))]):
        raise IndexError
    with pytest.raises(ValueError, match="4D"):
        standing_statistics(network, [(torch.ones(2, 3),)])
    assert network.running_mean is own
    assert (network.training, network.momentum, network.joint) == (False, 0.1, True)


# Spectral norms.

Spectral = SpectralConv2d | SpectralLinear | SpectralEmbedding


def spectral() -> list[Spectral]:
    torch.manual_seed(4)
    return [SpectralConv2d(3, 6, 3), SpectralLinear(7, 5), SpectralEmbedding(6, 4)]


def largest(weight: Tensor) -> float:
    return float(torch.linalg.svdvals(weight.detach().flatten(1))[0])


@pytest.mark.parametrize("layer", spectral(), ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_weights_singular_value_is_found_and_divided_out(layer: Spectral, scale: float) -> None:
    layer = copy.deepcopy(layer).double()
    layer.weight.data *= scale
    x = torch.tensor([0, 5]) if isinstance(layer, SpectralEmbedding) else torch.randn(2, 3, 7, 7, dtype=torch.float64)
    for _ in range(300):
        layer(x)
    weight = spectrally_normalised(layer.weight, layer.u, layer.eps, update=False)
    assert largest(weight) == pytest.approx(1.0, rel=1e-9)
    torch.testing.assert_close(weight * largest(layer.weight), layer.weight, rtol=1e-9, atol=0)
    by_hand = {
        "SpectralConv2d": lambda: F.conv2d(x, weight, layer.bias, padding=1),
        "SpectralLinear": lambda: x @ weight.T + layer.bias,
        "SpectralEmbedding": lambda: weight[x],
    }[type(layer).__name__]()
    torch.testing.assert_close(layer(x), by_hand, **CLOSE)


def test_one_iteration_a_pass_in_training_and_none_kept_in_evaluation() -> None:
    layer = spectral()[1].double()
    weight, u = layer.weight.detach(), layer.u.clone()
    x = torch.randn(2, 7, dtype=torch.float64)
    v = weight.T @ u / (weight.T @ u).norm()
    found = weight @ v / (weight @ v).norm()
    expected = x @ weight.T / (found @ weight @ v) + layer.bias
    torch.testing.assert_close(layer.eval()(x), expected, **CLOSE)
    assert torch.equal(layer.u, u)
    torch.testing.assert_close(layer.train()(x), expected, **CLOSE)
    torch.testing.assert_close(layer.u, found, **CLOSE)


def test_spectral_gradient_is_that_of_finite_differences() -> None:
    layer = spectral()[0].double().eval()
    layer.u.copy_(torch.linalg.svd(layer.weight.flatten(1))[0][:, 0])  # elsewhere u and v, held constant, do matter
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    step, place = 1e-6, torch.zeros_like(layer.weight)
    place[1, 2, 0, 1] = step
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight = layer.weight + sign * place
            normalised = weight / torch.linalg.svdvals(weight.flatten(1))[0]
            values.append(F.conv2d(x, normalised, layer.bias, padding=1).square().sum())
    # Central differences err by step^2 times a third derivative, and by 1e-16 / step.
    torch.testing.assert_close(gradient[1, 2, 0, 1], (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_two_passes_before_the_backward_pass_and_frozen_weights_are_no_trouble() -> None:
    layer = spectral()[1]
    x = torch.randn(2, 7, requires_grad=True)
    (layer(x).sum() + layer(2 * x).sum()).backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    u = layer.u.clone()
    layer(x).sum().backward()
    assert not torch.equal(layer.u, u)


def test_the_norm_stays_in_float32_under_autocast_and_in_any_layout() -> None:
    x = torch.randn(2, 3, 5, 5)
    plain, low, last = (copy.deepcopy(spectral()[0]) for _ in range(3))
    last = last.to(memory_format=torch.channels_last)
    expected = plain(x)
    torch.testing.assert_close(last(x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = low(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-6, atol=2**-6)
    assert torch.equal(low.u, plain.u)
    torch.testing.assert_close(last.u, plain.u)


def test_a_weight_of_zeros_is_no_division_by_zero() -> None:
    weight = torch.zeros(3, 2)
    assert not spectrally_normalised(weight, torch.ones(3), 1e-12, update=False).isinf().any()


# Attention.
