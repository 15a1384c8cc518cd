"""Flow matching (Lipman et al. 2023) and EDM (Karras et al. 2022): an ODE from noise to data, and its likelihood.

python main.py fit --config configs/flow_matching_fashion_mnist.yaml

An objective determines the path between noise and data, what the network learns of it, and the resulting velocity. The
rest is common: dequantised pictures, guidance, solvers, latents, the likelihood.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from media.pictures import LEVELS
from models.parts.arguments import UNKNOWN_DATA, at_least, classes_seen, picture_shape
from models.parts.ode import integrate, integrate_density
from models.parts.output_distributions import DEQUANTIZED_LOG_WIDTH, HALF_STEP, dequantized
from models.parts.unet import MLP, UNet
from models.training.capabilities import Encodes, HasLatents, HasLikelihood
from models.training.randomness import normals
from models.training.single_loss import SingleLoss
from settings.configurable import Configurable
from settings.fields import check_choice
from settings.likelihood import FlowMatchingLikelihood
from settings.sampling import FlowMatchingSettings, Solver
from settings.training import Optimization

Network: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A network's output for noisy samples (N, ...) and the noise level of each, (N,)."""

EXACT_UP_TO = 3
"""Samples with at most this many values get the exact divergence from "auto"; it costs one gradient for each."""


class Objective(Configurable, ABC):
    """The path between noise and data, and what the network learns of it."""

    prior_std: float = 1.0
    """The noise at the start of the path is a standard normal latent times this."""
    singular_end: bool = False
    """Whether the velocity is undefined at the last time."""

    @abstractmethod
    def loss(self, network: Network, x: Tensor, noise: Tensor, chance: Tensor) -> Tensor:
        """The loss (N,) of data and standard normal noise (N, ...), at times given by `chance`, in [0, 1).

        It is a mean over a sample's values. The EDM authors' code sums over them; for Adam that is the same.
        """

    @abstractmethod
    def velocity(self, network: Network, x: Tensor, time: float) -> Tensor:
        """dx/dtime of the probability-flow ODE at points (N, ...)."""

    @abstractmethod
    def times(self, steps: int) -> list[float]:
        """steps + 1 times, from noise to data."""

    def density_times(self, steps: int) -> list[float]:
        """steps + 1 times, from data to noise, with a velocity at each."""
        return self.times(steps)[::-1]


