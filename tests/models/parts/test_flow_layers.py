"""Every invertible layer against its own inverse and against autograd's Jacobian, in float64."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from models.parts.flow_layers import (
    ActNorm,
    Chain,
    GlowCoupling,
    Invertible,
    InvertibleLinear,
    Logit,
    MaskedCoupling,
    MultiScale,
    Split,
    Squeeze,
    checkerboard,
    half_of,
    half_of_squeezed,
    initializing,
)
from models.parts.flow_networks import ActNormConv2d, ResidualNetwork, ZeroConv2d, glow_network, vector_network


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scrambled(network: nn.Module) -> nn.Module:
    """With every parameter moved off what it begins as: many layers begin as the identity, which proves nothing."""
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def assert_bijective(layer: Invertible, x: Tensor) -> None:
    """Its inverse undoes it, and log |det| is that of autograd's Jacobian, for each sample of x by itself."""
    y, log_det = layer(x)
    assert log_det.shape == (len(x),)
    torch.testing.assert_close(layer.inverse(y), x, rtol=1e-9, atol=1e-9)
    for sample, claimed in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda s: layer(s[None])[0].flatten(), sample)
        size = sample.numel()
        truth = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
        torch.testing.assert_close(claimed, truth, rtol=1e-9, atol=1e-9)


PICTURE, VECTOR, ODD = (4, 4, 2), (2,), (5,)

LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], Invertible]]] = {
    "actnorm of pictures": (PICTURE, lambda: ActNorm(4)),
    "actnorm of vectors": (VECTOR, lambda: ActNorm(2)),
    "1x1 convolution": (PICTURE, lambda: InvertibleLinear(4)),
    "linear": (ODD, lambda: InvertibleLinear(5)),
    "squeeze": ((1, 4, 6), Squeeze),
    "glow coupling": (PICTURE, lambda: GlowCoupling(glow_network(2, 4, 6), 0.0)),
    "glow coupling, bounded": (PICTURE, lambda: GlowCoupling(glow_network(2, 4, 6), 0.5)),
    "glow coupling, odd channels": ((3, 3, 3), lambda: GlowCoupling(glow_network(2, 2, 6), 0.2)),
    "glow coupling of vectors": (ODD, lambda: GlowCoupling(vector_network(3, 4, 6), 0.2)),
    "checkerboard coupling": (
        (2, 3, 4),
        lambda: MaskedCoupling(checkerboard(3, 4, True), 2, ResidualNetwork(2, 4, 5, 2)),
    ),
    "channel coupling": (
        PICTURE,
        lambda: MaskedCoupling(half_of(PICTURE, False), 4, ResidualNetwork(4, 8, 5, 1)),
    ),
    "masked coupling of vectors": (ODD, lambda: MaskedCoupling(half_of(ODD, True), 5, vector_network(5, 10, 6))),
    "chain": (ODD, lambda: Chain([ActNorm(5), InvertibleLinear(5), ActNorm(5)])),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_bijection_whose_determinant_is_the_jacobians(name: str) -> None:
    shape, make = LAYERS[name]
    layer = scrambled(make())
    assert isinstance(layer, Invertible)
    assert_bijective(layer, torch.randn(3, *shape))


def test_the_logit_is_a_bijection_on_its_interval_and_finite_at_both_ends() -> None:
    layer = Logit(0.05)
    assert_bijective(layer, torch.rand(3, 1, 3, 3) * 2 - 1)
    ends, log_det = layer(torch.tensor([[[[-1.0, 1.0]]]]))
    torch.testing.assert_close(ends.flatten(), torch.tensor([math.log(0.05 / 0.95), math.log(0.95 / 0.05)]))
    assert log_det.isfinite().all()


def test_couplings_leave_what_they_read() -> None:
    x = torch.randn(2, 4, 4, 4)
    glow = scrambled(GlowCoupling(glow_network(2, 4, 6), 0.0))
    y = glow(x)[0]
    assert torch.equal(y[:, :2], x[:, :2])
    assert (y[:, 2:] != x[:, 2:]).all()
    for mask in (checkerboard(4, 4, True), half_of((4, 4, 4), False)):
        masked = scrambled(MaskedCoupling(mask, 4, ResidualNetwork(4, 8, 5, 1)))
        same = (masked(x)[0] == x).all(dim=0)
        assert torch.equal(same, mask.bool().expand_as(same))


def test_glows_scale_is_a_sigmoid_of_two_more_above_its_least() -> None:
    for least in (0.0, 0.5):
        layer = GlowCoupling(glow_network(1, 2, 4), least)  # its network begins as zero
        y = layer(torch.ones(1, 2, 2, 2))[0]
        scale = least + (1 - least) / (1 + math.exp(-2))
        torch.testing.assert_close(y[:, 1], torch.full((1, 2, 2), scale))


def test_realnvps_coupling_by_hand() -> None:
    """x exp(range tanh(s)) + t where the mask is 0, of the network's t and s (its eq. 9 and section 4.1)."""
    network = nn.Linear(2, 4)
    nn.init.zeros_(network.weight)
    assert network.bias is not None
    network.bias.data = torch.tensor([9.0, 0.3, 9.0, 2.5])
    layer = MaskedCoupling(half_of((2,), True), 2, network)
    layer.range.data = torch.tensor([9.0, 0.7])
    y, log_det = layer(torch.tensor([[1.5, -0.5]]))
    assert y.tolist() == [[1.5, pytest.approx(-0.5 * math.exp(0.7 * math.tanh(2.5)) + 0.3)]]
    assert log_det.item() == pytest.approx(0.7 * math.tanh(2.5))


def test_masks_take_turns() -> None:
    assert checkerboard(2, 3, True).tolist() == [[[1, 0, 1], [0, 1, 0]]]
    assert torch.equal(checkerboard(5, 4, True) + checkerboard(5, 4, False), torch.ones(1, 5, 4))
    assert half_of((5,), True).tolist() == [1, 1, 1, 0, 0]
    assert half_of((2, 7, 7), False).tolist() == [[[0]], [[1]]]
    # The corners' order is upper left, lower right, upper right, lower left: the upper two; of three colours, the first
    # and the second's upper two.
    assert half_of_squeezed(1, True).flatten().tolist() == [1, 0, 1, 0]
    assert half_of_squeezed(3, True).flatten().tolist() == [1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0]
    assert torch.equal(half_of_squeezed(2, True) + half_of_squeezed(2, False), torch.ones(8, 1, 1))


def test_half_of_the_squeezed_channels_are_a_checkerboard_of_the_pixels() -> None:
    layer = Squeeze()
    y = torch.zeros(1, 4, 3, 3)
    y[:, :2] = 1
    assert torch.equal(layer.inverse(y)[0], checkerboard(6, 6, True))
    colours = torch.randn(1, 3, 2, 2)
    assert torch.equal(layer(colours)[0][0, :3, 0, 0], colours[0, :, 0, 0])


def test_the_factors_make_the_rotation_that_they_begin_with() -> None:
    layer = InvertibleLinear(6)
    w = layer.matrix()
    torch.testing.assert_close(w @ w.T, torch.eye(6))
    torch.testing.assert_close(layer.log_scale.sum(), torch.zeros(()), rtol=0, atol=1e-12)
    assert (w - torch.eye(6)).abs().max() > 0.1
    lower, upper = layer.factors()
    torch.testing.assert_close(layer.permutation @ lower @ upper, w)
    assert torch.equal(lower, lower.tril())
    assert torch.equal(upper, upper.triu())


def test_the_permutation_and_the_signs_are_not_learned() -> None:
    layer = InvertibleLinear(4)
    signs = layer.sign.clone()
    layer(torch.randn(5, 4))[0].square().sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"lower", "upper", "log_scale"}
    scrambled(layer)
    assert torch.equal(layer.factors()[1].diagonal().sign(), signs)


# ActNorm's first batch.


def test_actnorm_gives_the_first_batch_mean_0_and_variance_1_and_no_later_one() -> None:
    for shape, axes in (((64, 3), 0), ((8, 3, 5, 4), (0, 2, 3))):
        layer, x = ActNorm(3), 3 * torch.randn(shape) + 7
        with initializing(layer):
            y = layer(x)[0]
        torch.testing.assert_close(y.mean(axes), torch.zeros(3), rtol=0, atol=1e-9)
        torch.testing.assert_close(y.var(axes, correction=0), torch.ones(3), rtol=0, atol=1e-5)
        with initializing(layer):
            again = layer(10 * x)[0]
        assert again.var(axes, correction=0).min() > 50
        torch.testing.assert_close(layer.inverse(again), 10 * x)


def test_outside_of_initializing_nothing_is_set() -> None:
    layer, x = ActNorm(3), torch.randn(4, 3) + 5
    assert torch.equal(layer(x)[0], x)
    assert not layer.initialized


