"""The interface of a metric: from the statistics of samples and real pictures to figures."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from features.inception import WEIGHTS_SHA256 as INCEPTION_SHA256
from records.figures import Direction, Figure

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.picture_set import PictureSet
    from metrics.real_statistics import RealStatistics
    from metrics.sample_statistics import SampleStatistics

Need: TypeAlias = Literal["gaussian", "rows", "neighbours", "logits", "labels", "modes", "pairs"]
"""What a pass may keep: mean and covariance of the features; all features; distances to their nearest neighbours; sums
of the logits; labels; each picture's mode; the perceptual distance of each pair of samples."""
OF_PICTURES: frozenset[Need] = frozenset({"rows", "neighbours", "labels", "modes"})
"""Needs that also apply to the real pictures, whose mean and covariance alone do not suffice."""


@dataclass(frozen=True)
class Context:
    """What is known before the measurement; `real` is None if only mean and covariance of `real_count` are known."""

    extractor: "Extractor"
    real: "PictureSet | None"
    fake: "PictureSet"
    real_count: int

    @property
    def fewest(self) -> int:
        return min(self.real_count, self.fake.count)


class Metric(ABC):
    """A way to compare samples with real pictures. To add one, write a subclass and enter it in `metrics.evaluation`.

    Attributes:
        name: As configs and flags call it.
        needs: What a pass over pictures must keep for it.
        only_if_named: Leaves it out if no metrics are named, because it may have to download weights.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    only_if_named: ClassVar[bool] = False

    @abstractmethod
    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        """Its figures by name, each with its direction; the one that decides "best" comes first."""

    def unavailable(self, context: Context) -> str | None:
        """Why it cannot be measured here, with a remedy; None if it can."""
        return None

    def note(self, context: Context) -> str | None:
        """What a reader must know about its figures here; None for nothing."""
        return None

    @abstractmethod
    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        """Its figures, from all samples and the real pictures. ValueError if the samples do not allow a figure.

        If nothing in `needs` is in `OF_PICTURES`, `real` may be a `GivenStatistics`, which has only `gaussian`.
        """


def figure_name(extractor: "Extractor", short: str, standard: str) -> str:
    """The name of a figure that depends on the extractor, such as fd_effnet.

    `standard` is its name with the network and weights that define it, such as fid.
    """
    is_standard = extractor.name == "Inception" and extractor.protocol()["weights_sha256"] == INCEPTION_SHA256
    return standard if is_standard else f"{short}_{extractor.name.lower()}"
