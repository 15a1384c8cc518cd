"""Each fault, made on purpose, is named; a faultless model is left alone."""

import numpy as np
import pytest
import torch

from metrics.diagnosis import (
    discriminator_overfitting,
    distinct,
    instability,
    memorisation,
    mode_collapse,
    uneven_classes,
)


def features(count: int, seed: int) -> np.ndarray:
    """Draws from ten clusters in 16 dimensions, float32 (count, 16)."""
    draw = np.random.RandomState(seed)
    centres = 4 * np.random.RandomState(0).randn(10, 16)
    return (centres[draw.randint(10, size=count)] + draw.randn(count, 16)).astype(np.float32)


def test_a_faultless_model_has_no_fault() -> None:
    real, others, fake, unseen = (features(400, seed) for seed in (1, 2, 3, 4))
    assert mode_collapse(real, others, fake).verdict == "fine"
    assert memorisation(real, unseen, fake).verdict == "fine"
    assert memorisation(real, None, fake).verdict == "fine"
    for seed in range(5, 10):  # other draws of it, too
        assert mode_collapse(real, others, features(400, seed)).verdict == "fine"
        assert memorisation(real, unseen, features(400, seed)).verdict == "fine"


def test_a_generator_that_repeats_ten_pictures_is_named() -> None:
    real, others = features(400, 1), features(400, 2)
    ten = features(10, 3)
    repeated = ten[np.random.RandomState(0).randint(10, size=400)]
    found = mode_collapse(real, others, repeated)
    assert found.verdict == "found"
    assert found.says.startswith("400 samples show only 10 different pictures")
    assert found.figures["repeated"] == 1
    assert "R1" in found.helps
    other = mode_collapse(real, others, repeated, adversarial=False)
    assert other.verdict == "found"
    assert "discriminator" not in other.helps
    nearly = repeated + 1e-3 * np.random.RandomState(1).randn(400, 16).astype(np.float32)
    assert mode_collapse(real, others, nearly).figures["different"] == 10
    assert memorisation(real, features(400, 4), repeated).verdict in (
        "fine",
        "suspect",
    )  # they are no training pictures


def test_a_generator_that_leaves_out_most_classes_is_named() -> None:
    real, others, fake = (features(600, seed) for seed in (1, 2, 3))
    centres = 4 * np.random.RandomState(0).randn(10, 16)
    of = ((fake[:, None] - centres) ** 2).sum(2).argmin(1)
    some = mode_collapse(real, others, fake[of < 8])
    few = mode_collapse(real, others, fake[of < 3])
    assert (some.verdict, few.verdict) == ("suspect", "found")
    assert few.figures["recall"] == pytest.approx(0.3, abs=0.1)
    assert few.figures["recall_real"] > 2 * few.figures["recall"]


def test_a_generator_far_from_the_data_is_not_called_collapsed() -> None:
    found = mode_collapse(features(400, 1), features(400, 2), features(400, 3) + 100)
    assert found.verdict == "suspect"
    assert "far from the data" in found.says


def test_a_generator_that_copies_the_training_set_is_named() -> None:
    train, unseen = features(400, 1), features(400, 2)
    copies = train[np.random.RandomState(0).permutation(400)[:200]]
    for kept in (unseen, None):
        found = memorisation(train, kept, copies)
        assert found.verdict == "found"
        assert found.figures["copies"] == 1
    half = np.concatenate([copies[:20], features(180, 3)])
    assert memorisation(train, unseen, half).figures["copies"] == pytest.approx(0.1)
    assert memorisation(train, unseen, half).verdict == "found"
    assert mode_collapse(train, unseen, copies).verdict == "fine"  # it is another fault


def test_distinct_pictures_are_counted() -> None:
    rows = np.array([[0.0], [0.05], [1.0], [0.0], [3.0]], dtype=np.float32)
    assert distinct(rows, 0.1) == 3
    assert distinct(rows, 0.0) == 4


