"""VAE-GAN: the three players' gradients against the written-out losses, and what it can do besides sampling."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from media.pictures import from_levels, to_levels
from models import load
from models.parts import output_distributions as distributions
from models.parts.augment import Augmentation
from models.parts.losses import AdversarialLoss, Minimax, NonSaturating
from models.training.base import Batch
from models.training.capabilities import Deployable, Encodes, HasCritic, HasLatents, HasLikelihood
from models.training.randomness import keyed_generator
from models.vaegan import VAEGAN, Encoder
from settings.likelihood import LikelihoodSettings
from settings.sampling import GANSettings
from settings.training import AdversarialTraining
from tests.models.ranks import fit_share, on_ranks

Fit = Callable[..., lightning.Trainer]
Batches = Callable[..., list[Batch]]

SEED = 7
"""What the `fit` fixture trains with."""
LR = 1e-3


def small(side: int = 16, gamma: float = 0.1, feature_layer: int | None = None, **adversarial: Any) -> VAEGAN:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(1)
        training = AdversarialTraining(lr=LR, beta1=0.0, beta2=0.9, **adversarial)
        return VAEGAN((2, side, side), 0, 4, 3, gamma, feature_layer, training)


class Gradients(lightning.Callback):
    """Keeps the gradients of every optimizer step in order."""

    def __init__(self) -> None:
        self.found: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:  # noqa: ANN401
        self.found.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])


def trained(fit: Fit, model: VAEGAN, data: Sequence[Batch], **settings: Any) -> list[list[Tensor]]:  # noqa: ANN401
    recorder = Gradients()
    fit(model, data, precision="64-true", callbacks=[recorder], **settings)
    return recorder.found


def bare_loop(model: VAEGAN, batches: Sequence[Batch]) -> tuple[dict[str, nn.Module], list[list[Tensor]]]:
    """Algorithm 1 in plain torch, float64, from the weights of `model`: the networks afterwards, and all gradients."""
    networks = {name: copy.deepcopy(network).double() for name, network in model.networks().items()}
    g, d, e, scale = (networks[name] for name in ("generator", "discriminator", "encoder", "scale"))
    optimizers = {name: torch.optim.Adam(net.parameters(), LR, (0.0, 0.9)) for name, net in networks.items()}
    gradients = []

    def stepped(losses: dict[str, Tensor]) -> None:
        """Gradients of each loss by its own network; then all take their steps."""
        found = {
            name: list(torch.autograd.grad(loss, list(networks[name].parameters()), retain_graph=True))
            for name, loss in losses.items()
        }
        for name, mine in found.items():
            gradients.append(mine)
            for p, gradient in zip(networks[name].parameters(), mine, strict=True):
                p.grad = gradient
            optimizers[name].step()

    def played(x: Tensor, y: Tensor, draw: Callable[[], Tensor]) -> dict[str, Tensor]:
        fake = g(draw(), y)
        mean, log_variance = e(x)
        rebuilt = g(mean + torch.exp(log_variance / 2) * draw(), y)
        features, h = None, torch.cat([x, rebuilt, fake])
        for layer in d.below:
            h = layer(h)
        features = h
        for layer in d.above:
            h = layer(h)
        real_logit, rebuilt_logit, fake_logit = h.squeeze(1).chunk(3)
        q = Normal(mean, torch.exp(log_variance / 2))
        prior = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
        seen, made, _ = features.chunk(3)
        # -log N(Dis_l(x) | Dis_l(x~), I), with its constant, of which no gradient knows.
        llike = -Normal(made, 1.0).log_prob(seen.detach()).flatten(1).sum(1).mean()
        as_fake = (-F.logsigmoid(-rebuilt_logit) - F.logsigmoid(-fake_logit)).mean()
        as_real = (-F.logsigmoid(rebuilt_logit) - F.logsigmoid(fake_logit)).mean()
        saturating = isinstance(model.adversarial.loss, Minimax)
        return {
            "discriminator": -F.logsigmoid(real_logit).mean() + 0.5 * as_fake,
            "generator": model.gamma * llike + (-as_fake if saturating else as_real),
            "encoder": prior + llike,
            "scale": -distributions.logistic(x, rebuilt.detach(), scale()).mean(),
        }

    for step, (x, y) in enumerate(batches):
        draws = itertools.count(1)

        def draw(seen: int = step * len(x), size: int = len(x), draws: Iterator[int] = draws) -> Tensor:
            return torch.randn(size, 3, generator=keyed_generator(SEED, seen, next(draws)), dtype=torch.float64)

        stepped({"discriminator": played(x.double(), y, draw)["discriminator"]})
        losses = played(x.double(), y, draw)
        stepped({name: losses[name] for name in ("generator", "encoder", "scale")})
    return networks, gradients


@pytest.mark.parametrize("loss", [NonSaturating(), Minimax()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(("side", "layer"), [(16, None), (16, 1), (28, None)])
def test_steps_equal_the_written_out_losses(
    side: int, layer: int | None, loss: AdversarialLoss, fit: Fit, batches: Batches
) -> None:
    model, data = small(side, feature_layer=layer, loss=loss), batches(2, 4, (2, side, side))
    networks, gradients = bare_loop(model, data)
    found = trained(fit, model, data)
    assert len(found) == len(gradients) == 2 * 4
    for mine, theirs in zip(found, gradients, strict=True):
        size = max(float(gradient.abs().max()) for gradient in theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8 * size)
    for name, network in networks.items():
        for mine, theirs in zip(model.networks()[name].parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)  # Adam divides by small gradients


class Louder(NonSaturating):
    """The same discriminator, and a generator that hears it a thousand times as loud."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return 1000 * super().generator(fake_logits, real_logits)


