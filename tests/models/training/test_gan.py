"""The adversarial step against a bare loop, and what surrounds it."""

import contextlib
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from models.dcgan import DCGAN
from models.parts.augment import Augmentation
from models.parts.losses import AdversarialLoss, Hinge, NonSaturating, RelativisticPairing
from models.parts.regularizers import R1, R2, GradientPenalty, MicroBatch, Penalty, ZeroCentred
from models.parts.schedules import Linear, Schedule
from models.training.base import Batch
from models.training.gan import GAN, frozen
from models.training.manual import refuse_strategy
from models.training.randomness import keyed_generator
from settings.training import AdversarialTraining

Fit = Callable[..., lightning.Trainer]
Toy = Callable[..., GAN]
Batches = Callable[..., list[Batch]]

SEED = 7
"""What the `fit` fixture trains with."""


class Recorder(lightning.Callback):
    """Keeps every step's losses, and the gradients of every optimizer step in order."""

    def __init__(self) -> None:
        self.losses: list[tuple[float, float]] = []
        self.gradients: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:  # noqa: ANN401
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.gradients.append([p.grad.clone() for p in parameters if p.grad is not None])

    def on_train_batch_end(self, trainer: Any, pl_module: GAN, *rest: Any) -> None:  # noqa: ANN401
        reported = pl_module.reported()
        self.losses.append((reported["d_loss"], reported["g_loss"]))


def bare_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Sequence[Batch],
    latent_dim: int,
    loss: AdversarialLoss,
    d_steps: int = 1,
    accumulate: int = 1,
    reuse_fakes: bool = False,
    r1: tuple[float, int] | None = None,
) -> tuple[list[tuple[float, float]], list[list[Tensor]]]:
    """Adversarial training in plain torch, float64; trains the networks in place, returns losses and gradients.

    `r1` is (gamma, every). Latents are drawn by (seed, samples seen, draw of this step), as the model says.
    """
    g_adam = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    losses, gradients = [], []
    for step, (x, y) in enumerate(batches):
        draws = itertools.count(1)

        def fake(labels: Tensor, seen: int = step * len(x), draws: Iterator[int] = draws) -> Tensor:
            keyed = keyed_generator(SEED, seen, next(draws))
            return generator(torch.randn(len(labels), latent_dim, generator=keyed, dtype=torch.float64), labels)

        d_losses = []
        pieces = list(zip(x.double().chunk(d_steps * accumulate), y.chunk(d_steps * accumulate), strict=True))
        for d_step in range(d_steps):
            mine = pieces[d_step * accumulate : (d_step + 1) * accumulate]
            fakes = [fake(labels) for _, labels in mine]
            d_loss = torch.zeros((), dtype=torch.float64)
            penalty = torch.zeros((), dtype=torch.float64)
            for (real, labels), made in zip(mine, fakes, strict=True):
                at = real.clone().requires_grad_()
                pair = discriminator(at, labels), discriminator(made.detach(), labels)
                d_loss = d_loss + loss.discriminator(*pair).mean() / accumulate
                if r1 is not None and (step * d_steps + d_step) % r1[1] == 0:
                    (slope,) = torch.autograd.grad(pair[0].sum(), at, create_graph=True)
                    penalty = penalty + r1[1] * r1[0] / 2 * slope.square().sum() / len(real) / accumulate
            d_losses.append(d_loss.item())
            d_loss = d_loss + penalty
            d_adam.zero_grad()
            d_loss.backward()
            gradients.append([p.grad.clone() for p in discriminator.parameters() if p.grad is not None])
            d_adam.step()

        g_loss = torch.zeros((), dtype=torch.float64)
        for i, (real, labels) in enumerate(mine):
            real_logits = discriminator(real, labels).detach() if loss.needs_real_in_generator_step else None
            made = fakes[i] if reuse_fakes else fake(labels)
            g_loss = g_loss + loss.generator(discriminator(made, labels), real_logits).mean() / accumulate
        g_adam.zero_grad()
        g_loss.backward()
        gradients.append([p.grad.clone() for p in generator.parameters() if p.grad is not None])
        g_adam.step()
        losses.append((sum(d_losses) / d_steps, g_loss.item()))
    return losses, gradients


