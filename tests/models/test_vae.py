import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from media.pictures import from_levels
from models import load
from models.parts import output_distributions as distributions
from models.parts.schedules import Linear
from models.parts.variational import divergence_from_prior
from models.training.base import Batch
from models.training.capabilities import Deployable, Encodes, HasCodes, HasLatents, HasLatentWeights, HasLikelihood
from models.vae import VAE, sides
from settings.likelihood import LikelihoodSettings
from settings.sampling import VAESettings
from settings.training import Optimization

Fit = Callable[..., Any]
Batches = Callable[..., list[Batch]]


def vae(shape: Sequence[int] = (1, 12, 12), seed: int = 1, **arguments: Any) -> VAE:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings: dict[str, Any] = {"width": 4, "latent_dim": 3, **arguments}
        return VAE(shape, settings.pop("num_classes", 0), **settings)


def pictures(count: int, shape: Sequence[int] = (1, 12, 12)) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return from_levels(torch.randint(256, (count, *shape), generator=generator))


# The likelihood.


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "gaussian"])
@pytest.mark.parametrize("scale", ["pixel", "channel", 0.1])
def test_a_pixels_256_probabilities_add_up_to_one(likelihood: Any, scale: Any) -> None:  # noqa: ANN401
    """Given a latent: only the byte of one pixel differs between 256 pictures, and with it one factor."""
    model = vae((2, 8, 8), likelihood=likelihood, scale=scale).double()
    decoder = model.network.decoder
    x = pictures(1, (2, 8, 8)).double().repeat(256, 1, 1, 1)
    x[:, 1, 3, 4] = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    z = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(256, 3)
    found = decoder.log_likelihood(x, z, torch.zeros(256, dtype=torch.int64))
    others = x[:1].clone()
    others[0, 1, 3, 4] = math.nan  # every other factor is finite
    mean, log_scale = decoder(z[:1], torch.zeros(1, dtype=torch.int64))
    distribution = distributions.gaussian if likelihood == "gaussian" else distributions.logistic
    rest = distribution(others, mean, log_scale).nansum()
    assert (found - rest).exp().sum().item() == pytest.approx(1, rel=1e-9)


