"""RealNVP and Glow: bijections, densities that integrate to one, bits of bytes, and what the contract asks for."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from media.pictures import from_levels
from models import load
from models.flow import Flow, Glow, RealNVP
from models.parts.flow_layers import ActNorm, Chain, MaskedCoupling, MultiScale, Squeeze
from models.training.base import Batch
from models.training.capabilities import Encodes, HasLatents, HasLikelihood
from models.training.randomness import sample_generator
from settings.likelihood import LikelihoodSettings
from settings.sampling import FlowSettings
from settings.training import Optimization

Fit = Callable[..., lightning.Trainer]
Batches = Callable[..., list[Batch]]

FLOWS: dict[str, Callable[[], Flow]] = {
    "RealNVP": lambda: RealNVP((1, 4, 4), levels=2, couplings=2, width=4, blocks=1),
    "Glow": lambda: Glow((2, 8, 8), levels=2, steps_per_level=1, width=4),
    "RealNVP of points": lambda: RealNVP((2,), levels=1, couplings=4, width=8),
    "Glow of points": lambda: Glow((2,), levels=1, steps_per_level=4, width=8),
}


def make(name: str, scramble: float = 0.2) -> Flow:
    """With every parameter moved off the values that it begins with."""
    torch.manual_seed(0)
    model = FLOWS[name]()
    for parameter in model.network.parameters():
        parameter.data += scramble * torch.randn_like(parameter)
    return model


def bytes_of(model: Flow, count: int) -> Tensor:
    """Pictures of random bytes, or random points."""
    generator = torch.Generator().manual_seed(3)
    if not model.of_pictures:
        return torch.randn(count, *model.data_shape, generator=generator)
    return from_levels(torch.randint(256, (count, *model.data_shape), generator=generator))


# Mathematics, in float64.


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_a_bijection_whose_determinant_is_the_jacobians(name: str) -> None:
    model = make(name).double()
    x = torch.rand(2, *model.data_shape, dtype=torch.float64) * 2 - 1
    noise, log_det = model.network(x)
    assert noise.shape == (2, model.latent_dim)
    torch.testing.assert_close(model.network.inverse(noise), x, rtol=1e-7, atol=1e-7)
    jacobian = torch.autograd.functional.jacobian(lambda s: model.network(s[None])[0][0], x[0])
    truth = torch.linalg.slogdet(jacobian.reshape(model.latent_dim, model.latent_dim)).logabsdet
    torch.testing.assert_close(log_det[0], truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["RealNVP of points", "Glow of points"])
def test_a_density_of_the_plane_integrates_to_one(name: str) -> None:
    model = make(name).double()
    with torch.no_grad():
        samples = model.network.inverse(torch.randn(20_000, 2, dtype=torch.float64))
        low, high = samples.amin(0) - 1, samples.amax(0) + 1
        axes = [torch.linspace(float(a), float(b), 900, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        area = math.prod(float(axis[1] - axis[0]) for axis in axes)
        total = model.log_density(torch.cartesian_prod(*axes)).exp().sum() * area
    assert abs(float(total) - 1) < 0.01


@pytest.mark.parametrize("name", ["RealNVP of points", "Glow of points"])
def test_samples_follow_the_density(name: str) -> None:
    """The entropy of its own samples, estimated by the density, is that of noise less the mean log |det|."""
    model = make(name).double()
    with torch.no_grad():
        noise = torch.randn(4000, 2, dtype=torch.float64)
        samples = model.network.inverse(noise)
        by_noise = -0.5 * noise.square().sum(1) - math.log(2 * math.pi) + model.network(samples)[1]
        torch.testing.assert_close(model.log_density(samples), by_noise, rtol=1e-8, atol=1e-8)
        # Within a box, as many samples as the density holds there.
        low, high = samples.quantile(0.25, dim=0), samples.quantile(0.75, dim=0)
        share = ((samples > low) & (samples < high)).all(1).double().mean()
        inside = low + (high - low) * torch.rand(20_000, 2, dtype=torch.float64)
        mass = model.log_density(inside).exp().mean() * (high - low).prod()
    assert abs(share - mass) < 4 * math.sqrt(float(mass) / 4000)


class _ToNoise(nn.Module):
    """A stand-in for a network: values uniform over a part of [-1, 1] become standard normal noise, exactly."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        share = ((x - self.low) / (self.high - self.low)).flatten(1)
        noise = torch.special.ndtri(share)
        log_normal = -0.5 * noise.square() - 0.5 * math.log(2 * math.pi)
        return noise, (-math.log(self.high - self.low) - log_normal).sum(1)


