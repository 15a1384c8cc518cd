"""Times quality figures on given features: ours, torch-fidelity, torchmetrics, pytorch-fid, clean-fid, prdc.

    python tests/benchmarks/quality_figures.py [--counts 10000 50000] [--rounds 5] [--dimension 2048] [--figures …]

The libraries that are installed are timed. They alternate in one process on the same features, so that other work on
the machine affects all of them equally, and no network runs. The FID has two stages, which are timed separately:
statistics from features, batch by batch, and the figure from statistics.

The features are random, but resemble a network's: correlated, with a power-law spectrum, clamped at zero, float32. The
generated ones are slightly shifted and narrower. Each library computes in its default precision. For KID, precision and
recall that is float32 in torch-fidelity, and float64 here.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from metrics.frechet import GaussianStatistics, frechet_distance
from metrics.inception_score import ScoreStatistics, inception_score
from metrics.kernel import kernel_distance
from metrics.neighbours import neighbour_distances, neighbour_figures

BATCH = 500
CLASSES = 1008
SPLITS = 10
MOST_PAIRS = 20_000**2
"""prdc keeps several square matrices, so it is timed only up to this many pairs."""

Values = dict[str, float]


@dataclass
class Contender:
    """One library's computation of one stage of a figure."""

    stage: str
    name: str
    run: Callable[[], Values]
    seconds: list[float] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    failure: str = ""

    def turn(self) -> None:
        """Runs once and keeps the time. After a failure, it does not run again."""
        if self.failure:
            return
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.values = self.run()
        except Exception as error:  # a library that does not work with an installed version
            self.failure = f"{type(error).__name__}: {error}".splitlines()[0]
            return
        self.seconds.append(time.perf_counter() - start)


@dataclass(frozen=True)
class Inputs:
    """Features of both sets, float32 (N, D), and logits of the generated one, float32 (N, classes)."""

    generated: np.ndarray
    real: np.ndarray
    logits: Tensor


def inputs(count: int, dimension: int) -> Inputs:
    """Correlated, skewed features, and uncertain predictions with uneven classes."""
    draws = torch.Generator().manual_seed(0)
    mixing = torch.randn(dimension, dimension, generator=draws) * torch.arange(1.0, dimension + 1)[:, None] ** -0.5
    offset = 0.5 * torch.randn(dimension, generator=draws)

    def features(scale: float, shift: float) -> np.ndarray:
        latents = scale * torch.randn(count, dimension, generator=draws)
        return (latents @ mixing + offset + shift).relu().mul(0.3).numpy()

    logits = 4 * torch.randn(count, CLASSES, generator=draws) + torch.randn(CLASSES, generator=draws)
    return Inputs(features(0.95, 0.05), features(1.0, 0.0), logits)


def gaussian(features: np.ndarray) -> GaussianStatistics:
    """Our statistics, gathered batch by batch."""
    gathered = GaussianStatistics.empty(features.shape[1])
    for batch in torch.from_numpy(features).split(BATCH):
        gathered.update(batch)
    return gathered


def trace(covariance: np.ndarray) -> Values:
    """The value by which statistics are compared."""
    return {"trace": float(covariance.trace())}