def one_step(fit: Fit, batches: Batches, model: VAEGAN) -> dict[str, list[Tensor]]:
    found = trained(fit, model, batches(1, 4, (2, 16, 16)))
    return dict(zip(("discriminator", "generator", "encoder", "scale"), found, strict=True))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(a, b, strict=True))


def test_the_encoder_hears_nothing_of_the_adversarial_loss(fit: Fit, batches: Batches) -> None:
    calm, loud = (one_step(fit, batches, small(loss=loss)) for loss in (NonSaturating(), Louder()))
    assert same(calm["encoder"], loud["encoder"])
    assert same(calm["discriminator"], loud["discriminator"])
    assert not same(calm["generator"], loud["generator"])


def test_gamma_weighs_the_features_for_the_decoder_alone(fit: Fit, batches: Batches) -> None:
    """Whose gradient is affine in it; the discriminator's has no share of the feature loss at all."""
    without, one, three = (one_step(fit, batches, small(gamma=gamma)) for gamma in (0.0, 1.0, 3.0))
    for name in ("discriminator", "encoder", "scale"):
        assert same(without[name], one[name])
    for a, b, c in zip(without["generator"], one["generator"], three["generator"], strict=True):
        torch.testing.assert_close(c, a + 3 * (b - a), rtol=1e-6, atol=1e-9)
    assert not same(without["generator"], one["generator"])


def test_the_scale_is_fitted_beside_the_networks(fit: Fit, batches: Batches) -> None:
    first, other = small(), small()
    with torch.no_grad():
        other.scale.scaled.add_(0.05)
    mine, theirs = one_step(fit, batches, first), one_step(fit, batches, other)
    for name in ("discriminator", "generator", "encoder"):
        assert same(mine[name], theirs[name])
    assert not same(mine["scale"], theirs["scale"])


def test_the_scale_settles_where_the_likelihood_is_highest() -> None:
    """On logistic noise around a picture it finds the noise's scale, in a few hundred steps at the published rate."""
    model = small()
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(64, 2, 16, 16, generator=generator).clamp(1e-6, 1 - 1e-6)
    noise = torch.tensor([0.05, 0.3])[:, None, None] * torch.logit(u)
    centre = torch.zeros_like(noise)
    optimizer = torch.optim.Adam(model.scale.parameters(), 3e-4, (0.0, 0.9))
    for _ in range(400):
        optimizer.zero_grad()
        (-model._log_likelihood(noise, centre)).mean().backward()
        optimizer.step()
    assert model.scale().exp().flatten().tolist() == pytest.approx([0.05, 0.3], rel=0.05)


def test_accumulated_micro_batches_step_once(fit: Fit, batches: Batches) -> None:
    model = small(accumulate=2)
    found = trained(fit, model, batches(1, 4, (2, 16, 16)))
    assert len(found) == 4
    assert all(gradient.isfinite().all() for gradients in found for gradient in gradients)


def test_one_step_counts_once_and_reports_every_player(fit: Fit, batches: Batches) -> None:
    model = small(clip_norm=1e-3)
    trainer = fit(model, batches(5, 4, (2, 16, 16)), max_steps=3)
    assert trainer.global_step == model.steps == 3
    taken = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in trainer.optimizers]
    assert taken == [{3}] * 4
    reported = model.reported()
    assert {"g_grad_norm", "d_grad_norm", "encoder_grad_norm", "scale_grad_norm"} <= set(reported)
    assert {"d_loss", "g_loss", "encoder_loss", "scale_loss", "kl", "feature_distance", "d_rebuilt"} <= set(reported)
    assert reported["encoder_grad_norm"] > 1e-3  # before clipping


