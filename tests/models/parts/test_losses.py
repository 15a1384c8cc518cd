from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from models.parts.losses import (
    AdversarialLoss,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    RelativisticPairing,
    Wasserstein,
)

ALL = [NonSaturating(), Minimax(), Hinge(), Wasserstein(), LeastSquares(), RelativisticPairing()]

# No logit lies on a kink of the hinge, at -1 and 1, nor does a step of finite differences cross one.
REAL = torch.tensor([-2.0, -0.3, 0.4, 1.7, 30.0], dtype=torch.float64)
FAKE = torch.tensor([1.5, -1.2, 0.6, -0.8, -25.0], dtype=torch.float64)


def by_hand(formula: Callable[[float, float], float]) -> Tensor:
    return torch.tensor([formula(r, f) for r, f in zip(REAL.tolist(), FAKE.tolist(), strict=True)], dtype=torch.float64)


def log1p_exp(t: float) -> float:
    return float(torch.logaddexp(torch.tensor(t, dtype=torch.float64), torch.zeros((), dtype=torch.float64)))


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (NonSaturating(), lambda r, f: log1p_exp(-r) + log1p_exp(f)),
        (Minimax(), lambda r, f: log1p_exp(-r) + log1p_exp(f)),
        (Hinge(), lambda r, f: max(0.0, 1 - r) + max(0.0, 1 + f)),
        (Wasserstein(), lambda r, f: f - r),
        (LeastSquares(), lambda r, f: ((r - 1) ** 2 + f**2) / 2),
        (RelativisticPairing(), lambda r, f: log1p_exp(-(r - f))),  # Huang et al. 2024, eq. 2: the critic wants r > f
    ],
)
def test_discriminator_loss_is_the_published_formula(
    loss: AdversarialLoss, formula: Callable[[float, float], float]
) -> None:
    # torch's softplus is the identity above 20, which leaves out less than exp(-20) = 2e-9.
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), by_hand(formula), rtol=1e-12, atol=2.1e-9)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (NonSaturating(), lambda r, f: log1p_exp(-f)),
        (Minimax(), lambda r, f: -log1p_exp(f)),  # log(1 - sigmoid(f))
        (Hinge(), lambda r, f: -f),
        (Wasserstein(), lambda r, f: -f),
        (LeastSquares(), lambda r, f: (f - 1) ** 2 / 2),
        (RelativisticPairing(), lambda r, f: log1p_exp(-(f - r))),  # the same with the players' parts exchanged
    ],
)
def test_generator_loss_is_the_published_formula(
    loss: AdversarialLoss, formula: Callable[[float, float], float]
) -> None:
    torch.testing.assert_close(loss.generator(FAKE, REAL), by_hand(formula), rtol=1e-12, atol=2.1e-9)


def test_non_saturating_is_binary_cross_entropy_with_logits() -> None:
    ones, zeros = torch.ones_like(REAL), torch.zeros_like(REAL)
    cross_entropy = F.binary_cross_entropy_with_logits
    critic = cross_entropy(REAL, ones, reduction="none") + cross_entropy(FAKE, zeros, reduction="none")
    torch.testing.assert_close(NonSaturating().discriminator(REAL, FAKE), critic, rtol=1e-12, atol=2.1e-9)
    generator = cross_entropy(FAKE, ones, reduction="none")
    torch.testing.assert_close(NonSaturating().generator(FAKE), generator, rtol=1e-12, atol=2.1e-9)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_gradients_are_those_of_finite_differences(loss: AdversarialLoss) -> None:
    real, fake = REAL[:4].clone().requires_grad_(), FAKE[:4].clone().requires_grad_()
    assert gradcheck(loss.discriminator, (real, fake))
    assert gradcheck(loss.generator, (fake, real) if loss.needs_real_in_generator_step else (fake,))


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_each_sample_has_its_own_loss(loss: AdversarialLoss) -> None:
    changed = FAKE.clone()
    changed[2] += 0.1
    for before, after in (
        (loss.discriminator(REAL, FAKE), loss.discriminator(REAL, changed)),
        (loss.generator(FAKE, REAL), loss.generator(changed, REAL)),
    ):
        assert before.shape == (5,)
        assert (before != after).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_players_want_opposite_fakes(loss: AdversarialLoss) -> None:
    # Between 0 and 1, where also the least squares' targets pull in opposite directions.
    low, high, real = torch.tensor([0.2]), torch.tensor([0.7]), torch.tensor([0.5])
    assert loss.discriminator(real, high) > loss.discriminator(real, low)
    assert loss.generator(high, real) < loss.generator(low, real)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_flag_says_whether_the_generator_reads_real_logits(loss: AdversarialLoss) -> None:
    reads = not torch.equal(loss.generator(FAKE, REAL), loss.generator(FAKE, REAL + 1))
    assert loss.needs_real_in_generator_step == reads


def test_relativistic_generator_without_real_logits_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs the logits of real samples"):
        RelativisticPairing().generator(FAKE)


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticPairing()], ids=lambda loss: type(loss).__name__)
def test_huge_logits_overflow_nothing(loss: AdversarialLoss) -> None:
    huge = torch.tensor([1e4, -1e4])
    assert loss.discriminator(huge, -huge).isfinite().all()
    assert loss.generator(huge, -huge).isfinite().all()