@pytest.mark.parametrize(("levels", "bits"), [(256, 8.0), (64, 6.0), (1, 0.0)])
def test_bits_of_a_known_distribution_of_bytes(levels: int, bits: float) -> None:
    """Of bytes that are equally likely to be any of the first 256, 64 or 1 values: 8, 6 and 0 bits each."""
    model = Glow((1, 4, 4), levels=1, steps_per_level=1, width=4)
    model.network = _ToNoise(-1.0, -1.0 + 2 * levels / 256)  # type: ignore[assignment]
    x = from_levels(torch.randint(levels, (5, 1, 4, 4)))
    assert isinstance(model, HasLikelihood)
    for draws in (1, 3):
        log_prob = model.log_prob(x, settings=LikelihoodSettings(draws=draws))
        torch.testing.assert_close(
            -log_prob / (16 * math.log(2)), torch.full((5,), bits, dtype=torch.float64), atol=1e-4, rtol=0
        )
    torch.testing.assert_close(model.loss(x, torch.zeros(5)), torch.full((5,), bits), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["RealNVP of points", "Glow of points"])
def test_the_likelihood_of_a_vector_is_its_density(name: str) -> None:
    model = make(name).double()
    assert model.likelihood_kind == "exact"
    x = bytes_of(model, 3).double()
    torch.testing.assert_close(model.log_prob(x), model.log_density(x).detach())


@pytest.mark.parametrize("name", ["RealNVP", "Glow"])
def test_draws_average_probabilities_and_batches_do_not_matter(name: str) -> None:
    model = make(name)
    assert model.likelihood_kind == "lower bound, uniform dequantisation"
    x, labels = bytes_of(model, 6), torch.zeros(6, dtype=torch.int64)
    joint = model.log_prob(x, settings=LikelihoodSettings(draws=3))
    generators = [sample_generator(0, i) for i in range(6)]
    with torch.no_grad():
        single = torch.stack([model.log_likelihood(x, labels, generators, LikelihoodSettings()) for _ in range(3)])
    assert (single.std(0) > 0.001).all()
    torch.testing.assert_close(joint, single.double().logsumexp(0) - math.log(3), rtol=1e-6, atol=1e-4)
    assert (joint > single.mean(0)).all()  # so more draws bring the bound closer
    alone = torch.cat([model.log_prob(x[i : i + 1], indices=[i]) for i in range(6)])
    torch.testing.assert_close(alone, single[0], rtol=1e-5, atol=1e-3)
    assert not torch.equal(model.log_prob(x, seed=1), single[0])


def test_probabilities_of_pictures_of_one_byte_each_add_up_to_at_most_one() -> None:
    """A RealNVP of two grey pixels: over all 65,536 pictures the bound's probabilities add up to nearly one."""
    torch.manual_seed(0)
    model = RealNVP((1, 1, 2), levels=1, couplings=1, width=4, blocks=1)
    for parameter in model.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    grid = torch.cartesian_prod(torch.arange(256), torch.arange(256)).view(-1, 1, 1, 2)
    with torch.no_grad():
        middle = torch.full(grid.shape, 0.5)
        total = model._with_noise(from_levels(grid), middle, "raw").double().exp().sum()
    # What is missing lies outside of the interval: the logit transform stretches it to 0.05 and 0.95 only.
    line = torch.linspace(-1, 1, 513, dtype=torch.float64)
    line = (line[1:] + line[:-1]) / 2
    with torch.no_grad():
        fine = torch.cartesian_prod(line, line).view(-1, 1, 1, 2).float()
        integral = model.log_density(fine).double().exp().sum() * (2 / 512) ** 2
    assert 0.1 < total < 1
    assert abs(total - integral) < 1e-3