def test_both_averages_follow_their_networks(fit: Fit, batches: Batches) -> None:
    model = small(ema_halflife_kimg=0.004)  # a batch of 4: halfway there
    before = {name: copy.deepcopy(network) for name, network in model.networks().items()}
    fit(model, batches(1, 4, (2, 16, 16)))
    assert set(model.averages()) == {"generator average", "encoder average"}
    for name in ("generator", "encoder"):
        average = model.averages()[f"{name} average"].module
        triples = zip(before[name].parameters(), model.networks()[name].parameters(), average.parameters(), strict=True)
        for old, new, mean in triples:
            torch.testing.assert_close(mean, (old + new) / 2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_resumes_bit_for_bit(precision: str, fit: Fit, batches: Batches, tmp_path: Path) -> None:
    data, path = batches(4, 4, (2, 16, 16)), tmp_path / "last.ckpt"
    whole, resumed = small(), small()
    fit(whole, data, precision=precision)
    fit(small(), data[:2], precision=precision).save_checkpoint(path)
    again = [*data[2:], *data[:2]]
    fit(resumed, again, precision=precision, ckpt_path=path, max_steps=4, max_epochs=-1)
    assert resumed.samples_seen == 16
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def joint_batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.rand(8, 2, 16, 16, generator=generator) * 2 - 1, torch.zeros(8, dtype=torch.int64)) for _ in "ab"]


def train_on_a_rank(rank: int, world: int, folder: Path) -> None:
    model = small()
    fit_share(model, joint_batches(), rank, world)
    torch.save(model.state_dict(), folder / f"{rank}.pt")


@pytest.mark.slow  # what it adds to the test of SingleLoss are the further networks
def test_two_ranks_train_the_weights_of_one_on_the_joint_batch(fit: Fit, tmp_path: Path) -> None:
    """All three players and the scale, with joint batch norms and the joint batch's latents."""
    on_ranks(train_on_a_rank, tmp_path)
    one = small()
    fit(one, joint_batches(), precision="64-true")
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


# Sampling, encoding, likelihood.


@pytest.fixture(scope="module")
def fitted(fit: Fit, batches: Batches) -> tuple[VAEGAN, lightning.Trainer]:
    model = small(ema_halflife_kimg=0.01)
    return model, fit(model, batches(3, 4, (2, 16, 16)))


def test_it_can_all_that_its_parents_can(fitted: tuple[VAEGAN, Any]) -> None:
    for capability in (HasLatents, Encodes, HasCritic, Deployable, HasLikelihood):
        assert isinstance(fitted[0], capability)


def test_a_checkpoint_loads_by_itself(fitted: tuple[VAEGAN, lightning.Trainer], tmp_path: Path) -> None:
    model, trainer = fitted
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt")
    assert isinstance(loaded, VAEGAN)
    assert torch.equal(loaded.sample(range(3)), model.sample(range(3)))
    x = model.sample(range(2))
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))