def assert_same_weights(a: nn.Module, b: nn.Module, tolerance: float) -> None:
    for (name, mine), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reuse": {"reuse_fakes": True},
    "two D steps": {"d_steps": 2},
    "two D steps, reuse": {"d_steps": 2, "reuse_fakes": True},
    "accumulate": {"accumulate": 2},
    "accumulate, reuse": {"accumulate": 2, "reuse_fakes": True},
    "R1 every 2": {"r1": (5.0, 2)},
    "R1 every 2, two D steps, accumulate": {"r1": (5.0, 2), "d_steps": 2, "accumulate": 2},
    "hinge": {"loss": Hinge()},
    "relativistic": {"loss": RelativisticPairing()},
    "relativistic, everything": {
        "loss": RelativisticPairing(), "r1": (5.0, 2), "d_steps": 2, "accumulate": 2, "reuse_fakes": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("family", ["toy", "dcgan"])
def test_three_steps_equal_a_bare_loop(
    family: str, variant: dict[str, Any], toy_gan: Toy, fit: Fit, batches: Batches
) -> None:
    settings: dict[str, Any] = {"loss": NonSaturating(), **variant}
    r1 = settings.pop("r1", None)
    regularizers = [] if r1 is None else [R1(*r1)]
    if family == "toy":
        model, data = toy_gan(num_classes=2, regularizers=regularizers, **settings), batches(3, 8, classes=2)
    else:
        torch.manual_seed(0)
        adversarial = AdversarialTraining(regularizers=regularizers, **settings)
        model = DCGAN((1, 16, 16), 2, width=8, latent_dim=8, conditional=True, adversarial=adversarial)
        data = batches(3, 8, (1, 16, 16), classes=2)
    generator, discriminator = copy.deepcopy(model.generator).double(), copy.deepcopy(model.discriminator).double()
    recorder = Recorder()
    fit(model, data, precision="64-true", callbacks=[recorder])
    losses, gradients = bare_loop(generator, discriminator, data, model.latent_dim, **settings, r1=r1)

    # Losses are reported, and DCGAN's logits given, in float32.
    assert recorder.losses == [pytest.approx(pair, rel=1e-6) for pair in losses]
    assert len(recorder.gradients) == len(gradients) == 3 * (settings.get("d_steps", 1) + 1)
    # The same sums in another order, in float64; but a loss's gradient by DCGAN's logits is rounded to float32.
    tolerance = 1e-10 if family == "toy" else 1e-6
    for mine, theirs in zip(recorder.gradients, gradients, strict=True):
        scale = max(float(g.abs().max()) for g in theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale)
    assert_same_weights(model.generator, generator, tolerance)
    assert_same_weights(model.discriminator, discriminator, tolerance)


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPairing()], ids=lambda loss: type(loss).__name__)
def test_accumulated_micro_batches_equal_their_joint_batch(
    loss: AdversarialLoss, toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without batch statistics: k micro-batches of n, or one of k * n, with the same latents."""

    def latents(model: GAN, count: int) -> Tensor:
        """Those of the step's first 12 fakes one after another, however many are drawn at once; then again for G."""
        model._latent_draws += count
        generator = keyed_generator(SEED, model.samples_seen, (model._latent_draws - 1) // 12)
        at = (model._latent_draws - 1) % 12 + 1 - count
        return torch.randn(12, 3, generator=generator, dtype=torch.float64)[at : at + count]

    monkeypatch.setattr(GAN, "training_latents", latents)
    runs = []
    for accumulate in (1, 2, 4):
        model = toy_gan(loss=loss, regularizers=[R1(5.0, every=2)], accumulate=accumulate)
        recorder = Recorder()
        fit(model, batches(3, 12), precision="64-true", callbacks=[recorder])
        runs.append((model, recorder))
    (joint, once), *others = runs
    for model, several in others:
        assert_same_weights(model, joint, 1e-10)  # float64, and Adam's division by small gradients
        assert several.losses == [pytest.approx(pair, rel=1e-6) for pair in once.losses]  # reported in float32
        for mine, theirs in zip(several.gradients, once.gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_four_micro_batches_of_16_give_the_gradients_of_64(
    toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, with the hinge loss. Batch statistics would be the micro-batch's, and a spectral norm's iteration
    advances with each pass: networks with either differ by as much.
    """
    joint = {step: torch.randn(64, 3, generator=keyed_generator(step), dtype=torch.float64) for step in (0, 1)}

    def latents(model: GAN, count: int) -> Tensor:
        """The first 64 of a training step are the discriminator's, the next the generator's."""
        at = model._latent_draws
        model._latent_draws += count
        return joint[at // 64][at % 64 : at % 64 + count]

    monkeypatch.setattr(GAN, "training_latents", latents)
    gradients = []
    for accumulate in (1, 4):
        recorder = Recorder()
        model = toy_gan(loss=Hinge(), accumulate=accumulate)
        fit(model, batches(1, 64), precision="64-true", callbacks=[recorder])
        gradients.append(recorder.gradients)
    assert len(gradients[0]) == 2
    for once, several in zip(*gradients, strict=True):
        for a, b in zip(once, several, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_familys_own_penalties_reach_the_network_that_they_are_for(
    precision: str, toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.5 |W|^2 has the gradient W, whatever the number of micro-batches."""
    asked: list[tuple[str, int]] = []
    found: dict[bool, Recorder] = {}
    for penalised in (False, True):
        model = toy_gan(num_classes=2, accumulate=2, d_steps=2)
        weights = [model.discriminator.conv.weight.clone(), model.generator.inner.weight.clone()]

        def penalty(network: str, weight: Tensor, of: Any) -> Penalty:  # noqa: ANN401
            def value(part: MicroBatch) -> Tensor:
                asked.append((network, len(part.labels)))
                return 0.5 * (weight * weight).sum()

            return Penalty(f"{network}_weight", network, 1, value, of=of)

        own = [
            penalty("discriminator", model.discriminator.conv.weight, "weights"),
            penalty("generator", model.generator.inner.weight, "own pass"),
        ]
        if penalised:
            monkeypatch.setattr(model, "penalties", lambda own=own: own)
        found[penalised] = Recorder()
        fit(model, batches(1, 8, classes=2), precision=precision, callbacks=[found[penalised]])
    # One of weights is computed once a step, another for each micro-batch.
    assert asked == [("discriminator", 2)] * 2 + [("generator", 2)] * 2
    # The first discriminator step: its convolution's weight is its first parameter.
    difference = found[True].gradients[0][0] - found[False].gradients[0][0]
    torch.testing.assert_close(difference, weights[0].detach(), rtol=1e-4, atol=1e-6)


class Passes(nn.Module):
    """Counts a network's forward passes, and keeps the precision of each."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.precisions: list[torch.dtype] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        self.precisions.append(torch.get_autocast_dtype("cpu") if low else torch.float32)
        return self.network(*inputs)


@pytest.mark.parametrize(
    ("trainers", "precision", "low", "full"),
    [
        ("32-true", "float32", 0, 3),  # real and fake, with R1 and R2; the generator's
        ("bf16-mixed", "float32", 3, 2),
        ("bf16-mixed", "as_loss", 3, 0),
    ],
)
def test_penalties_share_the_pass_of_the_loss_where_they_share_its_precision(
    trainers: str,
    precision: Literal["float32", "as_loss"],
    low: int,
    full: int,
    toy_gan: Toy,
    fit: Fit,
    batches: Batches,
) -> None:
    model = toy_gan(regularizers=[R1(1.0, precision=precision), R2(1.0, precision=precision)])
    model.discriminator = Passes(model.discriminator)
    fit(model, batches(1, 4), precision=trainers)
    seen = model.discriminator.precisions
    assert (seen.count(torch.bfloat16), seen.count(torch.float32)) == (low, full)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_shared_pass_gives_the_gradients_of_passes_apart(
    accumulate: int, toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, to 1e-9 of a step: the same mathematics, added up in another order."""
    found = []
    for at_samples in (True, False):
        monkeypatch.setattr(ZeroCentred, "at_samples", at_samples)
        settings = {"loss": RelativisticPairing(), "accumulate": accumulate}
        model, recorder = toy_gan(regularizers=[R1(5.0), R2(5.0, every=2)], **settings), Recorder()
        fit(model, batches(3, 8), precision="64-true", callbacks=[recorder])
        found.append((model, recorder))
    (shared, its), (apart, theirs) = found
    for a, b in zip(its.gradients, theirs.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert_same_weights(shared, apart, 1e-9)


def test_a_joint_pass_gives_the_gradients_of_two(
    toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, to 1e-9 of a step: where nothing depends on the batch, it is the same mathematics."""
    found = []
    for joint in (False, True):
        monkeypatch.setattr(GAN, "joint_pass", joint)
        model, recorder = toy_gan(num_classes=2, regularizers=[R1(5.0)]), Recorder()
        model.discriminator = Passes(model.discriminator)
        fit(model, batches(2, 8, classes=2), precision="64-true", callbacks=[recorder])
        assert len(model.discriminator.precisions) == 2 * (2 if joint else 3)
        found.append((model, recorder))
    for a, b in zip(found[0][1].gradients, found[1][1].gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert_same_weights(found[0][0], found[1][0], 1e-9)


def test_a_penalty_in_a_step_of_its_own_shares_no_pass(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan()
    regularizer = dataclasses.replace(R1(1.0, every=2).as_penalty(), own_step=True)
    model.penalties = lambda: [regularizer]  # type: ignore[method-assign]
    model.discriminator = Passes(model.discriminator)
    trainer = fit(model, batches(2, 4))
    assert len(model.discriminator.precisions) == (3 + 1) + 3
    assert {int(state["step"]) for state in trainer.optimizers[1].state.values()} == {3}
    assert trainer.global_step == 2


def test_penalties_that_share_steps_share_one_interval(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan()
    own = [dataclasses.replace(R1(1.0, every=n).as_penalty(), own_step=True) for n in (2, 4)]
    model.penalties = lambda: own  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"penalties of the discriminator .* one interval, not \[2, 4\]"):
        fit(model, batches(1, 4))
    assert model.samples_seen == 0


@pytest.mark.parametrize("settings", [{}, {"d_steps": 2}, {"d_steps": 2, "accumulate": 3}])
def test_global_step_counts_generator_steps(settings: dict[str, int], toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan(**settings)
    trainer = fit(model, batches(5, 6), max_steps=3)
    taken = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in trainer.optimizers]
    assert trainer.global_step == model.steps == 3
    assert taken == [{3}, {3 * settings.get("d_steps", 1)}]
    assert model.samples_seen == 3 * 6


def test_training_steps_outside_the_loop_count_nothing(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    """As trial steps before a fit are made."""

    class Trial(lightning.Callback):
        def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            trainer.strategy.training_step(batches(1, 4)[0], 0)

    assert fit(toy_gan(), batches(2, 4), callbacks=[Trial()]).global_step == 2


def test_an_optimizer_step_leaves_no_gradients(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan(regularizers=[R1(1.0)])
    fit(model, batches(2, 4))
    assert all(p.grad is None for p in model.parameters())


def test_every_network_moves_in_every_step(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan()
    before = [p.clone() for p in model.parameters()]
    fit(model, batches(1, 4))
    assert all((old != new).any() for old, new in zip(before, model.parameters(), strict=True))


# Schedules


class Settings(lightning.Callback):
    """Keeps what both optimizers stepped with."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[float], list[tuple[float, float]]]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:  # noqa: ANN401
        groups = [optimizer.param_groups[0] for optimizer in trainer.optimizers]
        self.seen.append(([group["lr"] for group in groups], [group["betas"] for group in groups]))


@pytest.mark.parametrize("d_lr", [None, 5e-3, Linear(5e-3, 1e-3, kimg=0.016)])
def test_rates_and_betas_follow_their_schedules(
    d_lr: float | Schedule | None, toy_gan: Toy, fit: Fit, batches: Batches
) -> None:
    lr, beta1, beta2 = Linear(1e-2, 0.0, kimg=0.016), Linear(0.9, 0.5, kimg=0.016), Linear(0.9, 0.99, kimg=0.032)
    recorder = Settings()
    fit(toy_gan(lr=lr, d_lr=d_lr, beta1=beta1, beta2=beta2), batches(4, 8), callbacks=[recorder])
    for step, (rates, betas) in enumerate(recorder.seen):
        kimg = step * 8 / 1000  # what was seen before the step
        expected = lr.at(kimg) if d_lr is None else d_lr.at(kimg) if isinstance(d_lr, Schedule) else d_lr
        assert rates == [lr.at(kimg), expected]
        assert betas == [(beta1.at(kimg), beta2.at(kimg))] * 2


def test_regularizers_follow_their_schedules_in_training(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    scheduled, eager = toy_gan(regularizers=[R1(Linear(5.0, 0.0, kimg=0.004))]), toy_gan(regularizers=[R1(5.0)])
    for model in (scheduled, eager):
        fit(model, batches(1, 4))
    assert_same_weights(scheduled, eager, 0.0)  # before the schedule moves
    for model in (scheduled, eager):
        fit(model, batches(2, 4))
    assert (scheduled.discriminator.linear.weight != eager.discriminator.linear.weight).any()


@pytest.mark.parametrize(
    ("every", "d_steps", "period"), [([], 1, 1), ([16], 1, 16), ([16], 2, 8), ([3], 2, 3), ([4, 6], 1, 12), ([1], 3, 1)]
)
def test_cost_repeats_after_its_period(every: list[int], d_steps: int, period: int, toy_gan: Toy) -> None:
    model = toy_gan(regularizers=[R1(1.0, n) for n in every], d_steps=d_steps)
    assert len(model.work_cycle()) == period
    penalties = model.penalties()
    due = [[p.due(step * d_steps + i) for i in range(d_steps) for p in penalties] for step in range(3 * period)]
    assert due[:period] * 3 == due
    shorter = [n for n in range(1, period) if period % n == 0]
    assert all(due[:n] * (period // n) != due[:period] for n in shorter)


# Clipping and mixed precision


def clipped_norms(trainer: lightning.Trainer) -> list[float]:
    """The norm of each network's gradient as Adam saw it in its first step: its first moment is (1 - beta1) of it."""
    return [
        math.sqrt(sum(float(state["exp_avg"].double().square().sum()) for state in optimizer.state.values())) / 0.5
        for optimizer in trainer.optimizers
    ]


def test_each_networks_gradient_is_clipped_to_the_norm(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    free = clipped_norms(fit(toy_gan(), batches(1, 8)))
    limit = min(free) / 2
    clipped = clipped_norms(fit(toy_gan(clip_norm=limit), batches(1, 8)))
    assert clipped == pytest.approx([limit, limit], rel=1e-4)  # torch adds 1e-6 to the norm that it divides by
    # The discriminator's gradient below the limit is left alone (the generator's depends on the discriminator's step).
    assert clipped_norms(fit(toy_gan(clip_norm=1e3), batches(1, 8))) == free


def test_the_norms_of_the_gradients_are_observed_before_clipping(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan()
    free = clipped_norms(fit(model, batches(1, 8)))
    reported = model.reported()
    assert [reported["g_grad_norm"], reported["d_grad_norm"]] == pytest.approx(free, rel=1e-4)
    model = toy_gan(clip_norm=free[1] / 2)
    fit(model, batches(1, 8), plugins=[scaling(1024.0)])
    assert model.reported()["d_grad_norm"] == pytest.approx(free[1], rel=1e-2)  # unscaled from float16, not clipped


def scaling(initial: float) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=initial, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_scaled_gradients_are_unscaled_before_they_are_clipped(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    limit = 1e-2
    trainer = fit(toy_gan(clip_norm=limit), batches(1, 8), plugins=[scaling(1024.0)])
    # Adam saw the clipped norm, neither 1024 times nor a 1024th of it.
    assert clipped_norms(trainer) == pytest.approx([limit, limit], rel=1e-4)


def test_float16_with_scaling_trains_as_float32_does(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    full, half = Recorder(), Recorder()
    settings: dict[str, Any] = {"regularizers": [R1(1.0, every=2)], "eps": 1e-4}  # so that tiny gradients move little
    fit(toy_gan(**settings), batches(3, 8), callbacks=[full])
    fit(toy_gan(**settings), batches(3, 8), callbacks=[half], plugins=[scaling(1024.0)])
    assert half.losses != full.losses
    assert half.losses == [pytest.approx(pair, rel=5e-3) for pair in full.losses]  # float16 keeps 11 bits


def test_an_overflowing_step_is_skipped_and_the_scale_halved(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model, plugin = toy_gan(), scaling(2.0**40)  # far above 65504, float16's largest number
    before = [p.clone() for p in model.parameters()]
    fit(model, batches(1, 8), plugins=[plugin])
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 2.0**38  # once for each optimizer


def test_bfloat16_steps_use_the_weights_of_the_step_before(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    """Autocast may keep its casts of weights: then G had no gradient, and the second D step the first's weights."""
    full, low = Recorder(), Recorder()
    settings: dict[str, Any] = {"d_steps": 2, "d_lr": 0.05, "eps": 1e-4}
    fit(toy_gan(**settings), batches(2, 8), callbacks=[full])
    fit(toy_gan(**settings), batches(2, 8), callbacks=[low], precision="bf16-mixed")
    assert low.losses == [pytest.approx(pair, rel=0.02) for pair in full.losses]  # bfloat16 keeps 8 bits
    stale = Recorder()
    fit(toy_gan(**{**settings, "d_lr": 1e-9}), batches(2, 8), callbacks=[stale])
    assert stale.losses != [pytest.approx(pair, rel=0.02) for pair in full.losses]
    assert all(float(g.abs().max()) > 0 for g in low.gradients[2])  # the generator's


def test_penalties_are_float32_under_autocast(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    seen: list[torch.dtype] = []

    class Watched(R1):
        def penalty(self, critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, samples_seen: int) -> Tensor:
            seen.extend([critic(real).dtype, fake.dtype])
            return super().penalty(critic, real, fake, samples_seen)

    fit(toy_gan(regularizers=[Watched(1.0)]), batches(1, 4), precision="bf16-mixed")
    assert seen == [torch.float32, torch.float32]


# Freezing


@pytest.mark.parametrize("count", [1, 3])
def test_frozen_layers_stay_bit_for_bit_and_the_rest_is_trained(count: int, fit: Fit, batches: Batches) -> None:
    """Through D's loss and a lazy penalty; the generator, whose gradients pass through them, learns all the same."""
    model = DCGAN((3, 16, 16), width=4, latent_dim=4, adversarial=AdversarialTraining(
        regularizers=[R1(1.0, every=2)], freeze_d=count))  # fmt: skip
    layers = model.discriminator_layers()
    assert [type(layer).__name__ for layer in layers[:3]] == ["Conv2d", "Conv2d", "BatchNorm2d"]
    first = [p for layer in layers[:count] for p in layer.parameters(recurse=False)]
    others = [p for p in model.discriminator.parameters() if all(p is not each for each in first)]
    before = [p.clone() for p in (*first, *others)], [p.clone() for p in model.generator.parameters()]
    trainer = fit(model, batches(3, 4, (3, 16, 16)))
    after = [*first, *others]
    assert [torch.equal(a, b) for a, b in zip(before[0], after, strict=True)] == [True] * len(first) + [False] * len(
        others
    )
    assert not any(map(torch.equal, before[1], model.generator.parameters()))
    assert not any(p in trainer.optimizers[1].state for p in first)  # no moments either
    assert not any(p.requires_grad for p in first)  # after generator steps, which freeze the whole of D, too


def test_more_layers_than_there_are_cannot_be_frozen() -> None:
    def frozen_dcgan(count: int) -> DCGAN:
        return DCGAN((3, 16, 16), width=4, latent_dim=4, adversarial=AdversarialTraining(freeze_d=count))

    count = len(frozen_dcgan(0).discriminator_layers())
    with pytest.raises(ValueError, match=f"freeze_d: {count + 1} layers, but this discriminator has {count}"):
        frozen_dcgan(count + 1)
    with pytest.raises(ValueError, match="freeze fewer"):
        frozen_dcgan(count)
    with pytest.raises(ValueError, match="freeze_d must be at least 0, not -1"):
        frozen_dcgan(-1)


def test_frozen_restores_what_was_trained() -> None:
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    with frozen(network):
        assert not any(p.requires_grad for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [True, False]


def test_an_error_in_the_generator_step_leaves_the_discriminator_trainable(
    toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_gan()
    frozen_there: list[bool] = []

    def broken(*arguments: object) -> Tensor:
        frozen_there.extend(not p.requires_grad for p in model.discriminator.parameters())
        raise KeyError("broken")

    monkeypatch.setattr(model, "generator_losses", broken)
    with pytest.raises(KeyError, match="broken"):
        fit(model, batches(1, 4))
    assert frozen_there == [True] * 4
    assert all(p.requires_grad for p in model.discriminator.parameters())


def test_the_generator_step_computes_no_gradient_of_the_discriminator(
    toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_gan()
    average = model.average.update
    found: list[object] = []

    def after_the_step(decay: float) -> None:
        found.extend(p.grad for p in model.discriminator.parameters())
        average(decay)

    monkeypatch.setattr(model.average, "update", after_the_step)
    fit(model, batches(1, 4))
    assert found == [None] * 4


# Augmentation


class Mirror(Augmentation):
    """Mirrors, shrinks and shifts; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.seen: list[int] = []

    def __call__(self, x: Tensor, samples_seen: int) -> Tensor:
        self.calls.append(len(x))
        self.seen.append(samples_seen)
        return 0.5 * x.flip(-1) + 0.3


class Mirrored(nn.Module):
    """A discriminator that looks through `Mirror` itself."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.discriminator(0.5 * x.flip(-1) + 0.3, labels)


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPairing()], ids=lambda loss: type(loss).__name__)
def test_everything_the_discriminator_sees_is_augmented(
    loss: AdversarialLoss, toy_gan: Toy, fit: Fit, batches: Batches
) -> None:
    settings: dict[str, Any] = {"loss": loss, "regularizers": [R1(2.0, every=2)], "d_steps": 2}
    augmented, looking = toy_gan(augmentation=Mirror(), **settings), toy_gan(**settings)
    looking.discriminator = Mirrored(looking.discriminator)
    for model in (augmented, looking):
        fit(model, batches(3, 8))
    assert_same_weights(augmented.generator, looking.generator, 0.0)  # the same operations in the same order
    assert_same_weights(augmented.discriminator, looking.discriminator.discriminator, 0.0)


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({}, 3),  # real and fake, then fake
        ({"loss": RelativisticPairing()}, 4),  # real and fake, twice
        ({"d_steps": 2, "accumulate": 2}, 10),  # twice in each of four, and once in the last two
        ({"regularizers": [R1(1.0)]}, 3),  # in the pass of the loss
        ({"regularizers": [GradientPenalty()]}, 4),
    ],
)
def test_augmentation_is_called_once_for_each_pass(
    settings: dict[str, Any], calls: int, toy_gan: Toy, fit: Fit, batches: Batches
) -> None:
    mirror = Mirror()
    fit(toy_gan(augmentation=mirror, **settings), batches(2, 8))
    assert len(mirror.calls) == 2 * calls
    assert mirror.seen == [0] * calls + [8] * calls


# Errors


@pytest.mark.parametrize("settings", [{"d_steps": 2}, {"accumulate": 2}, {"d_steps": 2, "accumulate": 3}])
def test_a_batch_that_does_not_split_is_an_error(
    settings: dict[str, int], toy_gan: Toy, fit: Fit, batches: Batches
) -> None:
    count = math.prod(settings.values())
    with pytest.raises(ValueError, match=f"a loader batch of 7 does not split into {count} micro-batches"):
        fit(toy_gan(**settings), batches(1, 7))


@pytest.mark.parametrize("name", ["d_steps", "accumulate"])
def test_counts_below_one_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        AdversarialTraining(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_strategies_that_cannot_train_a_gan_are_refused_in_a_sentence(strategy: type) -> None:
    with pytest.raises(
        ValueError, match=f"strategy {strategy.__name__} cannot train these models .*: use ddp$"
    ) as caught:
        refuse_strategy(object.__new__(strategy))  # DeepSpeed's constructor needs its package
    assert "\n" not in str(caught.value)


def test_other_strategies_are_not_refused() -> None:
    refuse_strategy(SingleDeviceStrategy("cpu"))


def test_refusal_comes_before_the_first_batch(
    toy_gan: Toy, fit: Fit, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.training.manual.FSDPStrategy", SingleDeviceStrategy)
    model = toy_gan()
    with pytest.raises(ValueError, match="cannot train these models"):
        fit(model, batches(1, 4))
    assert model.samples_seen == 0


# Randomness and phases


def test_training_does_not_depend_on_the_global_rng(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    first, second = toy_gan(), toy_gan()
    for seed, model in ((1, first), (2, second)):
        torch.manual_seed(seed)
        fit(model, batches(2, 4))
    assert_same_weights(first, second, 0.0)


def test_every_draw_of_latents_is_another(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan(d_steps=2, accumulate=2)
    drawn: list[Tensor] = []
    model.generator.register_forward_pre_hook(lambda module, arguments: drawn.append(arguments[0]))
    fit(model, batches(2, 8))
    latents = torch.cat(drawn)
    assert len(latents) == 2 * (8 + 4)
    assert len(latents.unique(dim=0)) == len(latents)


@pytest.mark.parametrize("reuse", [False, True])
def test_reused_fakes_save_the_generator_a_pass(reuse: bool, toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    model = toy_gan(reuse_fakes=reuse)
    passes: list[int] = []
    model.generator.register_forward_pre_hook(lambda module, arguments: passes.append(1))
    fit(model, batches(3, 4))
    assert len(passes) == (3 if reuse else 6)


def test_phases_name_the_parts_of_a_step(toy_gan: Toy, fit: Fit, batches: Batches) -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def observer(name: str) -> Iterator[None]:
        seen.append(name)
        yield

    model = toy_gan(regularizers=[GradientPenalty(every=2)])
    model.phase_observers.append(observer)
    fit(model, batches(2, 4))
    players = ["D step", "D step", "G step", "G step"]  # losses and gradients, then the optimizer's step
    assert seen == [players[0], "regularizer", *players[1:], *players]