# The contract.


@pytest.mark.parametrize("name", FLOWS)
def test_samples_are_decoded_latents_and_do_not_depend_on_the_batch(name: str) -> None:
    model = make(name, 0.05)
    assert isinstance(model, HasLatents)
    x = model.sample(range(4), seed=5)
    assert x.shape == (4, *model.data_shape)
    latents = model.draw_latents(range(4), seed=5)
    torch.testing.assert_close(model.decode(latents), x)
    torch.testing.assert_close(torch.cat([model.sample([i], seed=5) for i in range(4)]), x, rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.sample(range(4), seed=6), x)
    if model.of_pictures:
        assert x.abs().max() <= 1


@pytest.mark.parametrize("name", FLOWS)
def test_temperature_scales_the_noise(name: str) -> None:
    model = make(name, 0.05)
    warm, cool = (model.draw_latents(range(3), settings=FlowSettings(temperature=t)) for t in (1.0, 0.5))
    torch.testing.assert_close(cool, warm / 2)
    torch.testing.assert_close(model.sample(range(3), settings=FlowSettings(temperature=0.5)), model.decode(cool))
    cold = model.sample(range(3), settings=FlowSettings(temperature=0.0))
    torch.testing.assert_close(cold[0], cold[1])


@pytest.mark.parametrize("name", FLOWS)
def test_what_is_encoded_comes_back(name: str) -> None:
    model = make(name, 0.05)
    assert isinstance(model, Encodes)
    x = bytes_of(model, 4)
    latents = model.encode(x)
    assert latents.shape == (4, model.latent_dim)
    torch.testing.assert_close(model.decode(latents), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.reconstruct(x), x, rtol=1e-4, atol=1e-4)


def test_decoding_can_be_differentiated_by_the_latents() -> None:
    model = make("Glow", 0.05)
    latents = (0.1 * model.draw_latents(range(2))).requires_grad_()
    model.decode_with_graph(latents).sum().backward()
    assert latents.grad is not None
    assert (latents.grad != 0).any(dim=1).all()


@pytest.mark.parametrize("name", ["RealNVP", "Glow"])
def test_pictures_stay_whole_within_float32s_rounding(name: str) -> None:
    shape = (3, 32, 32)
    torch.manual_seed(0)
    model = {
        "RealNVP": lambda: RealNVP(shape, levels=3, couplings=2, width=8, blocks=1),
        "Glow": lambda: Glow(shape, levels=3, steps_per_level=4, width=8),
    }[name]()
    x = bytes_of(model, 4)
    model.on_first_batch(x, torch.zeros(4))
    torch.testing.assert_close(model.reconstruct(x), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [28, 32, 64])
def test_networks_work_at_the_sizes_of_the_data_sets(side: int) -> None:
    for model in (
        RealNVP((1, side, side), levels=2, couplings=1, width=4, blocks=1),
        Glow((1, side, side), levels=2, steps_per_level=1, width=4),
    ):
        x = bytes_of(model, 2)
        assert model.loss(x, torch.zeros(2)).isfinite().all()
        assert model.sample(range(2)).shape == (2, 1, side, side)


# Training.


def tiny(average: bool = True) -> Glow:
    torch.manual_seed(0)
    optimization = Optimization(lr=1e-2, ema_halflife_kimg=0.02 if average else None, clip_norm=50.0)
    return Glow((1, 4, 4), levels=2, steps_per_level=2, width=8, optimization=optimization)


def first_actnorm(model: Flow) -> ActNorm:
    return next(module for module in model.network.modules() if isinstance(module, ActNorm))


