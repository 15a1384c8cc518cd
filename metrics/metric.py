"""What a metric is: from what one pass over samples and real pictures keeps, to figures."""

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
"""What a pass may keep: mean and covariance of the features; every feature; distances to the nearest of them; sums of
the logits; labels; the mode that each picture shows; the perceptual distance of each pair of samples."""
OF_PICTURES: frozenset[Need] = frozenset({"rows", "neighbours", "labels", "modes"})
"""Needs that the real pictures must serve too: their mean and covariance alone do not suffice."""


@dataclass(frozen=True)
class Context:
    """What is known before anything is measured.

    Attributes:
        extractor: Of the features.
        real: The real pictures; None where only their mean and covariance are known.
        fake: The samples.
        real_count: Real pictures behind the statistics.
    """

    extractor: "Extractor"
    real: "PictureSet | None"
    fake: "PictureSet"
    real_count: int

    @property
    def fewest(self) -> int:
        """Pictures on the side that has fewer."""
        return min(self.real_count, self.fake.count)


class Metric(ABC):
    """One way to judge samples by real pictures. To add one, write a subclass and enter it in `metrics.evaluation`.

    Attributes:
        name: What it is called in configs and flags.
        needs: What a pass over pictures must keep for it.
        only_if_named: Whether it is left out where no metrics are named, because it may have to download weights.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    only_if_named: ClassVar[bool] = False

    @abstractmethod
    def directions(self, extractor: "Extractor") -> dict[str, Direction]:
        """Its figures by name, each with which way it is better; the one that "best" goes by comes first."""

    def unavailable(self, context: Context) -> str | None:
        """Why it cannot be measured here, with a remedy; None if it can."""
        return None

    @abstractmethod
    def figures(self, real: "RealStatistics", fake: "SampleStatistics") -> dict[str, Figure]:
        """Its figures, from all samples and the real pictures.

        Where nothing in `needs` is of `OF_PICTURES`, `real` may be a `GivenStatistics`, which has but `gaussian`.

        Raises:
            ValueError: what the samples hold allows no figure; one line.
        """


def named(extractor: "Extractor", short: str, standard: str) -> str:
    """The name of a figure that depends on the extractor, such as fd_effnet.

    `standard` is what it is called on the network and weights that it was defined with, such as fid.
    """
    is_standard = extractor.name == "Inception" and extractor.protocol()["weights_sha256"] == INCEPTION_SHA256
    return standard if is_standard else f"{short}_{extractor.name.lower()}"