def test_a_discriminator_that_knows_its_pictures_by_heart_is_named() -> None:
    draw = torch.Generator().manual_seed(0)
    train, unseen, fake = (torch.randn(500, generator=draw) + shift for shift in (3.0, -1.0, -2.0))
    found = discriminator_overfitting(train, unseen, fake)
    assert found.verdict == "found"
    gaps = float(train.mean() - unseen.mean()), float(train.mean() - fake.mean())
    assert found.figures["r_v"] == pytest.approx(gaps[0] / gaps[1], rel=1e-5)
    assert found.figures["r_t"] == pytest.approx(float(train.sign().mean()))
    wins = (train[:, None] > unseen[None, :]).double().mean()  # the AUROC is the chance of a right order
    assert found.figures["auroc"] == pytest.approx(float(wins), abs=1e-6)
    assert discriminator_overfitting(train, train.flip(0), fake).verdict == "fine"
    assert discriminator_overfitting(train, None, fake).verdict == "suspect"  # nearly every logit is positive
    assert discriminator_overfitting(train - 2.5, None, fake).verdict == "unknown"


def test_r_t_and_p_are_read_from_the_run_and_r_t_only_where_signs_have_a_meaning() -> None:
    logits = torch.ones(20)
    rows = [{"samples_seen": 1.0 * i, "r_t": i / 20, "ada_p": 0.5} for i in range(20)]
    found = discriminator_overfitting(logits, None, -logits, rows=[*rows, {"samples_seen": 20.0, "fd": 3.0}])
    assert found.figures == {"gap_to_samples": 2.0, "r_t": 1.0, "r_t_in_training": 18.5 / 20, "ada_p": 0.5}
    assert "r_t is 1.00, and was 0.93 in training under ADA with p = 0.50" in found.says
    relative = discriminator_overfitting(logits, None, -logits, zero_is_undecided=False)
    assert relative.figures == {"gap_to_samples": 2.0}
    assert relative.verdict == "unknown"
    assert "has no meaning" in relative.says


def curve(figures: list[float], norms: list[float]) -> list[dict[str, float]]:
    rows = [{"samples_seen": 1000.0 * i, "d_grad_norm": norm, "g_grad_norm": 1.0} for i, norm in enumerate(norms)]
    return [*rows, *({"samples_seen": 1000.0 * i, "fd": value} for i, value in enumerate(figures))]


def test_training_that_shakes_is_named() -> None:
    calm = [1 + 0.1 * (i % 3) for i in range(100)]
    falling = [100 * 0.8**i for i in range(10)]
    assert instability(curve(falling, calm), "fd").verdict == "fine"
    spiked = [50.0 if i in (40, 60, 80) else norm for i, norm in enumerate(calm)]
    found = instability(curve(falling, spiked), "fd")
    assert found.verdict == "found"
    assert found.figures["d_grad_norm_spikes"] == pytest.approx(3 / 90)
    worse = instability(curve([*falling, 40.0, 60.0], calm), "fd")
    assert worse.verdict == "found"
    assert worse.figures["last_over_best"] == pytest.approx(60 / falling[-1])
    swinging = instability(curve([50.0, 20.0] * 6, calm), "fd")
    assert swinging.verdict == "found"
    assert instability([], "fd").verdict == "unknown"


def test_a_figure_that_is_better_higher_is_unstable_where_it_falls() -> None:
    rising = [0.1, 0.2, 0.3, 0.35, 0.4, 0.42, 0.43]
    assert instability(curve(rising, [1.0] * 7), "fd", "higher").verdict == "fine"
    assert instability(curve(rising, [1.0] * 7), "fd", "lower").verdict == "found"
    fallen = instability(curve([*rising, 0.3, 0.2], [1.0] * 9), "fd", "higher")
    assert (fallen.verdict, round(fallen.figures["last_over_best"], 3)) == ("found", round(0.2 / 0.43, 3))


def test_uneven_classes_are_named() -> None:
    draw = np.random.RandomState(0)
    real = torch.from_numpy(draw.randint(5, size=1000))
    names = ("shirt", "shoe", "bag", "coat", "dress")
    assert uneven_classes(torch.from_numpy(draw.randint(5, size=1000)), real, names, 0.9).verdict == "fine"
    fake = torch.from_numpy(draw.choice(5, size=1000, p=[0.5, 0.3, 0.15, 0.05, 0.0]))
    found = uneven_classes(fake, real, names, 0.9)
    assert found.verdict == "found"
    assert "conditional" in found.helps
    assert "conditional" not in uneven_classes(fake, real, names, 0.9, conditional=True).helps
    assert "rare: dress 0.0%" in found.says
    assert "frequent: shirt" in found.says
    mild = torch.from_numpy(draw.choice(5, size=1000, p=[0.2, 0.2, 0.2, 0.34, 0.06]))
    assert uneven_classes(mild, real, names, 0.9).verdict == "suspect"
