"""GAN: two players and the only place that steps their optimizers.

A family adds networks and, where it must, overrides a hook; the step itself is the same for every one of them.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from models.parts.augment import Augmentation
from models.parts.deployed import Deployed
from models.parts.losses import AdversarialLoss, NonSaturating
from models.parts.part import Part
from models.parts.regularizers import Regularizer
from models.parts.schedules import Schedule, value_at
from models.training.base import Batch, SamplerSettings, own_fields
from models.training.ema import WeightAverage, decay_for
from models.training.manual import ManualOptimization
from models.training.randomness import keyed_generator, sample_generator


@dataclass(frozen=True)
class LatentSettings(SamplerSettings):
    """How a GAN's samples are drawn."""

    truncation: float | None = None
    """Latent values beyond this magnitude are drawn again (Brock et al. 2019, section 3.1): fewer modes, but clean."""

    def __post_init__(self) -> None:
        if self.truncation is not None and self.truncation <= 0:
            raise ValueError(f"truncation must be positive, not {self.truncation}")


Penalty: TypeAlias = tuple[str, Callable[[], Tensor]]
"""A penalty's name in reports, and what computes it."""


class AdversarialTraining(Part):
    """How the two players are trained.

    Args:
        loss: the adversarial objective.
        regularizers: penalties on the discriminator.
        augmentation: what both players' pictures pass through before the discriminator sees them.
        lr: Adam's learning rate.
        d_lr: the discriminator's own, where it differs.
        beta1: Adam's first decay.
        beta2: Adam's second decay.
        eps: Adam's epsilon.
        d_steps: discriminator steps a generator step.
        accumulate: micro-batches whose gradients one optimizer step adds up; the step is that of the joint batch
            (batch statistics, where a network has them, remain those of a micro-batch, and a spectral norm's power
            iteration advances with each, as in Brock et al.'s code).
        clip_norm: each network's gradient norm is clipped to this.
        ema_halflife_kimg: half-life of the generator's average, in thousand samples.
        ema_rampup: the half-life never exceeds this share of the samples seen; None switches the ramp off.
        ema_start_kimg: the average is the generator itself until so many thousand samples were seen.
        reuse_fakes: the generator step reuses the fakes of the last discriminator step, as the PyTorch DCGAN example
            does: one generator pass less, at the memory of holding its activations through the discriminator step.
        freeze_d: so many layers of the discriminator, from the picture on, are never updated: FreezeD, for few pictures
            and weights that others trained (Mo, Cho & Shin 2020, arXiv:2002.10964). `GAN.discriminator_layers` counts.
    """

    def __init__(
        self,
        loss: AdversarialLoss | None = None,
        regularizers: list[Regularizer] | None = None,
        augmentation: Augmentation | None = None,
        lr: float | Schedule = 2e-4,
        d_lr: float | Schedule | None = None,
        beta1: float | Schedule = 0.5,
        beta2: float | Schedule = 0.999,
        eps: float = 1e-8,
        d_steps: int = 1,
        accumulate: int = 1,
        clip_norm: float | None = None,
        ema_halflife_kimg: float | Schedule = 10.0,
        ema_rampup: float | None = None,
        ema_start_kimg: float = 0.0,
        reuse_fakes: bool = False,
        freeze_d: int = 0,
    ) -> None:
        if freeze_d < 0:
            raise ValueError(f"freeze_d counts layers and must not be {freeze_d}")
        for name, count in (("d_steps", d_steps), ("accumulate", accumulate)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, not {count}")
        self.loss = NonSaturating() if loss is None else loss
        if augmentation is not None and augmentation.reads_signs and not self.loss.zero_is_undecided:
            raise ValueError(
                f"{type(augmentation).__name__} adapts to the signs of logits, which mean nothing under "
                f"{type(self.loss).__name__}: set target: null, and p to a number or a schedule"
            )
        self.regularizers = list(regularizers or [])
        self.augmentation = augmentation
        self.lr, self.d_lr = lr, d_lr
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.d_steps, self.accumulate = d_steps, accumulate
        self.clip_norm = clip_norm
        self.ema_halflife_kimg, self.ema_rampup = ema_halflife_kimg, ema_rampup
        self.ema_start_kimg = ema_start_kimg
        self.reuse_fakes = reuse_fakes
        self.freeze_d = freeze_d


class GAN(ManualOptimization):
    """A generator, its average and a discriminator, stepped in turn.

    `generator(z, labels) -> x` and `discriminator(x, labels) -> logits (N,)` are built by the family and given here.
    Latents are standard normal, (N, latent_dim).
    """

    settings_class: ClassVar[type[LatentSettings]] = LatentSettings

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
        self.latent_dim = latent_dim
        self.adversarial = adversarial
        self.micro_batches = adversarial.d_steps * adversarial.accumulate
        # `every` counts discriminator steps, of which a training step makes d_steps.
        d_steps = adversarial.d_steps
        self.cost_period = math.lcm(*(r.every // math.gcd(r.every, d_steps) for r in adversarial.regularizers))
        # Convolutions run fastest in channels_last everywhere that matters, CPUs with bf16 units included.
        self.generator = generator.to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.average = WeightAverage(self.generator)
        self._latent_draws = 0
        if adversarial.freeze_d:
            self._freeze(adversarial.freeze_d)

    # The contract.

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, **self.further_networks()}

    def averages(self) -> dict[str, nn.Module]:
        return {"generator average": self.average}

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: LatentSettings) -> Tensor:
        latents = torch.stack([_latent(generator, self.latent_dim, settings.truncation) for generator in generators])
        return self._decode(latents.to(self.device, non_blocking=True), labels, settings)

    def draw_latents(self, indices: Sequence[int], *, seed: int = 0, settings: LatentSettings | None = None) -> Tensor:
        """The latents that `sample` decodes for these indices, (N, latent_dim)."""
        truncation = (settings or LatentSettings()).truncation
        drawn = [_latent(sample_generator(seed, int(index)), self.latent_dim, truncation) for index in indices]
        return torch.stack(drawn).to(self.device)

    @torch.no_grad()
    def decode(
        self, latents: Tensor, labels: Tensor | None = None, *, settings: LatentSettings | None = None
    ) -> Tensor:
        """Samples (N, *data_shape) for latents (N, latent_dim)."""
        return self.decode_with_graph(latents, labels, settings=settings)

    def decode_with_graph(
        self, latents: Tensor, labels: Tensor | None = None, *, settings: LatentSettings | None = None
    ) -> Tensor:
        """As `decode`, and differentiable by the latents: for projection.

        Pixels that a family cuts off at -1 and 1 have no gradient.
        """
        wanted = torch.zeros(len(latents), dtype=torch.int64, device=self.device) if labels is None else labels
        settings = settings or self.settings_class()
        with self.phase("sampling"), self.evaluating(), self.computing_in(settings.precision):
            return self._decode(latents, wanted, settings).float()

    def _decode(self, latents: Tensor, labels: Tensor, settings: LatentSettings) -> Tensor:
        return self._sampled_network(settings)(latents.to(self.dtype), labels)

    def deployed(self, settings: LatentSettings | None = None) -> Deployed:
        """A copy of the averaged generator (the raw one, if the settings say so) that stands by itself, for `export`.

        Latents are the caller's, so `settings.truncation` has no say in it; it computes in float32.
        """
        return Deployed(self._sampled_network(settings or self.settings_class()))

    def _sampled_network(self, settings: LatentSettings) -> nn.Module:
        return self.average.module if settings.weights == "ema" else self.generator

    @property
    def zero_is_undecided(self) -> bool:
        return self.adversarial.loss.zero_is_undecided

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """How real the discriminator holds samples, (N,); higher is more real."""
        return self.discriminator(x, y)

    def lazy_work(self, step: int) -> tuple[str, ...]:
        d_steps = range(step * self.adversarial.d_steps, (step + 1) * self.adversarial.d_steps)
        regularizers = self.adversarial.regularizers
        return tuple(type(r).__name__ for r in regularizers for d_step in d_steps if r.every > 1 and r.due(d_step))

    # What a family may override.

    def prepare_real(self, x: Tensor) -> Tensor:
        """Real samples as this stage of training wants them (a growing model lowers their resolution)."""
        return x

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """The discriminator's loss of each sample, (N,)."""
        real_logits = self.judge(self._augmented(real), labels)
        fake_logits = self.judge(self._augmented(fake), labels)
        self.observe("d_real", real_logits)
        self.observe("d_fake", fake_logits)
        if self.zero_is_undecided:
            self.observe("r_t", real_logits.sign())  # of overfitting: Karras et al. 2020 (ADA), eq. 1
        if self.adversarial.augmentation is not None:
            self.adversarial.augmentation.judged(real_logits)
        return self.adversarial.loss.discriminator(real_logits, fake_logits)

    def generator_loss(self, fake: Tensor, real: Tensor, labels: Tensor) -> Tensor:
        """The generator's loss of each sample, (N,)."""
        loss = self.adversarial.loss
        real_logits = None
        if loss.needs_real_in_generator_step:
            with torch.no_grad():
                real_logits = self.judge(self._augmented(real), labels)
        return loss.generator(self.judge(self._augmented(fake), labels), real_logits)

    def judge(self, x: Tensor, labels: Tensor) -> Tensor:
        """The discriminator in the passes of a loss, (N,): a family may have a form that differentiates only once."""
        return self.discriminator(x, labels)

    def discriminator_layers(self) -> list[nn.Module]:
        """The discriminator's layers in their order from the picture on, as `freeze_d` counts them.

        By default every module with parameters of its own, in the order in which they were made.
        """
        return layers_within(self.discriminator)

    def extra_penalties(self, network: str, labels: Sequence[Tensor], step: int) -> list[Penalty]:
        """Penalties, by name, that an optimizer step of `network` adds to its gradients; none by default.

        Each is computed when its turn comes, once an optimizer step, in float32, and its gradients are added before the
        next is: a scalar, already weighted, lazy ones multiplied by their interval.

        Args:
            network: "generator" or "discriminator".
            labels: those of the step's micro-batches, int64 (N,) each.
            step: of this network, counted from 0.
        """
        return []

    def penalties_apart(self, network: str, step: int) -> bool:
        """Whether step `step` of `network` is followed by another for its penalties alone; never by default.

        Otherwise their gradients are added to those of the loss, and one step takes both.
        """
        return False

    def lazy_correction(self, network: str) -> float:
        """c of Karras et al. 2020, appendix B: Adam's learning rate is multiplied by it, its betas are raised to it.

        k / (k + 1) makes k + 1 steps, of which one is for penalties apart, go as far as k would; 1 by default.
        """
        return 1.0

    def further_networks(self) -> dict[str, nn.Module]:
        """Networks, by name, that optimizers of their own train in the generator's step; none by default.

        `generator_step_losses` gives each its loss. Learning rate, betas and clipping are the generator's.
        """
        return {}

    def generator_step_losses(self, fake: Tensor, real: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses of each sample, (N,), of the generator's step: "generator" and each of `further_networks`.

        They may share a graph: the gradients of each reach the network of its name alone. All are computed before the
        first of these networks is updated.
        """
        return {"generator": self.generator_loss(fake, real, labels)}

    def update_averages(self, decay: float) -> None:
        """Moves the averages on after a step, whose old values count by `decay`."""
        self.average.update(self.generator, decay)

    def on_samples_seen(self) -> None:
        """Called after every step, with `samples_seen` already counted."""

    # The step.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One generator update, with the discriminator updates before it, on one loader batch."""
        settings = self.adversarial
        self._leave_out_the_reducer()
        generator_optimizer, discriminator_optimizer, *further_optimizers = self._optimizers()
        self.seed_step()
        self._apply_schedules()
        rounds = self._rounds(batch)
        fakes: list[Tensor] = []

        for i, micro_batches in enumerate(rounds):
            reuse = settings.reuse_fakes and i == len(rounds) - 1
            with self.phase("D step"):
                fakes = [self._fakes(labels, with_graph=reuse) for _, labels in micro_batches]
                for (real, labels), fake in zip(micro_batches, fakes, strict=True):
                    loss = self.discriminator_loss(real, fake.detach(), labels).mean()
                    self.observe("d_loss", loss)
                    self.manual_backward(loss / settings.accumulate)
            step = self.steps * settings.d_steps + i
            if apart := self.penalties_apart("discriminator", step):
                with self.phase("D step"):
                    self._update(self.discriminator, discriminator_optimizer)
            self._regularize(micro_batches, fakes, step)
            self._penalize("discriminator", micro_batches, step)
            with self.phase("D step"):
                self._update(self.discriminator, discriminator_optimizer, all_parameters=apart)

        with self.phase("G step"), frozen(self.discriminator):
            for i, (real, labels) in enumerate(rounds[-1]):
                fake = fakes[i] if settings.reuse_fakes else self._fakes(labels, with_graph=True)
                self._backward_each(self.generator_step_losses(fake, real, labels))
            if apart := self.penalties_apart("generator", self.steps):
                self._update(self.generator, generator_optimizer)
                self._leave_uncounted(generator_optimizer)
            self._penalize("generator", rounds[-1], self.steps)
            self._update(self.generator, generator_optimizer, all_parameters=apart)
            for network, optimizer in zip(self.further_networks().values(), further_optimizers, strict=True):
                self._update(network, optimizer)

        joint = len(batch[0]) * self._world_size
        halflife = value_at(settings.ema_halflife_kimg, self.samples_seen)
        decay = decay_for(joint, self.samples_seen, halflife, settings.ema_rampup, settings.ema_start_kimg)
        self.update_averages(decay)
        self.count(joint)
        self._adapt_augmentation()
        self.on_samples_seen()

    def _rounds(self, batch: Batch) -> list[list[tuple[Tensor, Tensor]]]:
        """The loader batch as discriminator rounds of `accumulate` micro-batches each."""
        x, labels = batch
        if len(x) % self.micro_batches:
            raise ValueError(f"a loader batch of {len(x)} does not split into {self.micro_batches} micro-batches")
        x = self.prepare_real(x)
        size, per_round = len(x) // self.micro_batches, self.adversarial.accumulate
        pairs = list(zip(x.split(size), labels.split(size), strict=True))
        return [pairs[i : i + per_round] for i in range(0, len(pairs), per_round)]

    def _backward_each(self, losses: dict[str, Tensor]) -> None:
        """Adds each loss's gradients to those of the network of its name; where there are several, to no other's."""
        networks = self.networks()
        for name, loss in losses.items():
            mean = loss.mean()
            self.observe("g_loss" if name == "generator" else f"{name}_loss", mean)
            alone: dict[str, Any] = {}
            if len(losses) > 1:
                alone = {"inputs": [p for p in networks[name].parameters() if p.requires_grad], "retain_graph": True}
            self.manual_backward(mean / self.adversarial.accumulate, **alone)

    def _fakes(self, labels: Tensor, with_graph: bool) -> Tensor:
        with torch.set_grad_enabled(with_graph):
            return self.generator(self._training_latents(len(labels)), labels)

    def _training_latents(self, count: int) -> Tensor:
        """This rank's share of the joint batch's latents: the same numbers whatever the number of ranks."""
        self._latent_draws += 1
        assert self.training_seed is not None
        generator = keyed_generator(self.training_seed, self.samples_seen, self._latent_draws)
        joint = torch.randn(count * self._world_size, self.latent_dim, generator=generator)
        mine = joint[self.global_rank :: self._world_size]
        if self.device.type == "cuda":
            mine = mine.pin_memory()
        return mine.to(self.device, non_blocking=True)

    def _regularize(self, micro_batches: list[tuple[Tensor, Tensor]], fakes: list[Tensor], step: int) -> None:
        """Adds the gradients of the penalties that are due, in float32, to the discriminator's."""
        for regularizer in self.adversarial.regularizers:
            if not regularizer.due(step):
                continue
            with self.phase("regularizer"), torch.autocast(self.device.type, enabled=False):
                for (real, labels), fake in zip(micro_batches, fakes, strict=True):

                    def critic(x: Tensor, labels: Tensor = labels) -> Tensor:
                        return self.discriminator(self._augmented(x), labels)

                    penalty = regularizer.penalty(critic, real, fake.detach().to(real.dtype), self.samples_seen).mean()
                    self.observe(f"{type(regularizer).__name__.lower()}_penalty", penalty)
                    self.manual_backward(penalty * regularizer.every / self.adversarial.accumulate)

    def _penalize(self, network: str, micro_batches: list[tuple[Tensor, Tensor]], step: int) -> None:
        """Adds the gradients of the family's own penalties, in float32, to the network's."""
        for name, penalty in self.extra_penalties(network, [labels for _, labels in micro_batches], step):
            with self.phase("regularizer"), torch.autocast(self.device.type, enabled=False):
                value = penalty()
                self.observe(name, value)
                self.manual_backward(value)

    def _augmented(self, x: Tensor) -> Tensor:
        augmentation = self.adversarial.augmentation
        return x if augmentation is None else augmentation(x, self.samples_seen)

    def _adapt_augmentation(self) -> None:
        augmentation = self.adversarial.augmentation
        if augmentation is not None:
            reported = augmentation.adapt(self.steps, self.samples_seen, self._sum_over_ranks)
            for name, value in reported.items():
                self.observe(name, value.to(self.device, non_blocking=True))

    def _freeze(self, count: int) -> None:
        """Freezes the discriminator's first layers: no gradient, and so no step of Adam; the input's still flow.

        Raises:
            ValueError: if there are fewer, or nothing would be left to train.
        """
        layers = self.discriminator_layers()
        if count > len(layers):
            raise ValueError(f"freeze_d: {count} layers, and this discriminator has {len(layers)} that can be frozen")
        for layer in layers[:count]:
            for p in layer.parameters(recurse=False):
                p.requires_grad_(False)
        if not any(p.requires_grad for p in self.discriminator.parameters()):
            raise ValueError(f"freeze_d: {count} layers are all that this discriminator has: freeze fewer")

    # Optimizers.

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings = self.adversarial
        lr = value_at(settings.lr, 0)
        d_lr = lr if settings.d_lr is None else value_at(settings.d_lr, 0)
        betas = (value_at(settings.beta1, 0), value_at(settings.beta2, 0))
        return [
            torch.optim.Adam(network.parameters(), rate, betas, settings.eps, fused=self._fused)
            for name, network in self.networks().items()
            for rate in (d_lr if name == "discriminator" else lr,)
        ]

    def _optimizers(self) -> list[Any]:
        """Lightning's wrappers, generator first; only the generator's advances `trainer.global_step`.

        Lightning counts every optimizer step of manual optimization, so that two optimizers would double max_steps.
        The loop sets these two hooks anew for each batch, and takes them away after it.
        """
        self._latent_draws = 0
        optimizers: list[Any] = self.optimizers()  # type: ignore[assignment]
        for optimizer in optimizers[1:]:
            self._leave_uncounted(optimizer)
        return optimizers

    def _leave_uncounted(self, optimizer: Any) -> None:  # noqa: ANN401 - Lightning's wrapper
        """For the rest of this batch, steps of this optimizer do not advance `trainer.global_step`."""
        profiler = self.trainer.profiler  # type: ignore[attr-defined]
        optimizer._on_before_step = lambda: profiler.start("optimizer_step")
        optimizer._on_after_step = lambda: profiler.stop("optimizer_step")

    def _apply_schedules(self) -> None:
        settings, seen = self.adversarial, self.samples_seen
        d_lr = settings.lr if settings.d_lr is None else settings.d_lr
        betas = (value_at(settings.beta1, seen), value_at(settings.beta2, seen))
        for optimizer, network in zip(self._plain_optimizers(), self.networks(), strict=True):
            lr = d_lr if network == "discriminator" else settings.lr
            c = self.lazy_correction(network)
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = value_at(lr, seen) * c, (betas[0] ** c, betas[1] ** c)
                group["eps"] = settings.eps  # a run that goes on may do so with another

    @property
    def clip_norm(self) -> float | None:
        return self.adversarial.clip_norm

    def norm_name(self, optimizer: torch.optim.Optimizer) -> str:
        names = {"generator": "g", "discriminator": "d"}
        network = list(self.networks())[next(i for i, o in enumerate(self._plain_optimizers()) if o is optimizer)]
        return f"{names.get(network, network)}_grad_norm"

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
    """The modules of `network` that have parameters of their own, in the order in which they were made."""
    return [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the parameters of `network`: autograd then skips the work of computing them."""
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