def test_squared_error_and_bernoulli_by_hand() -> None:
    x, labels = pictures(3).double(), torch.zeros(3, dtype=torch.int64)
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = vae(likelihood="squared_error", scale=2.0).double().network.decoder
    expected = -((x - squares(z, labels)[0]) ** 2).sum((1, 2, 3)) / 8
    torch.testing.assert_close(squares.log_likelihood(x, z, labels), expected, rtol=1e-12, atol=1e-12)
    binary = vae(likelihood="bernoulli").double().network.decoder
    p, on = binary(z, labels)[0].sigmoid(), (x + 1) / 2
    expected = (on * p.log() + (1 - on) * (1 - p).log()).sum((1, 2, 3))
    torch.testing.assert_close(binary.log_likelihood(x, z, labels), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(binary.pictures(z, labels), 2 * p - 1, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", ["squared_error", "bernoulli"])
def test_what_gives_bytes_no_probability_says_so(likelihood: Any) -> None:  # noqa: ANN401
    model = vae(likelihood=likelihood, scale=1.0)
    assert model.why_no_likelihood is not None
    with pytest.raises(ValueError, match=f"likelihood {likelihood}.*discretized_logistic") as caught:
        model.log_prob(pictures(2))
    assert "\n" not in str(caught.value)


def test_the_evidence_of_a_decoder_that_ignores_its_latent_is_that_of_its_pixels() -> None:
    """Then the posterior is the prior, and the encoder's loss is the divergence it pays for nothing."""
    model = vae().double()
    with torch.no_grad():
        model.network.decoder.start.weight.zero_()
        model.network.encoder.posterior.weight.zero_()
        model.network.encoder.posterior.bias.zero_()
    x, labels = pictures(4), torch.zeros(4, dtype=torch.int64)
    exact = model.network.decoder.log_likelihood(x.double(), torch.zeros(4, 3, dtype=torch.float64), labels)
    for draws in (1, 5):
        found = model.log_prob(x, settings=LikelihoodSettings(draws=draws))
        torch.testing.assert_close(found, exact.detach(), rtol=1e-10, atol=1e-10)


def test_more_draws_give_a_higher_bound() -> None:
    model = vae().double()  # untrained: its encoder is far from the posterior
    with torch.no_grad():
        model.network.decoder.start.weight.mul_(3)
    x = pictures(12)
    bounds = [
        torch.stack([model.log_prob(x, seed=seed, settings=LikelihoodSettings(draws=k)) for seed in range(8)]).mean()
        for k in (1, 8, 64)
    ]
    assert bounds[0] < bounds[1] < bounds[2]


def test_a_likelihood_depends_on_its_picture_and_index_alone() -> None:
    model, x = vae().double(), pictures(6)
    settings = LikelihoodSettings(draws=3)
    whole = model.log_prob(x, indices=range(10, 16), settings=settings)
    parts = [model.log_prob(x[i : i + 1], indices=[10 + i], settings=settings) for i in range(6)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert not torch.equal(model.log_prob(x, indices=range(6), settings=settings), whole)
    assert whole.dtype == torch.float64


# The loss.


def test_the_loss_is_reconstruction_and_weighted_divergence() -> None:
    beta = Linear(0.0, 4.0, kimg=1.0)
    model, x, labels = vae(beta=beta).double(), pictures(5).double(), torch.zeros(5, dtype=torch.int64)
    for seen, weight in ((0, 0.0), (500, 2.0), (2000, 4.0)):
        model.samples_seen = seen
        torch.manual_seed(3)
        found = model.loss(x, labels)
        torch.manual_seed(3)
        mean, log_variance = model.network.encoder(x, labels)
        z = mean + log_variance.exp().sqrt() * torch.randn_like(mean)
        reconstruction = -model.network.decoder.log_likelihood(x, z, labels)
        divergence = divergence_from_prior(mean, log_variance).sum(1)
        torch.testing.assert_close(found, reconstruction + weight * divergence, rtol=1e-12, atol=1e-12)
        reported = model.reported()
        assert reported["kl"] == pytest.approx(divergence.mean().item(), rel=1e-6)
        assert reported["reconstruction"] == pytest.approx(reconstruction.mean().item(), rel=1e-6)
        bits = (reconstruction + divergence).mean().item() / (144 * math.log(2))
        assert reported["train_bits_per_dim"] == pytest.approx(bits, rel=1e-6)


def test_gradients_by_finite_differences() -> None:
    """Through the draw of z: the noise of both losses is the same."""
    model, x, labels = vae(free_nats=0.01).double(), pictures(3).double(), torch.zeros(3, dtype=torch.int64)
    parameter = model.network.encoder.posterior.weight

    def loss() -> Tensor:
        torch.manual_seed(3)
        return model.loss(x, labels).sum()

    (gradient,) = torch.autograd.grad(loss(), parameter)
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            parameter.add_(step * direction)
            ends.append(loss())
            parameter.sub_(step * direction)
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, (gradient * direction).sum(), rtol=1e-6, atol=1e-6)


def test_free_nats_lower_what_is_charged() -> None:
    x, labels = pictures(5).double(), torch.zeros(5, dtype=torch.int64)
    losses = []
    for free_nats in (0.0, 100.0):
        model = vae(free_nats=free_nats).double()
        torch.manual_seed(3)
        losses.append((model.loss(x, labels), model.reported()))
    (charged, reported), (free, _) = losses
    assert (free - charged).mean().item() == pytest.approx(300.0 - reported["kl"], rel=1e-6)


# The contract.


def test_its_capabilities() -> None:
    model = vae()
    assert isinstance(model, HasLatents)
    assert isinstance(model, Encodes)
    assert isinstance(model, HasLikelihood)
    assert isinstance(model, Deployable)
    assert not isinstance(model, HasCodes)
    assert model.why_no_samples is model.why_no_likelihood is None
    assert model.likelihood_kind.startswith("lower bound")


@pytest.mark.parametrize(("side", "expected"), [(28, [28, 14, 7]), (32, [32, 16, 8, 4]), (64, [64, 32, 16, 8, 4])])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_usual_size(side: int, expected: list[int], channels: int) -> None:
    assert sides(side) == expected
    model = vae((channels, side, side), width=2, blocks=0)
    x = pictures(2, (channels, side, side))
    assert model.encode(x).shape == (2, 3)
    for found in (model.sample(range(2)), model.reconstruct(x)):
        assert found.shape == x.shape
        assert found.dtype == torch.float32
        assert found.abs().max() <= 1
    assert model.log_prob(x).shape == (2,)


def test_samples_do_not_depend_on_their_batch() -> None:
    model = vae().double()
    whole = model.sample(range(6), seed=4)
    for batch in ([5, 1], [3]):
        torch.testing.assert_close(model.sample(batch, seed=4), whole[batch], rtol=1e-6, atol=1e-7)
    assert not torch.equal(model.sample(range(6), seed=5), whole)


def test_samples_are_the_decoded_latents() -> None:
    model = vae()
    for settings in (VAESettings(), VAESettings(temperature=0.3)):
        latents = model.draw_latents(range(5), seed=2, settings=settings)
        torch.testing.assert_close(model.decode(latents), model.sample(range(5), seed=2, settings=settings))
    torch.testing.assert_close(latents, 0.3 * model.draw_latents(range(5), seed=2))
    still = model.sample(range(5), settings=VAESettings(temperature=0.0))
    torch.testing.assert_close(still, still[:1].expand_as(still))


def test_decoding_can_be_differentiated_by_the_latent() -> None:
    model = vae()
    z = model.draw_latents(range(3)).requires_grad_()
    model.decode_with_graph(z).sum().backward()
    assert z.grad is not None
    assert (z.grad.flatten(1).norm(dim=1) > 0).all()
    assert not model.decode(z).requires_grad


def test_a_conditional_model_listens_to_the_label() -> None:
    model = vae(num_classes=3, conditional=True)
    assert model.label_classes == 3
    same = model.draw_latents([0]).expand(3, -1)
    drawn = model.decode(same, torch.arange(3))
    assert not torch.allclose(drawn[0], drawn[1])
    x = pictures(1).expand(3, -1, -1, -1)
    assert not torch.allclose(model.encode(x, torch.arange(3))[0], model.encode(x, torch.arange(3))[1])
    assert len(set(model.log_prob(x, torch.arange(3), indices=[0, 0, 0]).tolist())) == 3


def test_what_its_latent_weights_lose_no_picture_shows() -> None:
    """Two latents whose difference they map to nothing are decoded alike."""
    model = vae(num_classes=2, conditional=True, latent_dim=3).double()
    assert isinstance(model, HasLatentWeights)
    with torch.no_grad():
        model.network.decoder.start.weight[:, 1] = 0
    assert model.latent_weights().shape[1] == 3
    lost = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert (model.latent_weights() @ lost.T).abs().max() == 0
    z = model.draw_latents([0])
    assert torch.equal(model.decode(z + lost), model.decode(z))
    assert not torch.equal(model.decode(z + lost.roll(1)), model.decode(z))


def test_a_deployed_decoder_draws_the_same() -> None:
    model = vae(num_classes=2, conditional=True)
    z, labels = model.draw_latents(range(4)), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(model.deployed()(z, labels), model.decode(z, labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 12, 14)}, "data.resolution"),
        ({"shape": (1, 7, 7)}, "data.resolution"),
        ({"shape": (8,)}, "pictures"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"free_nats": -1.0}, "free_nats"),
        ({"scale": 0.0}, "scale"),
        ({"likelihood": "squared_error"}, "scale"),
        ({"conditional": True}, "conditional"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        vae(**arguments)
    assert "\n" not in str(caught.value)


def test_a_negative_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        VAESettings(temperature=-0.1)


# Training.


def averaged() -> Optimization:
    return Optimization(lr=1e-3, ema_halflife_kimg=0.02)


def test_training_lowers_the_loss(fit: Fit) -> None:
    torch.manual_seed(0)
    x, y = from_levels(torch.full((16, 1, 12, 12), 40)), torch.zeros(16, dtype=torch.int64)
    x[:8] = 0.5
    model = vae(optimization=Optimization(lr=1e-2))
    before = model.log_prob(x).mean()
    fit(model, [(x, y)] * 80)
    assert model.log_prob(x).mean() > before + 144  # by more than a nat a pixel


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_ends_in_the_same_bits(precision: str, fit: Fit, batches: Batches, tmp_path: Path) -> None:
    data = batches(4, 8, (1, 12, 12))
    whole = vae(beta=Linear(0.0, 1.0, kimg=0.03), optimization=averaged())
    fit(whole, data, precision=precision)
    half = vae(beta=Linear(0.0, 1.0, kimg=0.03), optimization=averaged())
    path = tmp_path / "half.ckpt"
    fit(half, data[:2], precision=precision).save_checkpoint(path)
    resumed = vae(seed=9, beta=Linear(0.0, 1.0, kimg=0.03), optimization=averaged())
    fit(resumed, [*data[2:], *data[:2]], precision=precision, ckpt_path=path, max_steps=4, max_epochs=-1)
    assert resumed.samples_seen == whole.samples_seen == 32
    for (name, mine), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_a_loaded_model_is_the_saved_one(fit: Fit, batches: Batches, tmp_path: Path) -> None:
    model = vae(num_classes=2, conditional=True, beta=Linear(0.0, 1.0, kimg=1.0), scale=0.5, optimization=averaged())
    fit(model, batches(2, 8, (1, 12, 12), classes=2)).save_checkpoint(tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt")
    assert isinstance(loaded, VAE)
    assert torch.equal(loaded.sample(range(4), seed=3), model.sample(range(4), seed=3))
    x, y = pictures(3), torch.tensor([0, 1, 1])
    assert torch.equal(loaded.log_prob(x, y), model.log_prob(x, y))
    raw = LikelihoodSettings(weights="raw")
    assert not torch.equal(loaded.log_prob(x, y, settings=raw), model.log_prob(x, y))