def test_the_first_batch_sets_actnorm_once_and_not_after_a_resume(fit: Fit, batches: Batches, tmp_path: Path) -> None:
    model, calls = tiny(), list[int]()
    original = model.on_first_batch
    model.on_first_batch = lambda x, labels: (calls.append(len(x)), original(x, labels))[1]  # type: ignore[method-assign]
    trainer = fit(model, batches(3, 8))
    assert calls == [8]
    assert first_actnorm(model).initialized
    assert model.average is not None
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    resumed, again = tiny(), list[int]()
    resumed.on_first_batch = lambda x, labels: again.append(len(x))  # type: ignore[method-assign]
    fit(resumed, batches(4, 8), ckpt_path=tmp_path / "last.ckpt", max_steps=4, max_epochs=-1)
    assert resumed.steps > 3
    assert again == []


def test_the_average_begins_as_the_network_set_from_data() -> None:
    model = tiny()
    x = bytes_of(model, 16)
    model._initialize(x, torch.zeros(16, dtype=torch.int64))
    assert model.average is not None
    mine, theirs = model.average.module.state_dict(), model.network.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert first_actnorm(model).log_scale.abs().max() > 0.01


def test_a_run_resumes_bit_for_bit(fit: Fit, batches: Batches, tmp_path: Path) -> None:
    data = batches(6, 8)
    whole = tiny()
    fit(whole, data)
    half = tiny()
    fit(half, data[:3]).save_checkpoint(tmp_path / "last.ckpt")
    resumed = tiny()
    for parameter in resumed.parameters():
        parameter.data.zero_()  # whatever is not restored shows
    fit(resumed, [*data[3:], *data[:3]], ckpt_path=tmp_path / "last.ckpt", max_steps=6, max_epochs=-1)
    assert (resumed.steps, resumed.samples_seen) == (6, 48)
    for (key, mine), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), key


def test_training_lowers_the_bits(fit: Fit) -> None:
    """Points on a ring: 150 steps bring the density far above that of the normal distribution of the same spread."""
    torch.manual_seed(0)
    angle = torch.rand(150, 128) * 2 * math.pi
    points = torch.stack([angle.cos(), angle.sin()], dim=-1) + 0.05 * torch.randn(150, 128, 2)
    model = RealNVP((2,), levels=1, couplings=6, width=32, optimization=Optimization(lr=3e-3))
    fit(model, [(x, torch.zeros(128, dtype=torch.int64)) for x in points])
    normal = torch.distributions.Normal(0.0, points.std())
    gained = model.log_prob(points[-1]).mean() - normal.log_prob(points[-1]).sum(1).mean()
    assert gained > 0.5


