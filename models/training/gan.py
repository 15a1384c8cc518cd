"""GAN: two players, and the only place that steps their optimizers.

A family adds networks and may override a hook. The step itself is the same for every family.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.parts.deployed import Deployed
from models.parts.losses import NonSaturating
from models.parts.ranks import sum_over_ranks, world_size
from models.parts.regularizers import MicroBatch, Penalty
from models.parts.schedules import value_at
from models.training.base import Batch
from models.training.capabilities import HasLatents
from models.training.checkpoint import own_fields
from models.training.ema import WeightAverage
from models.training.manual import ManualOptimization
from models.training.randomness import keyed_generator
from settings.sampling import GANSettings
from settings.training import AdversarialTraining


class GAN(ManualOptimization, HasLatents):
    """A generator, its average and a discriminator, trained in alternation.

    The family builds `generator(z, labels) -> x` and `discriminator(x, labels) -> logits (N,)`. Latents are standard
    normal, (N, latent_dim).
    """

    settings_class: ClassVar[type[GANSettings]] = GANSettings
    joint_pass: ClassVar[bool] = False
    """Whether the discriminator sees real and generated pictures in one pass. Batch statistics are then joint, and a
    spectral norm's power iteration advances once."""

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        adversarial: AdversarialTraining,
    ) -> None:
        super().__init__(data_shape, num_classes)
        adversarial.loss = adversarial.loss or NonSaturating()
        augmentation = adversarial.augmentation
        if augmentation is not None and augmentation.reads_signs and not adversarial.loss.zero_is_undecided:
            raise ValueError(
                f"{type(augmentation).__name__} adapts to the signs of logits, which have no meaning under "
                f"{type(adversarial.loss).__name__}: set target: null, and p to a number or a schedule"
            )
        self.latent_dim, self.adversarial = latent_dim, adversarial
        self.micro_batches = adversarial.d_steps * adversarial.accumulate
        # Convolutions run fastest in channels_last on all common devices, CPUs with bf16 units included.
        self.generator = generator.to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.average = WeightAverage(self.generator)
        self._latent_draws = 0
        self._judged: list[tuple[Tensor, Tensor]] | None = None  # pictures and their logits, while penalties share them
        if adversarial.freeze_d:
            freeze(self.discriminator, self.discriminator_layers(), adversarial.freeze_d)

    def networks(self) -> dict[str, nn.Module]:
        """Generator and discriminator, then networks trained along with the generator, in the order of their losses."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def averages(self) -> dict[str, WeightAverage]:
        return {"generator average": self.average}

    # The step.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The discriminator's steps, then one of the generator and of networks trained with it, on one loader batch."""
        settings = self.adversarial
        (g_optimizer, d_optimizer, *further), parts = self.begin_step(batch)
        rounds = [parts[i : i + settings.accumulate] for i in range(0, len(parts), settings.accumulate)]

        for i, micro_batches in enumerate(rounds):
            shared, others = self._due("discriminator", self.steps * settings.d_steps + i)
            with self.phase("D step"):
                reuse = settings.reuse_fakes and i == len(rounds) - 1
                fakes = [self.draw(labels, with_graph=reuse) for _, labels in micro_batches]
                for (x, labels), drawn in zip(micro_batches, fakes, strict=True):
                    real, fake = x, drawn.detach()
                    if shared:  # the penalties differentiate the logits that the loss computes
                        real, fake = x.detach().requires_grad_(True), fake.to(x.dtype).requires_grad_(True)
                        self._judged = []
                    losses = {"discriminator": self.discriminator_loss(real, fake, labels)}
                    self._backward(losses, [self._value(penalty, real, fake, labels) for penalty in shared])
                    self._judged = None
            self._step("discriminator", d_optimizer, others, micro_batches, fakes)

        with frozen(self.discriminator):
            with self.phase("G step"):
                for i, (real, labels) in enumerate(rounds[-1]):
                    fakes[i] = fakes[i] if settings.reuse_fakes else self.draw(labels, with_graph=True)
                    losses = self.generator_losses(fakes[i], real, labels)
                    self._backward(losses)
            for network, optimizer in zip(losses, (g_optimizer, *further), strict=True):
                _, others = self._due(network, self.steps)
                self._step(network, optimizer, others, rounds[-1], fakes)

        self.end_step(batch, settings.ema_halflife_kimg, settings.ema_rampup, settings.ema_start_kimg)

    def _due(self, network: str, step: int) -> tuple[list[Penalty], list[Penalty]]:
        """The penalties due in a network's step, counted from 0: those that share its loss's pass, and the others."""
        shared: list[Penalty] = []
        others: list[Penalty] = []
        for penalty in self.penalties():
            if penalty.network == network and penalty.due(step):
                as_loss = penalty.precision == "as_loss" or not torch.is_autocast_enabled(self.device.type)
                shares = penalty.of == "pass of the loss" and as_loss and not penalty.own_step
                (shared if shares else others).append(penalty)
        return shared, others

    def _backward(self, losses: dict[str, Tensor], penalties: Sequence[Tensor] = ()) -> None:
        """Adds each loss's gradient to the network of its name; if there are several, to no other network."""
        for name, loss in losses.items():
            self.observe({"generator": "g_loss", "discriminator": "d_loss"}.get(name, f"{name}_loss"), loss)
            alone: dict[str, Any] = {}
            if len(losses) > 1 or penalties:  # if penalties share a pass, samples need no gradient of the sum
                trained = [p for p in self.networks()[name].parameters() if p.requires_grad]
                alone = {"inputs": trained, "retain_graph": len(losses) > 1}
            self.manual_backward(sum(penalties, loss.mean()) / self.adversarial.accumulate, **alone)

    def _value(self, penalty: Penalty, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """A penalty's mean over a micro-batch, times its interval."""

        def critic(x: Tensor) -> Tensor:
            for judged, logits in self._judged or ():
                if judged is x:
                    return logits
            return self.discriminator(self.augmented(x), labels)

        assert penalty.value is not None
        value = penalty.value(MicroBatch(real, fake, labels, critic, self.samples_seen)).mean()
        self.observe(penalty.name, value)
        return value * penalty.every

    def _step(
        self,
        network: str,
        optimizer: Any,  # noqa: ANN401 - Lightning's wrapper
        penalties: list[Penalty],
        parts: list[Batch],
        fakes: list[Tensor],
    ) -> None:
        """One optimizer step on the gradients of loss and penalties; two, if a penalty has its own step."""
        trained, phase = self.networks()[network], "D step" if network == "discriminator" else "G step"
        own_step = any(penalty.own_step for penalty in penalties)
        if own_step:
            with self.phase(phase):
                self.update(trained, optimizer)
        for penalty in penalties:
            some = parts[:1] if penalty.of == "weights" else parts
            low = torch.is_autocast_enabled(self.device.type) and penalty.precision == "as_loss"
            with self.phase("regularizer"), torch.autocast(self.device.type, enabled=low):
                for (real, labels), fake in zip(some, fakes, strict=False):
                    value = self._value(penalty, real, fake.detach().to(real.dtype), labels)
                    self.manual_backward(value / len(some))
        with self.phase(phase):
            self.update(trained, optimizer, all_parameters=own_step)

    # The two players' losses, and further hooks.

    def draw(self, labels: Tensor, with_graph: bool) -> Tensor:
        """The generator's samples for a training batch."""
        with torch.set_grad_enabled(with_graph):
            return self.generator(self.training_latents(len(labels)), labels)

    def discriminate(self, x: Tensor, labels: Tensor) -> Tensor:
        """The discriminator as the losses call it, (N,): families may use a form that differentiates only once."""
        return self.discriminator(x, labels)

    def judge(self, pictures: Sequence[Tensor], labels: Tensor) -> Sequence[Tensor]:
        """The logits (N,) of each batch of pictures (N, *data_shape), which are augmented first."""
        discriminate = self.discriminate if self._judged is None else self.discriminator
        shown = [self.augmented(x) for x in pictures]
        logits: Sequence[Tensor]
        if self.joint_pass:
            logits = discriminate(torch.cat(shown), labels.repeat(len(shown))).chunk(len(shown))
        else:
            logits = [discriminate(x, labels) for x in shown]
        if self._judged is not None:
            self._judged += zip(pictures, logits, strict=True)
        return logits

    def augmented(self, x: Tensor) -> Tensor:
        augmentation = self.adversarial.augmentation
        return x if augmentation is None else augmentation(x, self.samples_seen)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """The discriminator's loss of each sample, (N,)."""
        real_logits, fake_logits = self.judge([real, fake], labels)
        self.observe("d_real", real_logits)
        self.observe("d_fake", fake_logits)
        if self.zero_is_undecided:
            self.observe("r_t", real_logits.sign())  # of overfitting: Karras et al. 2020 (ADA), eq. 1
        if self.adversarial.augmentation is not None:
            self.adversarial.augmentation.judged(real_logits)
        return self.adversarial.loss.discriminator(real_logits, fake_logits)

    def generator_losses(self, fake: Tensor, real: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses of each sample, (N,), by the name of the network that each trains.

        They may share a graph: each loss's gradient reaches its own network only. All are computed before any of these
        networks is updated.
        """
        loss, real_logits = self.adversarial.loss, None
        if loss.needs_real_in_generator_step:
            with torch.no_grad():
                (real_logits,) = self.judge([real], labels)
        (fake_logits,) = self.judge([fake], labels)
        return {"generator": loss.generator(fake_logits, real_logits)}

    def penalties(self) -> list[Penalty]:
        """Every term that is added to the losses' gradients: the config's regularizers, and the family's own."""
        return [regularizer.as_penalty() for regularizer in self.adversarial.regularizers]

    def discriminator_layers(self) -> list[nn.Module]:
        """The discriminator's layers, from the picture on, as `freeze_d` counts them.

        By default every module with parameters of its own, in the order of construction.
        """
        return layers_within(self.discriminator)

    # Random numbers of a step, and its end.

    def begin_step(self, batch: Batch) -> tuple[list[Any], list[Batch]]:
        self._latent_draws = 0
        return super().begin_step(batch)

    def training_latents(self, count: int) -> Tensor:
        """This rank's share of the joint batch's latents, which do not depend on the number of ranks."""
        self._latent_draws += 1
        joint = torch.randn(count * world_size(), self.latent_dim, generator=self.step_generator())
        mine = joint[self.global_rank :: world_size()]
        if self.device.type == "cuda":
            mine = mine.pin_memory()
        return mine.to(self.device, non_blocking=True)

    def step_generator(self, *key: int) -> torch.Generator:
        """A CPU generator, the same on every rank, keyed by the latents drawn so far in this step and by `key`."""
        assert self.training_seed is not None
        return keyed_generator(self.training_seed, self.samples_seen, self._latent_draws, *key)

    def count(self, batch: int) -> None:
        """Counts samples, and lets the augmentation adapt to the step's logits."""
        super().count(batch)
        augmentation = self.adversarial.augmentation
        if augmentation is not None:
            reported = augmentation.adapt(self.steps, self.samples_seen, sum_over_ranks)
            for name, value in reported.items():
                self.observe(name, value.to(self.device, non_blocking=True))

    # Optimizers, and what the list of penalties implies.

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = self.networks().items()
        return [torch.optim.Adam(each.parameters(), fused=self.fused, **self._adam(name)) for name, each in networks]

    def apply_schedules(self) -> None:
        for optimizer, network in zip(self.plain_optimizers(), self.networks(), strict=True):
            for group in optimizer.param_groups:
                group.update(self._adam(network))  # eps too: a resumed run may have another

    def _adam(self, network: str) -> dict[str, Any]:
        """Adam's settings for a network at this point of training."""
        settings, seen = self.adversarial, self.samples_seen
        lr = settings.d_lr if network == "discriminator" and settings.d_lr is not None else settings.lr
        c = self.lazy_correction(network)
        betas = value_at(settings.beta1, seen) ** c, value_at(settings.beta2, seen) ** c
        return {"lr": value_at(lr, seen) * c, "betas": betas, "eps": settings.eps}

    def lazy_correction(self, network: str) -> float:
        """c of Karras et al. 2020, appendix B: it multiplies Adam's learning rate and is the exponent of its betas.

        With k / (k + 1), the k + 1 steps that include one for penalties alone go as far as k steps would. Raises
        ValueError if penalties that share such a step differ in k.
        """
        intervals = {penalty.every for penalty in self.penalties() if penalty.network == network and penalty.own_step}
        if len(intervals) > 1:
            found = sorted(intervals)
            raise ValueError(f"penalties of the {network} share steps, and must share one interval, not {found}")
        return next((every / (every + 1) for every in intervals), 1.0)

    def work_cycle(self) -> list[tuple[str, ...]]:
        lazy = [penalty for penalty in self.penalties() if penalty.every > 1 and penalty.value is not None]
        steps = [self.adversarial.d_steps if penalty.network == "discriminator" else 1 for penalty in lazy]
        period = math.lcm(*(p.every // math.gcd(p.every, n) for p, n in zip(lazy, steps, strict=True)))
        return [
            tuple(p.name for p, n in zip(lazy, steps, strict=True) for i in range(n) if p.due(step * n + i))
            for step in range(period)
        ]

    @property
    def clip_norm(self) -> float | None:
        return self.adversarial.clip_norm

    def norm_name(self, optimizer: torch.optim.Optimizer) -> str:
        names = {"generator": "g", "discriminator": "d"}
        network = list(self.networks())[next(i for i, o in enumerate(self.plain_optimizers()) if o is optimizer)]
        return f"{names.get(network, network)}_grad_norm"

    # Sampling.

    def latents_from(self, generators: Sequence[torch.Generator], settings: GANSettings) -> Tensor:
        drawn = [_latent(generator, self.latent_dim, settings.truncation) for generator in generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)

    def from_latents(self, latents: Tensor, labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401 - the family's
        return self.sampled_network(settings)(latents.to(self.dtype), labels)

    def sampled_network(self, settings: Any) -> Any:  # noqa: ANN401 - settings with `weights`; the family's generator
        """The generator with the weights that the settings name."""
        return self.average.module if settings.weights == "ema" else self.generator

    def deployed(self, settings: Any = None) -> Deployed:  # noqa: ANN401 - the family's
        """A standalone copy of the averaged generator (or the raw one, if the settings say so), for `export`.

        It computes in float32. The caller draws the latents, so `settings.truncation` has no effect.
        """
        return Deployed(self.sampled_network(settings or self.settings_class()))

    @property
    def zero_is_undecided(self) -> bool:
        return self.adversarial.loss.zero_is_undecided

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """How real the discriminator finds samples, (N,); higher is more real."""
        return self.discriminator(x, y)

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.adversarial.augmentation is not None:
            checkpoint["atelier"]["augmentation"] = self.adversarial.augmentation.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.adversarial.augmentation is not None:
            self.adversarial.augmentation.load_state(own_fields(checkpoint).get("augmentation", {}))


def layers_within(network: nn.Module) -> list[nn.Module]:
    """The modules of `network` that have parameters of their own, in the order of construction."""
    return [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]


def freeze(discriminator: nn.Module, layers: Sequence[nn.Module], count: int) -> None:
    """Freezes the first `count` layers: Adam never moves them, but gradients still flow through them.

    Raises ValueError if there are fewer layers, or none would be left to train.
    """
    if count > len(layers):
        raise ValueError(f"freeze_d: {count} layers, but this discriminator has {len(layers)} that can be frozen")
    for layer in layers[:count]:
        for p in layer.parameters(recurse=False):
            p.requires_grad_(False)
    if not any(p.requires_grad for p in discriminator.parameters()):
        raise ValueError(f"freeze_d: {count} layers are all that this discriminator has; freeze fewer")


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Turns gradients for the parameters of `network` off, so that autograd skips the work of computing them."""

    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def _latent(generator: torch.Generator, latent_dim: int, truncation: float | None) -> Tensor:
    z = torch.randn(latent_dim, generator=generator)
    if truncation is not None:
        while (outside := z.abs() > truncation).any():
            z[outside] = torch.randn(int(outside.sum()), generator=generator)
    return z