class Given(nn.Module):
    """The identity, where torchmetrics asks for a feature network."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.num_features = dimension

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(data: Inputs) -> list[Contender]:
    """FID: the statistics of one set, and the distance between two."""
    stages = "FID, statistics", "FID, figure"
    ours = gaussian(data.generated), gaussian(data.real)
    found = [
        Contender(stages[0], "ours", lambda: trace(gaussian(data.generated).covariance().numpy())),
        Contender(stages[1], "ours", lambda: {"fid": frechet_distance(*ours)}),
    ]
    moments = [(one.mean.numpy(), one.covariance().numpy()) for one in ours]
    (mean_a, covariance_a), (mean_b, covariance_b) = moments
    with contextlib.suppress(ImportError):
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        pair = [{"mu": mean, "sigma": covariance} for mean, covariance in moments]
        generated = torch.from_numpy(data.generated)
        found += [
            Contender(stages[0], "torch-fidelity", lambda: trace(fid_features_to_statistics(generated)["sigma"])),
            Contender(
                stages[1],
                "torch-fidelity",
                lambda: {"fid": fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]},
            ),
        ]
    with contextlib.suppress(ImportError):
        from torchmetrics.image.fid import FrechetInceptionDistance

        def metric() -> FrechetInceptionDistance:
            made = FrechetInceptionDistance(Given(data.real.shape[1]), compute_with_cache=False)
            made.set_dtype(torch.float64)
            return made

        def update(made: FrechetInceptionDistance, features: np.ndarray, real: bool) -> Values:
            for batch in torch.from_numpy(features).split(BATCH):
                made.update(batch, real=real)
            return {}

        full = metric()
        update(full, data.generated, False)
        update(full, data.real, True)
        found += [
            Contender(stages[0], "torchmetrics", lambda: update(metric(), data.generated, False)),
            Contender(stages[1], "torchmetrics", lambda: {"fid": float(full.compute())}),
        ]
    with contextlib.suppress(ImportError):
        from pytorch_fid.fid_score import calculate_frechet_distance

        found.append(
            Contender(
                stages[1],
                "pytorch-fid",
                lambda: {"fid": float(calculate_frechet_distance(mean_a, covariance_a, mean_b, covariance_b))},
            )
        )
    with contextlib.suppress(ImportError):
        from cleanfid.fid import frechet_distance as clean_distance

        found.append(
            Contender(
                stages[1],
                "clean-fid",
                lambda: {"fid": float(clean_distance(mean_a, covariance_a, mean_b, covariance_b))},
            )
        )
    return found


def kernel(data: Inputs) -> list[Contender]:
    """KID: 100 subsets of 1000."""
    stage = "KID"
    size = min(1000, len(data.real))
    found = [Contender(stage, "ours", lambda: {"kid": kernel_distance(data.generated, data.real, subset_size=size)[0]})]
    generated, real = torch.from_numpy(data.generated), torch.from_numpy(data.real)
    with contextlib.suppress(ImportError):
        from torch_fidelity.metric_kid import kid_features_to_metric

        def fidelity(dtype: torch.dtype) -> Values:
            figure = kid_features_to_metric(
                generated.to(dtype), real.to(dtype), kid_subset_size=size, rng_seed=2020, verbose=False
            )
            return {"kid": figure["kernel_inception_distance_mean"]}

        found += [
            Contender(stage, "torch-fidelity", lambda: fidelity(torch.float32)),
            Contender(stage, "torch-fidelity, float64", lambda: fidelity(torch.float64)),
        ]
    with contextlib.suppress(ImportError):
        from torchmetrics.image.kid import KernelInceptionDistance

        metric = KernelInceptionDistance(Given(real.shape[1]), subsets=100, subset_size=size, compute_with_cache=False)
        metric.update(real, real=True)
        metric.update(generated, real=False)
        found.append(Contender(stage, "torchmetrics", lambda: {"kid, other draws": float(metric.compute()[0])}))
    with contextlib.suppress(ImportError):
        from cleanfid.fid import kernel_distance as clean_distance

        found.append(
            Contender(stage, "clean-fid", lambda: {"kid, other draws": clean_distance(data.generated, data.real)})
        )
    return found


def score(data: Inputs) -> list[Contender]:
    """Inception Score: ours gathers logits batch by batch, the others take all at once."""
    stage = "ISC"

    def ours() -> Values:
        gathered = ScoreStatistics.empty(len(data.logits), CLASSES, SPLITS)
        for start in range(0, len(data.logits), BATCH):
            gathered.update(start, data.logits[start : start + BATCH])
        return {"isc": inception_score(gathered)[0]}

    found = [Contender(stage, "ours", ours)]
    with contextlib.suppress(ImportError):
        from torch_fidelity.metric_isc import isc_features_to_metric

        found.append(
            Contender(
                stage,
                "torch-fidelity",
                lambda: {"isc": isc_features_to_metric(data.logits, SPLITS, shuffle=False)["inception_score_mean"]},
            )
        )
    with contextlib.suppress(ImportError):
        from torchmetrics.image.inception import InceptionScore

        metric = InceptionScore(Given(CLASSES), splits=SPLITS, compute_with_cache=False)
        metric.update(data.logits)
        found.append(Contender(stage, "torchmetrics", lambda: {"isc, other splits": float(metric.compute()[0])}))
    return found


def neighbours(data: Inputs) -> list[Contender]:
    """Precision and recall (k = 3), density and coverage (k = 5)."""
    stage = "PRC"
    kept: list[np.ndarray] = []

    def ours() -> Values:
        return vars(neighbour_figures(data.generated, data.real))

    def with_radii() -> Values:
        return vars(neighbour_figures(data.generated, data.real, real_distances=kept[0]))

    def radii() -> Values:
        kept[:] = [neighbour_distances(data.real, 5)]
        return {}

    found = [
        Contender(stage, "ours", ours),
        Contender("PRC, radii of the real", "ours", radii),
        Contender("PRC, radii given", "ours", with_radii),
    ]
    with contextlib.suppress(ImportError):
        from torch_fidelity.metric_prc import prc_features_to_metric

        generated, real = torch.from_numpy(data.generated), torch.from_numpy(data.real)
        frugal = len(data.real) ** 2 > MOST_PAIRS

        def fidelity() -> Values:
            figure = prc_features_to_metric(generated, real, save_cpu_ram=frugal, verbose=False)
            return {name: figure[name] for name in ("precision", "recall")}

        found.append(Contender(stage, "torch-fidelity", fidelity))
    if len(data.real) ** 2 <= MOST_PAIRS:
        with contextlib.suppress(ImportError):
            from prdc import compute_prdc

            def prdc() -> Values:
                figure = compute_prdc(data.real, data.generated, nearest_k=5)
                return {name: float(figure[name]) for name in ("density", "coverage")}

            found.append(Contender(stage, "prdc", prdc))
    return found


FIGURES = {"FID": frechet, "KID": kernel, "ISC": score, "PRC": neighbours}


def table(contenders: list[Contender]) -> str:
    """A line for each contender: seconds, ratio to ours, and the relative difference of its values from ours."""
    ours = {one.stage: one for one in contenders if one.name == "ours"}
    lines = [f"{'':<26}{'':<25}{'seconds':>9}{'/ ours':>9}{'min':>8}{'max':>8}   values"]
    for one in contenders:
        head = f"{one.stage:<26}{one.name:<25}"
        if one.failure:
            lines.append(f"{head}  failed: {one.failure[:100]}")
            continue
        reference = ours[one.stage]
        ratios = [theirs / mine for theirs, mine in zip(one.seconds, reference.seconds, strict=True)]
        ratio = (statistics.median(ratios), min(ratios), max(ratios))
        numbers = f"{statistics.median(one.seconds):>9.2f}{ratio[0]:>9.2f}{ratio[1]:>8.2f}{ratio[2]:>8.2f}"
        shown = []
        for name, value in one.values.items():
            expected = reference.values.get(name)
            off = "" if one is reference or not expected else f" ({value / expected - 1:+.0e})"
            shown.append(f"{name} {value:.7g}{off}")
        lines.append(f"{head}{numbers}   {', '.join(shown)}")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000], help="features in each set")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (5)")
    parser.add_argument("--dimension", type=int, default=2048, help="dimension of a feature (2048)")
    parser.add_argument("--figures", nargs="+", choices=list(FIGURES), default=list(FIGURES), help="to time (all)")
    arguments = parser.parse_args()
    print(
        f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores"
    )
    for count in arguments.counts:
        data = inputs(count, arguments.dimension)
        for name in arguments.figures:
            contenders = FIGURES[name](data)
            for _ in range(arguments.rounds):
                for contender in contenders:
                    contender.turn()
            print(
                f"\n{name} at {count} of {arguments.dimension}, {arguments.rounds} rounds\n{table(contenders)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
