"""Flow matching and EDM: their paths, losses, guidance, likelihood, and the contract."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from media.pictures import from_levels
from models import load
from models.flow_matching import EDM, ConditionalOT, FlowMatching, Objective
from models.parts.output_distributions import dequantized
from settings.likelihood import FlowMatchingLikelihood
from settings.sampling import FlowMatchingSettings
from settings.training import Optimization


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shaken(model: FlowMatching) -> FlowMatching:
    """With weights as after training: at first the output is zero, whatever the input."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
        if model.average is not None:
            model.average.update(0.0)
    return model


def pictures(**settings: Any) -> FlowMatching:  # noqa: ANN401
    torch.manual_seed(0)
    small = {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], **settings}
    return shaken(FlowMatching((1, 8, 8), 3, **small))


def vectors(**settings: Any) -> FlowMatching:  # noqa: ANN401
    torch.manual_seed(0)
    return shaken(FlowMatching((2,), 3, **{"width": 16, "blocks": 2, **settings}))


# Objectives.


@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_the_target_is_the_derivative_of_the_path(sigma_min: float) -> None:
    objective = ConditionalOT(sigma_min)
    x, noise, time = draws(4, 3), draws(4, 3, seed=1), torch.rand(4, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(objective.path(x, noise, torch.zeros(4)), noise)
    torch.testing.assert_close(objective.path(x, noise, torch.ones(4)), x + sigma_min * noise)
    for i in range(3):
        (slope,) = torch.autograd.grad(objective.path(x, noise, time)[:, i].sum(), time)
        torch.testing.assert_close(slope, objective.target(x, noise)[:, i])


def test_the_loss_of_straight_paths_by_hand() -> None:
    x, noise = torch.tensor([[1.0, 3.0]]), torch.tensor([[-1.0, 1.0]])
    # x_t = 0.75 noise + 0.25 x = (-0.5, 1.5), target (2, 2); the network gives x_t + t: (-0.25, 1.75).
    found = ConditionalOT().loss(lambda at, level: at + level[:, None], x, noise, torch.tensor([0.25]))
    assert found.tolist() == pytest.approx([(2.25**2 + 0.25**2) / 2])


def test_preconditioning_at_both_ends() -> None:
    objective = EDM(sigma_data=0.5)
    c_skip, c_out, c_in, c_noise = objective.preconditioning(torch.tensor([1e-6, 0.5, 1e6], dtype=torch.float64))
    assert c_skip.tolist() == pytest.approx([1, 0.5, 0], abs=1e-9)
    assert c_out.tolist() == pytest.approx([1e-6, 0.25 * math.sqrt(2), 0.5])
    assert c_in.tolist() == pytest.approx([2, math.sqrt(2), 1e-6])
    assert c_noise.tolist() == pytest.approx([math.log(s) / 4 for s in (1e-6, 0.5, 1e6)])


@pytest.mark.parametrize("sigma", [0.02, 0.5, 20.0])
def test_the_networks_input_and_target_have_variance_one(sigma: float) -> None:
    objective, count = EDM(), 200_000
    c_skip, c_out, c_in, _ = objective.preconditioning(torch.tensor(sigma, dtype=torch.float64))
    x, noise = 0.5 * draws(count), draws(count, seed=1)
    noisy = x + sigma * noise
    assert (c_in * noisy).var().item() == pytest.approx(1, abs=0.02)
    assert ((x - c_skip * noisy) / c_out).var().item() == pytest.approx(1, abs=0.02)


def test_the_loss_of_edm_is_the_weighted_error_of_its_denoiser() -> None:
    objective, x, noise = EDM(p_mean=-1.2, p_std=1.2, sigma_data=0.5), draws(3, 5), draws(3, 5, seed=1)

    def network(at: Tensor, level: Tensor) -> Tensor:
        return at.tanh() + level[:, None]

    # ndtri(0.5) = 0 and ndtri(0.8413447...) = 1: sigma is exp(-1.2), exp(0), exp(-2.4).
    chance = torch.special.ndtr(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    sigma = torch.tensor([-1.2, 0.0, -2.4], dtype=torch.float64).exp()
    denoised = objective.denoised(network, x + sigma[:, None] * noise, sigma)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(objective.loss(network, x, noise, chance), weight * (denoised - x).square().mean(1))


def test_noise_levels_of_edm() -> None:
    times = EDM().times(18)
    assert len(times) == 19
    assert (times[0], times[-2], times[-1]) == (pytest.approx(80), pytest.approx(0.002), 0.0)
    third = (80 ** (1 / 7) + 2 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert times[2] == pytest.approx(third)
    back = EDM().density_times(18)
    assert (len(back), back[0], back[-1]) == (19, pytest.approx(0.002), pytest.approx(80))


# The ODE of a model, where the best network is known: data are normal with deviation s.

S = 0.3


class BestStraight(nn.Module):
    """E[x_1 - x_0 | x_t] for normal data of deviation S around 0."""

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        t = level.view(-1, *(1,) * (x.ndim - 1))
        return (t * S**2 - (1 - t)) / (t**2 * S**2 + (1 - t) ** 2) * x


class BestDenoiser(nn.Module):
    """F for which D is E[data | noisy] = S^2 / (S^2 + sigma^2) x, normal data of deviation S around 0."""

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        sigma = (4 * level).exp().view(-1, *(1,) * (x.ndim - 1))
        root = (sigma**2 + 0.25).sqrt()
        return (S**2 / (S**2 + sigma**2) - 0.25 / root**2) * x * root / (sigma * 0.5 / root)


BEST: list[tuple[Objective, nn.Module, int]] = [(ConditionalOT(), BestStraight(), 40), (EDM(), BestDenoiser(), 80)]


def knowing(objective: Objective, network: nn.Module, shape: tuple[int, ...], **settings: Any) -> FlowMatching:  # noqa: ANN401
    model = FlowMatching(shape, 0, objective, 8, [1], 1, [], **settings).double()
    model.network = network
    return model


@pytest.mark.parametrize(("objective", "network", "steps"), BEST, ids=["straight", "edm"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_likelihood_of_normal_data(objective: Objective, network: nn.Module, steps: int, divergence: Any) -> None:  # noqa: ANN401
    """The velocity is a multiple of x, so that even one probe's estimate is exact."""
    model, x = knowing(objective, network, (2,)), S * draws(8, 2)
    settings = FlowMatchingLikelihood(steps=steps, solver="rk4", divergence=divergence)
    truth = torch.distributions.Normal(0.0, S).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x, settings=settings), truth, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("objective", "network", "steps"), BEST, ids=["straight", "edm"])
def test_samples_are_normal_and_encoding_is_the_way_back(objective: Objective, network: nn.Module, steps: int) -> None:
    model, settings = knowing(objective, network, (2,)), FlowMatchingSettings(sampler_steps=steps)
    latents = draws(8, 2)
    x = model.decode(latents, settings=settings)
    torch.testing.assert_close(x.double(), S * latents, rtol=0.02, atol=1e-3)
    torch.testing.assert_close(model.encode(x, settings=settings).double(), latents, rtol=0.02, atol=0.02)
    torch.testing.assert_close(model.reconstruct(x, settings=settings), x, rtol=0.02, atol=2e-3)


def test_bytes_have_the_probability_of_their_256th() -> None:
    """With narrow bins the mean log-density over a bin, times its width, is the bin's log-probability."""
    model = knowing(ConditionalOT(), BestStraight(), (1, 2, 2))
    levels = torch.randint(60, 196, (6, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    found = model.log_prob(from_levels(levels), settings=FlowMatchingLikelihood(steps=40, solver="rk4", draws=16))
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), S)
    low, high = (
        dequantized(from_levels(levels).double(), torch.full(levels.shape, edge).double()) for edge in (0.0, 1.0)
    )
    truth = (normal.cdf(high) - normal.cdf(low)).log().flatten(1).sum(1)
    torch.testing.assert_close(found, truth, rtol=0, atol=0.03)


def test_pictures_of_dequantised_values_round_to_their_bytes() -> None:
    model, levels = pictures(), torch.arange(256).repeat(1, 1, 2, 1)
    x = from_levels(levels)
    for share in (0.001, 0.5, 0.999):
        found = model._as_pictures(dequantized(x, torch.full_like(x, share)))
        assert torch.equal(((found + 1) * 127.5).round().long(), levels)
    torch.testing.assert_close(model._as_pictures(model._from_pictures(x)), x)


# Labels and guidance.


def test_guidance_is_its_formula() -> None:
    model = pictures(conditional=True, label_dropout=0.1).double()
    x, labels = draws(3, 1, 8, 8), torch.tensor([0, 1, 2])
    level = torch.full((3,), 0.4, dtype=torch.float64)
    with_label, without = model.network(x, level, labels), model.network(x, level, torch.full((3,), 3))
    assert (with_label - without).abs().max() > 1e-4
    for guidance in (0.0, 1.0, 2.5):
        found = model._velocity(labels, FlowMatchingSettings(weights="raw", guidance=guidance))(x, 0.4)
        torch.testing.assert_close(found, without + guidance * (with_label - without))


def test_the_share_of_dropped_labels() -> None:
    model, labels = vectors(conditional=True, label_dropout=0.2), torch.arange(3).repeat(20_000)
    torch.manual_seed(0)
    found = model._some_dropped(labels)
    dropped = found == 3
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(found[~dropped], labels[~dropped])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_dropout": 0.1}, "label_dropout needs labels: set conditional: true"),
        ({"label_dropout": 1.0, "conditional": True}, "label_dropout must lie in"),
        ({"width": 6}, "width must be divisible by 4"),
        ({"solver": "midpoint"}, "solver must be euler, heun or rk4"),
        ({"attention": [16]}, "attention at 16 px"),
        ({"sampler_steps": 0}, "sampler_steps must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pictures(**settings)


def test_guidance_without_dropped_labels_is_refused() -> None:
    for model in (vectors(), vectors(conditional=True)):
        with pytest.raises(ValueError, match=r"guidance 2\.0 needs a model that was trained with and without labels"):
            model.sample([0], settings=FlowMatchingSettings(guidance=2.0))


# The contract.


def test_a_step_lowers_the_loss_that_it_reports(fit: Callable[..., Any]) -> None:
    """Vectors around one point: the loss falls far below its first value, 1 + the data's square."""
    torch.manual_seed(0)
    model = FlowMatching((2,), 0, width=32, blocks=2, optimization=Optimization(lr=1e-2))
    batch = (torch.full((64, 2), 0.5) + 0.01 * torch.randn(64, 2), torch.zeros(64, dtype=torch.int64))
    fit(model, [batch] * 100)
    torch.manual_seed(1)
    assert model.loss(*batch).mean().item() < 0.1
    assert (model.sample(range(64)) - 0.5).abs().mean().item() < 0.1


@pytest.mark.parametrize("make", [pictures, vectors])
def test_samples_and_likelihoods_do_not_depend_on_the_batch(make: Callable[..., FlowMatching]) -> None:
    model = make(conditional=True, label_dropout=0.1, sampler_steps=3)
    together, alone = model.sample([4, 9, 2], [0, 1, 2]), model.sample([9], [1])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    assert together.shape == (3, *model.data_shape)
    settings = FlowMatchingLikelihood(steps=3, draws=2)
    both = model.log_prob(together, torch.tensor([0, 1, 2]), indices=[4, 9, 2], settings=settings)
    one = model.log_prob(alone, torch.tensor([1]), indices=[9], settings=settings)
    torch.testing.assert_close(both[1:2], one, rtol=1e-5, atol=1e-3)


def test_decode_with_graph_reaches_the_latents() -> None:
    model = pictures(sampler_steps=2)
    latents = (0.1 * model.draw_latents([0, 1])).requires_grad_()
    x = model.decode_with_graph(latents)
    (gradient,) = torch.autograd.grad(x.sum(), latents)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(x.detach(), model.decode(latents.detach()))


def test_a_resumed_run_is_the_same_to_the_bit(
    fit: Callable[..., Any], batches: Callable[..., Any], tmp_path: Path
) -> None:
    def made() -> FlowMatching:
        optimization = Optimization(lr=1e-3, ema_halflife_kimg=0.05)
        return pictures(conditional=True, label_dropout=0.3, dropout=0.1, objective=EDM(), optimization=optimization)

    data = batches(4, 6, (1, 8, 8), classes=3)
    whole = made()
    fit(whole, data)
    fit(made(), data[:2]).save_checkpoint(tmp_path / "half.ckpt")
    half = made()
    trainer = fit(half, [*data[2:], *data[:2]], ckpt_path=tmp_path / "half.ckpt", max_steps=4, max_epochs=-1)
    for (name, mine), theirs in zip(half.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt")
    assert isinstance(loaded, FlowMatching)
    assert isinstance(loaded.objective, EDM)
    settings = FlowMatchingSettings(sampler_steps=3, guidance=2.0)
    assert torch.equal(loaded.sample([3], [1], settings=settings), half.sample([3], [1], settings=settings))
    assert loaded.likelihood_kind.startswith("estimate of a lower bound by uniform dequantisation")


def test_it_computes_in_bf16(batches: Callable[..., Any]) -> None:
    model, (x, y) = pictures(), batches(1, 4, (1, 8, 8))[0]
    torch.manual_seed(0)
    exact = model.loss(x, y)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.loss(x, y)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


def test_a_protocol_records_the_steps_and_the_solver_that_the_model_takes_by_itself() -> None:
    model = FlowMatching((2,), width=8, blocks=1, sampler_steps=3, solver="euler")
    settled = model.settled(FlowMatchingSettings(guidance=1.0))
    assert (settled.sampler_steps, settled.solver) == (3, "euler")
    named = FlowMatchingSettings(sampler_steps=7, solver="heun")
    assert model.settled(named) == named
    torch.testing.assert_close(model.sample([0, 1]), model.sample([0, 1], settings=settled), rtol=0, atol=0)
