"""The engine: every figure is the plain function's on all samples, whatever the batches, the ranks and the cache."""

import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

import callbacks.ranks
import metrics.kernel
import metrics.real_statistics
from callbacks.ranks import brought_together
from features.extractors import Extractor
from metrics.discriminant import class_accuracy
from metrics.evaluation import METRICS, chosen, figures, headline, needs_of, require_available
from metrics.frechet import GaussianStatistics, frechet_distance
from metrics.inception_score import ScoreStatistics, inception_score
from metrics.kernel import kernel_distance
from metrics.lpips import lpips_diversity
from metrics.metric import Context
from metrics.modes import mode_coverage
from metrics.neighbours import neighbour_figures
from metrics.picture_set import PictureSet
from metrics.real_statistics import GivenStatistics, RealStatistics
from metrics.sample_statistics import SampleStatistics, share_of
from records.figures import Figure

CLASSES, DIMENSION = 4, 12
ALL = [metric for metric in METRICS if metric.name != "lpips"]
NEEDS = needs_of(ALL)


class Projection:
    """A linear extractor: eight-by-eight grey pictures to 12 features, whose logits are the first four of them."""

    name = "Projection"
    dimension = DIMENSION
    num_logits = CLASSES

    def __init__(self) -> None:
        self.calls = 0
        self._matrix = torch.randn(64, DIMENSION, generator=torch.Generator().manual_seed(3)) / 8

    def __call__(self, pictures: Tensor) -> Tensor:
        self.calls += len(pictures)
        # Through float64, so that batches of any size round alike.
        return ((pictures.flatten(1).double() / 127.5 - 1) @ self._matrix.double()).float()

    def logits(self, features: Tensor) -> Tensor:
        return features[:, :CLASSES]

    def protocol(self) -> dict[str, str | int]:
        return {"extractor": self.name, "weights_sha256": "0"}

    def to(self, device: torch.device) -> "Projection":
        return self


def bright_mode(pictures: Tensor) -> Tensor:
    """The quarter of a picture's rows that is brightest, by pairs of rows; never none."""
    return pictures.float().view(len(pictures), 4, 16).mean(2).argmax(1)


def picture_set(count: int, seed: int, classes: int = CLASSES) -> PictureSet:
    """Noise with a bright band where the label says."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    x = torch.randint(0, 160, (count, 1, 8, 8), generator=generator)
    for quarter in range(4):
        x[labels == quarter, :, 2 * quarter : 2 * quarter + 2] += 80
    pictures = x.to(torch.uint8)

    def read(indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        chosen = list(indices)
        return pictures[chosen], labels[chosen] if classes else None

    return PictureSet("noise", f"noise {count} {seed}", count, read, bright_mode, 4, classes)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subsets that a few samples fill, and chunks that ranks send several of."""
    monkeypatch.setattr(metrics.kernel, "SUBSET_SIZE", 30)
    monkeypatch.setattr(metrics.kernel, "SUBSETS", 7)
    monkeypatch.setattr(callbacks.ranks, "ROWS_AT_ONCE", 7)


def observed(fake: PictureSet, folder: Path, batch: int = 7, rank: int = 0, world: int = 1) -> SampleStatistics:
    share = share_of(fake.count, rank, world)
    seen = SampleStatistics(NEEDS, Projection(), fake.count, share, folder, fake.modes)
    for start in range(0, len(share), batch):
        seen.update(*fake.read(share[start : start + batch]))
    return seen


def values(found: dict[str, Figure]) -> dict[str, float]:
    return {name: figure.value for name, figure in found.items()}