def test_layers_are_set_one_after_another() -> None:
    chain = Chain([ActNorm(4), InvertibleLinear(4), GlowCoupling(glow_network(2, 4, 6), 0.0), ActNorm(4)])
    x = 5 * torch.randn(6, 4, 3, 3) - 3
    with initializing(chain):
        y = chain(x)[0]
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-9)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(4), rtol=0, atol=1e-4)
    assert all(module.initialized for module in chain.modules() if isinstance(module, ActNorm))


def test_a_convolution_with_actnorm_is_the_two_in_turn() -> None:
    layer, x = ActNormConv2d(2, 3, 3), torch.randn(4, 2, 5, 5)
    with initializing(layer):
        y = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-9)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(y, layer.norm(layer.conv(x))[0])


def test_a_zero_convolution_begins_as_zero_and_scales_by_the_third_power() -> None:
    layer, x = ZeroConv2d(2, 3), torch.randn(2, 2, 4, 4)
    assert (layer(x) == 0).all()
    layer.bias.data.fill_(1)
    layer.log_scale.data.fill_(0.5)
    torch.testing.assert_close(layer(x), torch.full((2, 3, 4, 4), math.exp(1.5)))


# Several scales.


def two_levels(learned: bool) -> MultiScale:
    """(1, 4, 4) to 8 values that leave, and 8 = 2 channels of 2x2 squeezed once more."""
    levels = [Chain([Squeeze(), InvertibleLinear(4), ActNorm(4)]), Chain([Squeeze(), ActNorm(8)])]
    return MultiScale(levels, [Split(ZeroConv2d(2, 4) if learned else None)], [(2, 2, 2), (8, 1, 1)])


@pytest.mark.parametrize("learned", [True, False])
def test_several_scales_are_a_bijection(learned: bool) -> None:
    flow = scrambled(two_levels(learned))
    assert isinstance(flow, Invertible)
    assert_bijective(flow, torch.randn(2, 1, 4, 4))


def test_the_noise_that_leaves_first_comes_first() -> None:
    flow = MultiScale([Chain([Squeeze()]), Chain([Squeeze()])], [Split(None)], [(2, 2, 2), (8, 1, 1)])
    x = torch.arange(16.0).view(1, 1, 4, 4)
    noise = flow(x)[0][0]
    # Of each 2x2 block, the pixels off its diagonal leave first: upper right, then lower left.
    assert noise[:8].tolist() == [1, 3, 9, 11, 4, 6, 12, 14]
    assert sorted(noise[8:].tolist()) == [0, 2, 5, 7, 8, 10, 13, 15]
    assert torch.equal(flow.inverse(noise[None]), x)


def test_a_split_turns_what_leaves_to_standard_noise_by_what_stays() -> None:
    split = scrambled(Split(ZeroConv2d(2, 4)))
    assert isinstance(split, Split)
    x = torch.randn(2, 4, 3, 3)
    kept, noise, log_det = split(x)
    assert torch.equal(kept, x[:, :2])
    assert split.prior is not None
    mean, log_scale = split.prior(kept).chunk(2, dim=1)
    # log N(x; mean, scale) by torch's own density.
    normal = torch.distributions.Normal(mean, log_scale.exp()).log_prob(x[:, 2:]).flatten(1).sum(1)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(noise).flatten(1).sum(1)
    torch.testing.assert_close(standard + log_det, normal)


# Number formats.


def test_under_autocast_only_the_networks_of_couplings_take_16_bits() -> None:
    torch.set_default_dtype(torch.float32)
    flow = scrambled(
        Chain([ActNorm(4), InvertibleLinear(4), GlowCoupling(glow_network(2, 4, 8), 0.5), Squeeze(), ActNorm(16)])
    )
    x = torch.randn(3, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = flow(x)
        back = flow.inverse(y)  # type: ignore[operator]
        linear = InvertibleLinear(4)
        torch.testing.assert_close(linear.inverse(linear(x)[0]), x, rtol=1e-5, atol=1e-5)
    assert (y.dtype, log_det.dtype, back.dtype) == (torch.float32,) * 3
    exact, exact_log_det = flow(x)
    assert not torch.equal(y, exact), "the networks were expected to compute in bfloat16"
    torch.testing.assert_close(log_det, exact_log_det, rtol=0.02, atol=0.1)