@pytest.mark.parametrize("name", FLOWS)
def test_a_checkpoint_describes_itself(name: str, fit: Fit, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FLOWS[name]()
    data = [(bytes_of(model, 8), torch.zeros(8, dtype=torch.int64))]
    fit(model, data).save_checkpoint(tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt")
    assert type(loaded) is type(model)
    assert torch.equal(loaded.sample(range(2)), model.sample(range(2)))


# Architecture.


def test_glow_of_the_papers_size_has_the_parameters_of_openais_code_but_for_what_the_files_head_names() -> None:
    """3 levels of 32 steps, width 512: counted by layer from openai/glow, model.py and tfops.py."""
    network = Glow((3, 32, 32), levels=3, steps_per_level=32, width=512).network
    theirs, border, whole, lu = 0, 0, 0, 0
    for level, channels in enumerate((12, 24, 48)):
        half = channels // 2
        hidden = 9 * half * 512 + 2 * 512 + 512 * 512 + 2 * 512  # each with ActNorm, so without a bias
        last = 9 * 512 * channels + 2 * channels
        theirs += 32 * (2 * channels + channels**2 + hidden + last)
        border += 32 * 9 * (512 + channels)
        whole, lu = whole + 32 * channels**2, lu + 32 * (2 * channels**2 + channels)
        if level < 2:
            theirs, border = theirs + 9 * half * channels + 2 * channels, border + 9 * channels
    assert theirs + border == 44_519_604
    assert sum(parameter.numel() for parameter in network.parameters()) == theirs - whole + lu == 44_152_176


def test_glow_is_levels_of_steps() -> None:
    model = Glow((3, 32, 32), levels=3, steps_per_level=4, width=8)
    network: Any = model.network
    assert isinstance(network, MultiScale)
    assert network.shapes == [(6, 16, 16), (12, 8, 8), (48, 4, 4)]
    assert [len(level.layers) for level in network.levels if isinstance(level, Chain)] == [13, 13, 13]
    assert [split.prior is not None for split in network.splits] == [True, True]


def test_realnvp_ends_in_one_more_checkerboard_coupling() -> None:
    network: Any = RealNVP((1, 28, 28), levels=3, couplings=3, width=4, blocks=1).network
    assert network.shapes == [(2, 14, 14), (4, 7, 7), (4, 7, 7)]
    kinds = [[type(layer).__name__ for layer in level.layers] for level in network.levels]
    step = ["MaskedCoupling", "ActNorm"]
    assert kinds == [["Logit", *step * 3, "Squeeze", *step * 3], [*step * 3, "Squeeze", *step * 3], step * 4]


@pytest.mark.parametrize("channels", [1, 3])
def test_realnvps_masks_take_turns_and_those_of_channels_do_not_repeat_the_checkerboards(channels: int) -> None:
    """Section 3.6: else what both kinds leave apart would be the same two halves of the pixels all along."""
    network: Any = RealNVP((channels, 8, 8), levels=2, couplings=3, width=4, blocks=1).network
    layers = network.levels[0].layers
    couplings = [layer.mask for layer in layers if isinstance(layer, MaskedCoupling)]
    pixels = [mask.expand(channels, 8, 8) for mask in couplings[:3]]
    pixels += [Squeeze().inverse(mask.expand(1, 4 * channels, 4, 4))[0] for mask in couplings[3:]]
    for first, second in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert torch.equal(pixels[first] + pixels[second], torch.ones(channels, 8, 8))
    for by_channel in pixels[3:]:
        for board in pixels[:2]:
            assert (by_channel == board).float().mean() == 0.5
    assert list(couplings[3].shape) == [4 * channels, 1, 1]


@pytest.mark.parametrize(("widen", "widths"), [(False, [4] * 6), (True, [4, 8, 8, 16, 16, 16])])
def test_realnvps_networks_widen_with_each_squeeze_if_asked_to(widen: bool, widths: list[int]) -> None:
    network: Any = RealNVP((1, 8, 8), levels=3, couplings=1, width=4, blocks=1, widen=widen).network
    found = [
        next(part.out_channels for part in layer.modules() if isinstance(part, nn.Conv2d))
        for layer in network.modules()
        if isinstance(layer, MaskedCoupling)
    ]
    assert found == widths


def test_a_checkpoint_keeps_the_masks_that_its_weights_were_learned_under() -> None:
    names = RealNVP((1, 8, 8), levels=2, couplings=1, width=4, blocks=1).state_dict()
    assert sum(name.endswith(".mask") for name in names) == 4


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: Glow((1, 28, 28), levels=3), r"levels: 3 halves the side 3 times, but pictures of 28x28 cannot be"),
        (lambda: RealNVP((1, 28, 28), levels=4), r"levels: 4 halves the side 3 times"),
        (lambda: Glow((2,), levels=2), "vectors have one level, not 2: set levels to 1"),
        (lambda: Glow((1,), levels=1), "at least 2 values"),
        (lambda: Glow((1, 8, 8), levels=0), "levels must be at least 1, not 0"),
        (lambda: Glow((1, 8, 8), levels=1, least_scale=1.0), r"least_scale must lie in \[0, 1\), not 1.0"),
        (lambda: RealNVP((1, 8, 8), levels=1, alpha=0.5), "alpha must lie between 0 and 0.5, not 0.5"),
        (lambda: RealNVP((1, 8, 8), levels=1, blocks=0), "blocks must be at least 1, not 0"),
        (lambda: RealNVP((8, 8), levels=1), r"draws pictures, \(C, H, W\)"),
        (lambda: Glow(None), "data_shape and num_classes must be known"),  # type: ignore[arg-type]
        (lambda: FlowSettings(temperature=-1.0), "temperature must be at least 0, not -1.0"),
    ],
)
def test_a_wrong_setting_is_named(make_one: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_one()