def test_every_figure_is_the_plain_functions(tmp_path: Path) -> None:
    real, fake = picture_set(90, 1), picture_set(61, 2)
    reference = RealStatistics(real, Projection(), tmp_path, batch_size=16)
    found = figures(ALL, reference, observed(fake, tmp_path))

    extract = Projection()
    (x, y), (real_x, real_y) = fake.read(range(61)), real.read(range(90))
    assert y is not None
    assert real_y is not None
    ours, theirs = extract(x), extract(real_x)
    statistics = [GaussianStatistics.empty(DIMENSION) for _ in range(2)]
    statistics[0].update(theirs)
    statistics[1].update(ours)
    scores = ScoreStatistics.empty(61, CLASSES)
    scores.update(0, extract.logits(ours))
    score, score_deviation = inception_score(scores)
    kernel, kernel_error = kernel_distance(ours.numpy(), theirs.numpy(), subsets=7, subset_size=30)
    near = neighbour_figures(ours.numpy(), theirs.numpy())
    coverage = mode_coverage(bright_mode(x), torch.ones(4))
    classifier, accuracy = reference.classifier
    by_class = class_accuracy(classifier.predict(ours), y, CLASSES)
    expected = {
        "fd_projection": frechet_distance(*statistics),
        "kd_projection": kernel,
        "is_projection": score,
        "precision": near.precision,
        "recall": near.recall,
        "density": near.density,
        "coverage": near.coverage,
        "class_accuracy": float(by_class.nanmean()),
        "modes_covered": coverage.covered,
        "modes_kl": coverage.divergence,
        "modes_unrecognised": coverage.unrecognised,
    }
    assert values(found) == pytest.approx(expected, rel=1e-9)
    assert found["kd_projection"].spread == pytest.approx(kernel_error)
    assert found["is_projection"].spread == pytest.approx(score_deviation)
    assert found["class_accuracy"].settings["by_class"] == pytest.approx(by_class.tolist(), abs=1e-6)
    assert accuracy > 0.9  # the bands are easy to see
    assert found["class_accuracy"].value > 0.9
    assert found["precision"].settings == {"k": 3, "real": 90, "samples": 61}


@pytest.mark.parametrize("batch", [1, 8, 61])
def test_batches_make_no_difference(tmp_path: Path, batch: int) -> None:
    reference = RealStatistics(picture_set(90, 1), Projection(), tmp_path)
    whole = figures(ALL, reference, observed(picture_set(61, 2), tmp_path))
    parts = figures(ALL, reference, observed(picture_set(61, 2), tmp_path, batch))
    assert values(parts) == pytest.approx(values(whole), rel=1e-9)


def _rank(rank: int, world: int, folder: Path, answers: "multiprocessing.Queue[str]") -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    seen = observed(picture_set(61, 2), folder, 5, rank, world)
    trainer: Any = SimpleNamespace(world_size=world, is_global_zero=rank == 0, strategy=DDPStrategy())
    if brought_together(trainer, seen):
        found = figures(ALL, RealStatistics(picture_set(90, 1), Projection(), folder), seen)
        answers.put(json.dumps({"seen": seen.seen, **values(found)}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_processes_make_no_difference_and_no_sample_counts_twice(tmp_path: Path, world: int) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, world, tmp_path, answers)) for rank in range(world)]
    for process in ranks:
        process.start()
    together = json.loads(answers.get(timeout=120))
    for process in ranks:
        process.join()
    assert together.pop("seen") == 61
    reference = RealStatistics(picture_set(90, 1), Projection(), tmp_path)
    assert together == pytest.approx(values(figures(ALL, reference, observed(picture_set(61, 2), tmp_path))), rel=1e-9)


