"""Capabilities that only some models have. Commands and callbacks ask for these, never for a family's class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.training.base import GenerativeModel
from models.training.randomness import sample_generator
from settings.likelihood import LikelihoodSettings


class HasLatents(GenerativeModel, ABC):
    """A model whose samples are functions of a latent that can be moved."""

    @abstractmethod
    def latents_from(self, generators: Sequence[torch.Generator], settings: Any) -> Tensor:  # noqa: ANN401
        """The next latent of each CPU generator, (N, ...), on the model's device."""

    @abstractmethod
    def from_latents(self, latents: Tensor, labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) of latents, in the networks' current mode and precision; differentiable."""

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        return self.from_latents(self.latents_from(generators, settings), labels, settings)

    def draw_latents(self, indices: Sequence[int], *, seed: int = 0, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The latents that `sample` decodes for these indices, (N, ...)."""
        generators = [sample_generator(seed, int(index)) for index in indices]
        return self.latents_from(generators, settings or self.settings_class())

    @torch.no_grad()
    def decode(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) of latents; labels default to zeros."""
        return self.decode_with_graph(latents, labels, settings=settings)

    def decode_with_graph(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """`decode`, differentiable with respect to the latents; pixels that it clamps to [-1, 1] have no gradient."""
        settings = settings or self.settings_class()
        with self.sampling(settings):
            return self.from_latents(latents, self.given_labels(labels, len(latents)), settings).float()


class HasStyles(HasLatents, ABC):
    """A model that maps its latents to an intermediate latent for each layer: styles, which can be moved and mixed."""

    @abstractmethod
    def to_w(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Styles (N, layers, w_dim) of latents, truncated as the settings say."""

    @abstractmethod
    def from_w(self, ws: Tensor, *, noise: Sequence[Tensor] | None = None, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) of styles, without further truncation and without clamping to [-1, 1]."""

    @property
    @abstractmethod
    def noise_sides(self) -> Sequence[int]:
        """The side in pixels of each noise (N, 1, side, side) that `from_w` takes."""

    @abstractmethod
    def style_weights(self, settings: Any = None) -> list[Tensor]:  # noqa: ANN401
        """The linear maps (outputs, w_dim) from the style of the first, second, ... layer to its convolution."""


class HasLatentWeights(HasLatents, ABC):
    """A model whose first layer maps the whole latent linearly, so that its weights show the strongest directions."""

    @abstractmethod
    def latent_weights(self, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The weights of that map, (outputs, latent_dim), without those for classes."""


@runtime_checkable
class HasCritic(Protocol):
    """A model that can score how real a sample looks."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor: ...

    @property
    def zero_is_undecided(self) -> bool:
        """Whether a logit of 0 means that the critic cannot tell; otherwise only differences have a meaning."""
        ...


@runtime_checkable
class Deployable(Protocol):
    """A model whose sampling is one module, forward(z[, labels]), that runs by itself: for `export`."""

    def deployed(self, settings: Any = None) -> nn.Module: ...  # noqa: ANN401


class Encodes(GenerativeModel, ABC):
    """A model that finds the latent of a sample, and so can reconstruct it.

    It need not draw latents: a VQ-VAE without a prior encodes and decodes, but cannot sample.
    """

    @abstractmethod
    def to_latents(self, x: Tensor, labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        """`encode`, in the networks' current mode and precision."""

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Latents (N, ...), as `decode` takes them, of samples (N, *data_shape); the mean, if they are random."""
        settings = settings or self.settings_class()
        with self.sampling(settings):
            return self.to_latents(x.to(self.device), self.given_labels(labels, len(x)), settings)

    @abstractmethod
    def decode(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) of latents."""

    def reconstruct(self, x: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape), encoded and decoded: the same shape, in [-1, 1]."""
        return self.decode(self.encode(x, labels, settings=settings), labels, settings=settings)


@runtime_checkable
class HasCodes(Protocol):
    """A model that represents a sample as a grid of discrete codes, over which a prior can be trained."""

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The shape of a sample's codes, (h, w) for pictures."""
        ...

    @property
    def num_codes(self) -> int:
        """The number of codes: each is 0 to num_codes - 1."""
        ...

    def to_codes(self, x: Tensor, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The codes of samples (N, *data_shape): int64 (N, *code_shape)."""
        ...

    def from_codes(self, codes: Tensor, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The samples (N, *data_shape), in [-1, 1], of codes int64 (N, *code_shape)."""
        ...


class HasLikelihood(GenerativeModel, ABC):
    """A model that gives samples a probability.

    For pictures it is the probability of their bytes: each of the C x H x W values is one of 256, and the probabilities
    of all pictures add up to one. The same holds for tokens. For vectors, such as points in the plane, it is a density.
    """

    likelihood_class: ClassVar[type[LikelihoodSettings]] = LikelihoodSettings
    likelihood_on_demand: ClassVar[bool] = False
    """Whether a likelihood costs so much more than a training step that it is computed only on request."""
    likelihood_unit: str = "dim"
    """The name of one of the sample's `data_shape.numel()` values: bits are given per "dim" or "character"."""

    @property
    def why_no_likelihood(self) -> str | None:
        """Why the model has no likelihood, in one sentence with a remedy; None if it has one."""
        return None

    @property
    @abstractmethod
    def likelihood_kind(self) -> str:
        """ "exact", or "lower bound, ..." or "estimate, ...", with the method. It stands beside every figure."""

    @abstractmethod
    def log_likelihood(self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: Any) -> Tensor:  # noqa: ANN401
        """`log_prob` in evaluation mode, without gradients; all noise comes from the samples' CPU generators."""

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        indices: Sequence[int] | None = None,
        seed: int = 0,
        settings: LikelihoodSettings | None = None,
    ) -> Tensor:
        """The natural logarithm of each sample's probability, or a bound or estimate of it: float64 (N,).

        Bits per dimension are -log_prob / (log 2 x values in a sample). A sample's result does not depend on its batch.
        Mode and RNG are restored.

        Args:
            x: (N, *data_shape), pictures in [-1, 1] as data modules give them.
            labels: int64 (N,); by default zeros.
            indices: which samples they are, for the random numbers; by default 0 to N - 1.
            seed: for the random numbers, too.
            settings: an instance of the family's `likelihood_class`; by default its defaults.

        Raises:
            ValueError: if the model gives samples no probability.
        """
        if self.why_no_likelihood is not None:
            raise ValueError(self.why_no_likelihood)
        settings = self.likelihood_class() if settings is None else settings
        generators = [sample_generator(seed, int(i)) for i in (range(len(x)) if indices is None else indices)]
        with self.sampling(settings, "likelihood"):
            return self.log_likelihood(x, self.given_labels(labels, len(x)), generators, settings).double()