def test_samples_and_bounds_do_not_depend_on_their_batch(fitted: tuple[VAEGAN, Any], batches: Batches) -> None:
    model = fitted[0]
    together = model.sample(range(4), seed=3)
    apart = torch.cat([model.sample([i], seed=3) for i in range(4)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    x = from_levels(to_levels(batches(1, 4, (2, 16, 16))[0][0]))
    settings = LikelihoodSettings(draws=3)
    whole = model.log_prob(x, seed=1, settings=settings)
    parts = torch.cat([model.log_prob(x[i : i + 1], indices=[i], seed=1, settings=settings) for i in range(4)])
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=0)


def test_reconstructions_are_decoded_means(fitted: tuple[VAEGAN, Any], batches: Batches) -> None:
    model, x = fitted[0], batches(1, 4, (2, 16, 16))[0][0]
    for weights, encoder in (("ema", model.encoder_average.module), ("raw", copy.deepcopy(model.encoder).eval())):
        settings = GANSettings(weights=weights)  # type: ignore[arg-type]
        assert isinstance(encoder, Encoder)
        z = model.encode(x, settings=settings)
        assert torch.equal(z, encoder(x)[0])
        assert torch.equal(model.reconstruct(x, settings=settings), model.decode(z, settings=settings))
    assert model.encoder.training  # as fit left it


def test_the_bound_is_the_elbo_and_rises_with_the_draws(fitted: tuple[VAEGAN, Any], batches: Batches) -> None:
    """Of one draw, the mean over seeds is E[log p(x | z)] - KL in its closed form; of many, no lower."""
    model = copy.deepcopy(fitted[0]).double()
    x = from_levels(to_levels(batches(1, 1, (2, 16, 16))[0][0])).double()
    many = x.expand(2000, -1, -1, -1)
    bounds = model.log_prob(many)
    with model.in_eval_mode(), torch.no_grad():
        mean, log_variance = model.encoder_average.module(x)
        z = mean + torch.exp(log_variance / 2) * torch.randn(2000, 3, dtype=torch.float64)
        decoded = model.average.module(z, torch.zeros(2000, dtype=torch.int64))
        values = distributions.logistic(many, decoded, model.scale()).flatten(1).sum(1)
        q = Normal(mean, torch.exp(log_variance / 2))
        kl = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum()
    error = float((bounds.var() / 2000 + values.var() / 2000).sqrt())
    assert float(bounds.mean()) == pytest.approx(float(values.mean() - kl), abs=5 * error)
    tighter = model.log_prob(many[:200], settings=LikelihoodSettings(draws=20))
    assert tighter.mean() > bounds.mean()
    assert tighter.std() < bounds.std()


def test_likelihoods_are_at_least_float32(fitted: tuple[VAEGAN, Any], batches: Batches) -> None:
    model, x = fitted[0], batches(1, 2, (2, 16, 16))[0][0]
    full = model.log_prob(x)
    low = model.log_prob(x, settings=LikelihoodSettings(precision="bfloat16"))
    torch.testing.assert_close(low, full, rtol=0.02, atol=0)
    assert not torch.equal(low, full)


# Networks and mistakes.


def test_the_networks_have_the_papers_layers() -> None:
    """Table 1 of the paper, at 64 px; the counts are those of its layers, without biases before a batch norm."""
    with torch.device("meta"):
        model = VAEGAN((3, 64, 64))
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in model.networks().items()}
    k = 25
    encoder = k * (3 * 64 + 64 * 128 + 128 * 256) + 2 * (64 + 128 + 256)
    encoder += 8 * 8 * 256 * 2048 + 2 * 2048 + 2 * (2048 * 128 + 128)
    generator = (128 + 2) * 8 * 8 * 256 + k * (256 * 256 + 256 * 128 + 128 * 32 + 32 * 3) + 2 * (256 + 128 + 32) + 3
    discriminator = k * (3 * 32 + 32 * 128 + 128 * 256 + 256 * 256) + 32 + 2 * (128 + 256 + 256)
    discriminator += 8 * 8 * 256 * 512 + 2 * 512 + 512 + 1
    assert counts == {"generator": generator, "discriminator": discriminator, "encoder": encoder, "scale": 3}


@pytest.mark.parametrize(("side", "inner"), [(16, 4), (28, 7), (32, 4), (48, 6), (64, 8)])
def test_every_size_goes_down_and_up(side: int, inner: int) -> None:
    model = VAEGAN((1, side, side), width=4, latent_dim=8)
    x = model.sample(range(2))
    assert x.shape == (2, 1, side, side)
    assert x.abs().max() <= 1
    assert model.encode(x).shape == (2, 8)
    assert model.reconstruct(x).shape == x.shape
    features, logits = model.discriminator.both(x)
    assert features.shape[2:] == (inner, inner)
    assert logits.shape == (2,)
    assert torch.equal(model.eval().logits(x, torch.zeros(2)), model.discriminator.both(x)[1])


@pytest.mark.parametrize(("layer", "shape"), [(1, (8, 16, 16)), (2, (16, 8, 8)), (3, (16, 4, 4))])
def test_features_are_those_of_the_layer(layer: int, shape: tuple[int, ...]) -> None:
    model = VAEGAN((1, 32, 32), width=4, feature_layer=layer)
    assert isinstance(model.discriminator.below[-1], nn.Conv2d)
    assert model.discriminator.both(torch.zeros(2, 1, 32, 32))[0].shape[1:] == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": (3, 30, 30)}, "divisible by 4, not 30x30: set data.resolution"),
        ({"data_shape": (3, 128, 128)}, "of 16 to 64 px, divisible by 4, not 128x128"),
        ({"data_shape": (3, 32, 28)}, "square"),
        ({"width": 5}, "width of VAEGAN must be even and positive, not 5"),
        ({"gamma": -1.0}, "gamma must not be negative, not -1.0"),
        ({"feature_layer": 4}, "feature_layer must be 1 to 3 at 32 px, not 4"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEGAN(**{"data_shape": (3, 32, 32), **arguments})


def test_augmentations_are_refused() -> None:
    class Nothing(Augmentation):
        def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
            return x

    with pytest.raises(ValueError, match=r"leave adversarial\.augmentation out"):
        VAEGAN((1, 32, 32), adversarial=AdversarialTraining(augmentation=Nothing()))