def test_parts_merge_into_what_one_pass_sees(tmp_path: Path) -> None:
    whole = observed(picture_set(61, 2), tmp_path)
    first, second, third = (observed(picture_set(61, 2), tmp_path, 5, rank, 3) for rank in range(3))
    first.merge([second.part(), third.part()], whole.store)
    assert first.complete
    reference = RealStatistics(picture_set(90, 1), Projection(), tmp_path)
    assert values(figures(ALL, reference, first)) == pytest.approx(values(figures(ALL, reference, whole)), rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 37, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_shares_are_whole_pairs_without_gap_or_double(count: int, world: int) -> None:
    shares = [share_of(count, rank, world) for rank in range(world)]
    assert [index for share in shares for index in share] == list(range(count))
    assert all(share.start % 2 == 0 for share in shares if len(share))


def test_the_real_side_is_computed_once(tmp_path: Path) -> None:
    first = Projection()
    reference = RealStatistics(picture_set(90, 1), first, tmp_path)
    reference.prepare(NEEDS)
    assert first.calls == 90  # one pass serves all
    again = Projection()
    kept = RealStatistics(picture_set(90, 1), again, tmp_path)
    kept.prepare(NEEDS)
    found = [values(figures(ALL, side, observed(picture_set(61, 2), tmp_path))) for side in (reference, kept)]
    assert again.calls == 0
    assert found[0] == found[1]
    other = Projection()
    RealStatistics(picture_set(90, 5), other, tmp_path).prepare({"gaussian"})
    assert other.calls == 90  # other data are not mistaken for these


def test_what_is_left_in_the_cache_are_the_real_statistics_alone(tmp_path: Path) -> None:
    reference = RealStatistics(picture_set(90, 1), Projection(), tmp_path)
    figures(ALL, reference, observed(picture_set(61, 2), tmp_path))
    left = {path.name for entry in tmp_path.iterdir() if entry.is_dir() for path in entry.iterdir()}
    assert left == {"entry.json", "mean.npy", "scatter.npy", "count.npy", "rows.npy", "labels.npy", "distances.npy"}
    assert all(path.is_dir() or path.suffix == ".lock" for path in tmp_path.iterdir())


def test_no_figure_is_given_for_a_part_of_the_samples(tmp_path: Path) -> None:
    fake = picture_set(61, 2)
    seen = SampleStatistics({"gaussian"}, Projection(), 61, range(61), tmp_path)
    seen.update(*fake.read(range(60)))
    assert not seen.complete
    with pytest.raises(ValueError, match="60 of 61 samples were seen"):
        figures(chosen(["frechet"]), RealStatistics(picture_set(90, 1), Projection(), tmp_path), seen)


def test_a_subset_is_drawn_the_same_each_time_and_is_other_data(tmp_path: Path) -> None:
    whole = picture_set(90, 1)
    some, same = whole.subset(20), whole.subset(20)
    assert torch.equal(some.read(range(20))[0], same.read(range(20))[0])
    assert some.cache_key != whole.cache_key
    assert some.fingerprint == whole.fingerprint
    assert len({int(x) for x in some.read(range(20))[0].flatten(1).float().sum(1)}) > 15
    assert whole.subset(90) is whole


def test_only_the_published_inception_makes_a_fid() -> None:
    class Named(Projection):
        def __init__(self, name: str, sha256: str) -> None:
            super().__init__()
            self.name, self.sha256 = name, sha256

        def protocol(self) -> dict[str, str | int]:
            return {"weights_sha256": self.sha256}

    published = Named("Inception", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2")
    assert headline(chosen(["frechet"]), published) == ("fid", "lower")
    assert headline(chosen(["kernel"]), published) == ("kid", "lower")
    for other in (Named("Inception", "0" * 64), Named("EffNet", published.sha256)):
        assert headline(chosen(["precision_recall", "frechet"]), other)[0] == f"fd_{other.name.lower()}"
        assert headline(chosen(["inception_score"]), other) == (f"is_{other.name.lower()}", "higher")


class Headless(Projection):
    num_logits = 0


@pytest.mark.parametrize(
    ("asked", "extractor", "real", "fake", "says"),
    [
        (["fid"], Projection(), picture_set(90, 1), 61, "no metric 'fid'; there are frechet, kernel"),
        ([], Projection(), picture_set(90, 1), 61, "no metrics to measure"),
        (["kernel"], Projection(), picture_set(90, 1), 20, "subsets of 30, but there are 90 real pictures and 20"),
        (["kernel"], Projection(), None, 61, "kernel: needs the real pictures, but only their statistics are given"),
        (["inception_score"], Headless(), picture_set(90, 1), 61, "Projection has no logits"),
        (["inception_score"], Projection(), picture_set(90, 1), 2, "2 samples do not make 10 splits"),
        (["density_coverage"], Projection(), picture_set(90, 1), 5, "needs 6 pictures on each side"),
        (["class_accuracy"], Projection(), picture_set(90, 1, classes=0), 61, "the real pictures have no labels"),
        (["class_accuracy"], Projection(), picture_set(90, 1), 61, "samples of no classes, real pictures of 4"),
        (["lpips"], Projection(), picture_set(90, 1), 3, "fewer than two pairs"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_beforehand(
    asked: list[str], extractor: Extractor, real: PictureSet | None, fake: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        require_available(chosen(asked), Context(extractor, real, picture_set(fake, 2, classes=0), 90))
    assert "\n" not in str(caught.value)


def test_unknown_modes_are_said_beforehand() -> None:
    plain = PictureSet("folder", "0", 90, picture_set(90, 1).read)
    with pytest.raises(ValueError, match="modes of these data are not known"):
        require_available(chosen(["modes"]), Context(Projection(), plain, picture_set(61, 2), 90))


def test_samples_that_are_no_numbers_give_no_figure(tmp_path: Path) -> None:
    class Broken(Projection):
        def __call__(self, pictures: Tensor) -> Tensor:
            return super().__call__(pictures) / 0

    seen = SampleStatistics({"gaussian"}, Broken(), 61, range(61), tmp_path)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        seen.update(*picture_set(61, 2).read(range(61)))


def test_published_statistics_serve_the_distance(tmp_path: Path) -> None:
    reference = RealStatistics(picture_set(90, 1), Projection(), tmp_path)
    seen = observed(picture_set(61, 2), tmp_path)
    known = GivenStatistics(reference.gaussian, 0, "x")
    assert values(figures(chosen(["frechet"]), known, seen)) == values(figures(chosen(["frechet"]), reference, seen))


def test_lpips_diversity_is_the_mean_over_pairs() -> None:
    distances = torch.rand(50, dtype=torch.float64)
    mean, error = lpips_diversity(distances)
    assert mean == pytest.approx(float(distances.mean()))
    assert error == pytest.approx(float(distances.std()) / 50**0.5)


def test_modes_are_counted_by_hand() -> None:
    found = torch.tensor([0, 0, 1, -1])
    coverage = mode_coverage(found, torch.tensor([1.0, 1.0, 2.0]))
    assert coverage.covered == pytest.approx(2 / 3)
    assert coverage.unrecognised == 0.25
    assert coverage.divergence == pytest.approx(2 / 3 * np.log((2 / 3) / 0.25) + 1 / 3 * np.log((1 / 3) / 0.25))
    assert mode_coverage(torch.arange(3), torch.ones(3)).divergence == pytest.approx(0, abs=1e-12)
    assert mode_coverage(torch.tensor([-1, -1]), torch.ones(3)).divergence is None


def test_rows_on_disk_leave_no_file_behind(tmp_path: Path) -> None:
    store = metrics.row_store.RowStore(10, 3, tmp_path / "new")
    store.write(4, torch.full((2, 3), 7.0))
    assert store.rows[4:6].tolist() == [[7.0] * 3] * 2
    assert os.listdir(tmp_path / "new") == []  # noqa: PTH208 - what the folder shows to anyone


def test_a_distance_of_few_pictures_comes_with_a_note() -> None:
    (frechet,) = chosen(["frechet"])
    real = picture_set(90, 1)
    few, enough = (Context(Projection(), real, picture_set(count, 2), 90) for count in (DIMENSION, DIMENSION + 1))
    assert "12 pictures are not more than the 12 features" in (frechet.note(few) or "")
    assert frechet.note(enough) is None
    assert all(metric.note(few) is None for metric in METRICS if metric is not frechet)
