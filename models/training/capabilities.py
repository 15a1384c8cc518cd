"""What only some models can do, as commands and callbacks ask for it: never for a class of a family."""

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
        """Samples (N, *data_shape) of latents, as networks' modes and precision are; differentiable by the latents."""

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        return self.from_latents(self.latents_from(generators, settings), labels, settings)

    def draw_latents(self, indices: Sequence[int], *, seed: int = 0, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The latents that `sample` decodes for these indices, (N, ...)."""
        generators = [sample_generator(seed, int(index)) for index in indices]
        return self.latents_from(generators, settings or self.settings_class())

    @torch.no_grad()
    def decode(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) of latents; labels are zeros where left out."""
        return self.decode_with_graph(latents, labels, settings=settings)

    def decode_with_graph(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        *,
        settings: Any = None,  # noqa: ANN401
    ) -> Tensor:
        """As `decode`, and differentiable by the latents; pixels that it cuts off at -1 and 1 have no gradient."""
        settings = settings or self.settings_class()
        with self.sampling(settings):
            return self.from_latents(latents, self.given_labels(labels, len(latents)), settings).float()


class HasStyles(HasLatents, ABC):
    """A model that first makes an intermediate latent a layer of its latents: styles, which can be moved and mixed."""

    @abstractmethod
    def to_w(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Styles (N, layers, w_dim) of latents, truncated as the settings say."""

    @abstractmethod
    def from_w(
        self,
        ws: Tensor,
        *,
        noise: Sequence[Tensor] | None = None,
        settings: Any = None,  # noqa: ANN401
    ) -> Tensor:
        """Samples (N, *data_shape) of styles, which are truncated no further; not cut off at -1 and 1."""

    @property
    @abstractmethod
    def noise_sides(self) -> Sequence[int]:
        """Side in pixels of each noise, (N, 1, side, side), that `from_w` takes."""

    @abstractmethod
    def style_weights(self, settings: Any = None) -> list[Tensor]:  # noqa: ANN401
        """The linear maps (outputs, w_dim) by which the first, second, ... layer's style reaches its convolution."""


class HasLatentWeights(HasLatents, ABC):
    """A model whose latents first pass a linear map, whole, so that its weights tell what moves pictures most."""

    @abstractmethod
    def latent_weights(self, settings: Any = None) -> Tensor:  # noqa: ANN401
        """That map's weights, (outputs, latent_dim); classes left out."""


@runtime_checkable
class HasCritic(Protocol):
    """A model that can say how real a sample looks."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor: ...

    @property
    def zero_is_undecided(self) -> bool:
        """Whether a logit of 0 means that the critic cannot tell; elsewhere only differences mean something."""
        ...


@runtime_checkable
class Deployable(Protocol):
    """A model whose sampling is one module, forward(z[, labels]), that runs without the rest: for `export`."""

    def deployed(self, settings: Any = None) -> nn.Module: ...  # noqa: ANN401


class Encodes(GenerativeModel, ABC):
    """A model that finds the latent of a sample, and so can show what it keeps of it.

    It need not be one that draws latents: a VQ-VAE without a prior encodes and decodes, and cannot sample.
    """

    @abstractmethod
    def to_latents(self, x: Tensor, labels: Tensor, settings: Any) -> Tensor:  # noqa: ANN401
        """`encode`, as networks' modes and precision are."""

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Latents (N, ...), as `decode` takes them, of samples (N, *data_shape); where they are random, their mean."""
        settings = settings or self.settings_class()
        with self.sampling(settings):
            return self.to_latents(x.to(self.device), self.given_labels(labels, len(x)), settings)

    @abstractmethod
    def decode(self, latents: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """Samples (N, *data_shape) of latents."""

    def reconstruct(self, x: Tensor, labels: Tensor | None = None, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """What the model makes of samples (N, *data_shape) after encoding them, the same shape, in [-1, 1]."""
        return self.decode(self.encode(x, labels, settings=settings), labels, settings=settings)


@runtime_checkable
class HasCodes(Protocol):
    """A model that writes a sample as a grid of discrete codes, over which another model can be a prior."""

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The shape of a sample's codes, (h, w) for pictures."""
        ...

    @property
    def num_codes(self) -> int:
        """Codes there are: each is 0 to num_codes - 1."""
        ...

    def to_codes(self, x: Tensor, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The codes of samples (N, *data_shape): int64 (N, *code_shape)."""
        ...

    def from_codes(self, codes: Tensor, *, settings: Any = None) -> Tensor:  # noqa: ANN401
        """The samples (N, *data_shape), in [-1, 1], that codes int64 (N, *code_shape) stand for."""
        ...


class HasLikelihood(GenerativeModel, ABC):
    """A model that can say how probable it holds a sample.

    Of pictures, the probability of their bytes: each of the C x H x W values is one of 256, and the probabilities of
    all pictures add up to one. Of tokens likewise. Of vectors, such as points of the plane, a density.
    """

    likelihood_class: ClassVar[type[LikelihoodSettings]] = LikelihoodSettings
    likelihood_on_demand: ClassVar[bool] = False
    """Whether a likelihood costs so much more than a training step that it is computed only when asked for."""
    likelihood_unit: str = "dim"
    """What of a sample there are `data_shape.numel()` of, in a word: bits are counted a "dim" or a "character"."""

    @property
    def why_no_likelihood(self) -> str | None:
        """In one sentence with a remedy, why these settings leave the model without one; None where it has one."""
        return None

    @property
    @abstractmethod
    def likelihood_kind(self) -> str:
        """exact, or "lower bound, ..." or "estimate, ...", with how it comes about: it stands beside every figure."""

    @abstractmethod
    def log_likelihood(self, x: Tensor, labels: Tensor, generators: Sequence[torch.Generator], settings: Any) -> Tensor:  # noqa: ANN401
        """`log_prob`, in evaluation mode and without gradients; all noise comes from the samples' CPU generators."""

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

        Bits a dimension are -log_prob / (log 2 x values of a sample). A sample's figure does not depend on its batch;
        mode and RNG are left as they were.

        Args:
            x: (N, *data_shape), pictures in [-1, 1] as data modules give them.
            labels: int64 (N,); zeros where left out.
            indices: which samples they are, for the random numbers; 0 to N - 1 where left out.
            seed: likewise.
            settings: an instance of the family's `likelihood_class`; its defaults where left out.

        Raises:
            ValueError: if the model gives samples no probability.
        """
        if self.why_no_likelihood is not None:
            raise ValueError(self.why_no_likelihood)
        settings = self.likelihood_class() if settings is None else settings
        generators = [sample_generator(seed, int(i)) for i in (range(len(x)) if indices is None else indices)]
        with self.sampling(settings, "likelihood"):
            return self.log_likelihood(x, self.given_labels(labels, len(x)), generators, settings).double()