class ConditionalOT(Objective):
    """Straight paths (Lipman et al. 2023, section 4.1, example II): x_t = (1 - (1 - sigma_min) t) x_0 + t x_1.

    Time 0 is noise x_0 and time 1 data x_1, as in the paper; the network learns dx_t/dt = x_1 - (1 - sigma_min) x_0.
    The ODE ends in the data blurred by `sigma_min`, and so does the density.

    Args:
        sigma_min: standard deviation of that blur, in the data's units; 0, the default, blurs nothing.
    """

    def __init__(self, sigma_min: float = 0.0) -> None:
        if not 0 <= sigma_min < 1:
            raise ValueError(f"sigma_min must lie in [0, 1), not {sigma_min}")
        self.sigma_min = sigma_min

    def path(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t (N, ...) at times (N,)."""
        time = _as_column(time, x)
        return (1 - (1 - self.sigma_min) * time) * noise + time * x

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """The path's derivative by time, which is constant."""
        return x - (1 - self.sigma_min) * noise

    def loss(self, network: Network, x: Tensor, noise: Tensor, chance: Tensor) -> Tensor:
        found = network(self.path(x, noise, chance), chance)
        return (found - self.target(x, noise)).square().flatten(1).mean(1)

    def velocity(self, network: Network, x: Tensor, time: float) -> Tensor:
        return network(x, x.new_full((len(x),), time))

    def times(self, steps: int) -> list[float]:
        return [i / steps for i in range(steps + 1)]


class EDM(Objective):
    """Denoising at all noise levels (Karras et al. 2022, table 1, column "Ours"); time is the noise's sigma.

    dx/dsigma = (x - D(x; sigma)) / sigma. Sampling goes from `sigma_max` to `sigma_min` and on to 0. The likelihood is
    that of data blurred by `sigma_min`, and takes the noise at `sigma_max` as normal with that deviation.

    Args:
        p_mean: mean of ln(sigma) in training.
        p_std: its standard deviation.
        sigma_data: the data's standard deviation.
        sigma_min: the last noise level before 0.
        sigma_max: the first.
        rho: how much the steps shorten towards low noise levels.
    """

    singular_end = True

    def __init__(
        self,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
    ) -> None:
        if not 0 < sigma_min < sigma_max or min(p_std, sigma_data, rho) <= 0:
            raise ValueError("EDM needs 0 < sigma_min < sigma_max, and p_std, sigma_data and rho above 0")
        self.p_mean, self.p_std, self.sigma_data = p_mean, p_std, sigma_data
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.prior_std = sigma_max

    def preconditioning(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and c_noise: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)."""
        total = sigma.square() + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt()
        return c_skip, c_out, total.rsqrt(), sigma.log() / 4

    def denoised(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D(x; sigma) of noisy samples (N, ...) and noise levels (N,) (eq. 7)."""
        c_skip, c_out, c_in, c_noise = self.preconditioning(sigma)
        return _as_column(c_skip, x) * x + _as_column(c_out, x) * network(_as_column(c_in, x) * x, c_noise)

    def loss(self, network: Network, x: Tensor, noise: Tensor, chance: Tensor) -> Tensor:
        """lambda(sigma) |D - x|^2, written as |F - its target|^2, which is the same by eq. 8."""
        tiny = torch.finfo(chance.dtype).eps
        sigma = (self.p_mean + self.p_std * torch.special.ndtri(chance.clamp(tiny, 1 - tiny))).exp()
        c_skip, c_out, c_in, c_noise = self.preconditioning(sigma)
        noisy = x + _as_column(sigma, x) * noise
        target = (x - _as_column(c_skip, x) * noisy) / _as_column(c_out, x)
        found = network(_as_column(c_in, x) * noisy, c_noise)
        return (found - target).square().flatten(1).mean(1)

    def velocity(self, network: Network, x: Tensor, time: float) -> Tensor:
        return (x - self.denoised(network, x, x.new_full((len(x),), time))) / time

    def times(self, steps: int) -> list[float]:
        """`steps` noise levels (eq. 5) and 0."""
        return [*self._levels(steps - 1), 0.0]

    def density_times(self, steps: int) -> list[float]:
        return self._levels(steps)[::-1]

    def _levels(self, steps: int) -> list[float]:
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [(first + i / max(steps, 1) * (last - first)) ** self.rho for i in range(steps + 1)]


def _as_column(values: Tensor, x: Tensor) -> Tensor:
    """Values (N,), one per sample, shaped to multiply samples (N, ...)."""
    return values.view(-1, *(1,) * (x.ndim - 1))


class FlowMatching(SingleLoss, HasLatents, Encodes, HasLikelihood):
    """A network that is the velocity of an ODE from noise to data: a U-Net for pictures, an MLP for vectors.

    The defaults are EDM's network for CIFAR-10 (55.7 million parameters), trained by flow matching.

    Args:
        data_shape: (C, H, W) with H = W, or (D,).
        num_classes: number of classes in the data; used if `conditional`.
        objective: the path and what is learned of it; by default `ConditionalOT`.
        width: channels that the multipliers multiply; for an MLP, its hidden units.
        multipliers: of the U-Net's resolutions, from the pictures' own down.
        blocks: residual blocks of each resolution; for an MLP, its hidden layers.
        attention: sides in pixels at which the U-Net has attention.
        dropout: of the U-Net's blocks.
        adaptive_scale: the U-Net's embedding scales and shifts; otherwise it is added.
        conditional: whether the network sees the labels.
        label_dropout: share of training samples that lose their label; above 0 the model can be guided.
        dequantize: spreads pictures' bytes evenly over their 256ths in training, without which their density has no
            bound and bits per dimension mean little. Vectors are never dequantised.
        sampler_steps: steps of the ODE if the settings name none.
        solver: of the ODE if the settings name none.
        optimization: how the network is trained.
    """

    settings_class: ClassVar[type[FlowMatchingSettings]] = FlowMatchingSettings
    likelihood_class: ClassVar[type[FlowMatchingLikelihood]] = FlowMatchingLikelihood
    likelihood_on_demand: ClassVar[bool] = True

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int = 0,
        objective: Objective | None = None,
        width: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        adaptive_scale: bool = False,
        conditional: bool = False,
        label_dropout: float = 0.0,
        dequantize: bool = True,
        sampler_steps: int = 20,
        solver: Solver = "heun",
        optimization: Optimization | None = None,
    ) -> None:
        if data_shape is None or num_classes is None:
            raise ValueError(UNKNOWN_DATA)
        if label_dropout and not conditional:
            raise ValueError("label_dropout needs labels: set conditional: true")
        for name, share in (("label_dropout", label_dropout), ("dropout", dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {share}")
        at_least(1, width=width, blocks=blocks, sampler_steps=sampler_steps)
        check_choice("solver", solver, Solver)
        classes = classes_seen(num_classes, conditional)
        network: nn.Module
        if len(data_shape) == 1:
            network = MLP(data_shape[0], width, blocks, classes)
        else:
            channels, height, side = picture_shape(data_shape)
            if height != side:
                raise ValueError(f"FlowMatching draws square pictures, not {height}x{side}: set data.resolution")
            if width % 4:
                raise ValueError(f"width must be divisible by 4, not {width}")
            network = UNet(channels, side, width, multipliers, blocks, attention, dropout, adaptive_scale, classes)
        super().__init__(data_shape, num_classes, network, Optimization() if optimization is None else optimization)
        self.objective = ConditionalOT() if objective is None else objective
        self.width, self.multipliers, self.blocks, self.attention = width, multipliers, blocks, attention
        self.dropout, self.adaptive_scale = dropout, adaptive_scale
        self.conditional, self.label_dropout = conditional, label_dropout
        self.dequantize, self.sampler_steps, self.solver = dequantize, sampler_steps, solver

    @property
    def draws_pictures(self) -> bool:
        return len(self.data_shape) == 3

    # Training.

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        # One shift for the whole batch spreads its times evenly, each uniform (Kingma et al. 2021, appendix I.1).
        shift = torch.rand((), device=x.device, dtype=x.dtype)
        chance = (shift + torch.arange(len(x), device=x.device, dtype=x.dtype) / len(x)) % 1
        if self.draws_pictures and self.dequantize:
            x = dequantized(x, torch.rand_like(x))
        noise, labels = torch.randn_like(x), self._some_dropped(labels)
        return self.objective.loss(lambda x, level: self.network(x, level, labels), x, noise, chance)

    def _some_dropped(self, labels: Tensor) -> Tensor:
        """The labels, with a share of them replaced by `num_classes`, which stands for no label."""
        if not self.label_dropout:
            return labels
        dropped = torch.rand(len(labels), device=labels.device) < self.label_dropout
        return torch.where(dropped, self.num_classes, labels)

    # Sampling.

    def settled(self, settings: FlowMatchingSettings) -> FlowMatchingSettings:
        """The settings, with the model's own steps and solver if they name none."""
        steps, solver = self._steps_and_solver(settings)
        return dataclasses.replace(settings, sampler_steps=steps, solver=solver)

    def _steps_and_solver(self, settings: FlowMatchingSettings) -> tuple[int, Solver]:
        return settings.sampler_steps or self.sampler_steps, settings.solver or self.solver

    def latents_from(self, generators: Sequence[torch.Generator], settings: FlowMatchingSettings) -> Tensor:
        """The standard normal noise that `sample` starts with, flat: (N, values of a sample)."""
        return normals(generators, math.prod(self.data_shape)).to(self.device).to(self.dtype)

    def from_latents(self, latents: Tensor, labels: Tensor, settings: FlowMatchingSettings) -> Tensor:
        steps, solver = self._steps_and_solver(settings)
        start = latents.to(self.dtype).view(-1, *self.data_shape) * self.objective.prior_std
        if self.draws_pictures:
            start = start.contiguous(memory_format=torch.channels_last)
        times, velocity = self.objective.times(steps), self._velocity(labels, settings)
        end = integrate(velocity, start, times, solver, self.objective.singular_end)
        return self._as_pictures(end) if self.draws_pictures else end

    def to_latents(self, x: Tensor, labels: Tensor, settings: FlowMatchingSettings) -> Tensor:
        """The start from which the ODE leads to x, up to the solver's error; of bytes, to the middle of each."""
        steps, solver = self._steps_and_solver(settings)
        start = (self._from_pictures(x) if self.draws_pictures else x).to(self.dtype)
        end = integrate(self._velocity(labels, settings), start, self.objective.density_times(steps), solver)
        return (end / self.objective.prior_std).flatten(1).float()

    def _velocity(self, labels: Tensor, settings: FlowMatchingSettings) -> Callable[[Tensor, float], Tensor]:
        network, guidance = self.chosen_network(settings.weights), settings.guidance
        if guidance == 1.0:
            return lambda x, time: self.objective.velocity(lambda x, level: network(x, level, labels), x, time)
        if not self.label_dropout:
            raise ValueError(
                f"guidance {guidance} needs a model that was trained with and without labels, with conditional: true "
                "and label_dropout above 0; leave guidance at 1"
            )
        both = torch.cat([labels, torch.full_like(labels, self.num_classes)])

        def guided(x: Tensor, level: Tensor) -> Tensor:
            # It guides the network's output: velocities are linear in it, so they are guided alike.
            with_label, without = network(torch.cat([x, x]), torch.cat([level, level]), both).chunk(2)
            return without + guidance * (with_label - without)

        return lambda x, time: self.objective.velocity(guided, x, time)

    def _as_pictures(self, x: Tensor) -> Tensor:
        """The ODE's end as pictures: a value within a byte's 256th of [-1, 1] rounds to that byte."""
        if self.dequantize:
            x = (((x + 1) * (LEVELS / 2)) - 0.5) * (2 / (LEVELS - 1)) - 1
        return x.clamp(-1, 1)

    def _from_pictures(self, x: Tensor) -> Tensor:
        return ((x + 1) * ((LEVELS - 1) / 2) + 0.5) * (2 / LEVELS) - 1 if self.dequantize else x

    # The likelihood.

    @property
    def likelihood_kind(self) -> str:
        bound = " of a lower bound by uniform dequantisation" if self.draws_pictures else ""
        return f"estimate{bound}, probability-flow ODE solved as the settings say"

    def log_likelihood(
        self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: FlowMatchingLikelihood
    ) -> Tensor:
        velocity = self._velocity(labels, FlowMatchingSettings(settings.weights, settings.precision))
        times = self.objective.density_times(settings.steps)
        total = x.new_zeros(len(x), dtype=torch.float64)
        small = math.prod(self.data_shape) <= EXACT_UP_TO
        exact = settings.divergence == "exact" or (settings.divergence == "auto" and small)
        for _ in range(settings.draws):
            start, log_width = self._continuous(x.to(self.dtype), generators)
            probe = None
            if not exact:
                signs = [torch.randint(2, self.data_shape, generator=generator) * 2 - 1 for generator in generators]
                probe = torch.stack(signs).to(start)
            end, integral = integrate_density(velocity, start, times, settings.solver, probe)
            total += (_log_normal(end.double(), self.objective.prior_std) + integral.double()) + log_width
        return total / settings.draws

    def _continuous(self, x: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, float]:
        """Samples in the ODE's space, and the logarithm of the volume that each of them stands for.

        Without `dequantize` the network saw bytes as points of a grid; the density is that of the cells around them.
        """
        if not self.draws_pictures:
            return x, 0.0
        noise = torch.stack([torch.rand(self.data_shape, generator=generator) for generator in generators]).to(x)
        values = math.prod(self.data_shape)
        if self.dequantize:
            return dequantized(x, noise), values * DEQUANTIZED_LOG_WIDTH
        return x + (2 * noise - 1) * HALF_STEP, values * math.log(2 * HALF_STEP)


def _log_normal(x: Tensor, std: float) -> Tensor:
    """The log-density (N,) of independent normal values (N, ...) of mean 0."""
    x = x.flatten(1)
    return -0.5 * (x / std).square().sum(1) - x.shape[1] * math.log(std * math.sqrt(2 * math.pi))
