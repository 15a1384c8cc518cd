"""R3GAN: parameter counts, its initialisation, parts by hand, schedules in a fit, and a fit that resumes."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.parts.augment.ada import ADA
from models.parts.losses import RelativisticPairing
from models.parts.regularizers import R1, R2
from models.parts.schedules import Cosine
from models.r3gan import GAIN, R3GAN, ResidualBlock
from models.training.base import Batch
from models.training.capabilities import HasCritic, HasLatents
from settings.configurable import build, describe
from settings.training import AdversarialTraining

Fit = Callable[..., lightning.Trainer]
Batches = Callable[..., list[Batch]]


@pytest.fixture
def double() -> Iterator[None]:
    """What is drawn is float64, as Lightning has it in 64-true."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(data_shape: Sequence[int] = (3, 16, 16), num_classes: int = 0, **settings: Any) -> R3GAN:  # noqa: ANN401
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"widths": [8, 8, 4], "groups": [2, 4, 1], "blocks": 1, "latent_dim": 6}
    return R3GAN(data_shape, num_classes, **{**sizes, **settings})


def awake(model: R3GAN) -> R3GAN:
    """With residual branches that are not 0."""
    torch.manual_seed(1)
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            nn.init.normal_(block.conv3.weight, 0, 0.3)
    return model


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("resolution", "widths", "conditional", "counts"),
    [
        (32, [768] * 4, True, (20_781_952, 21_280_512)),
        (32, [768] * 4, False, (20_732_160, 20_683_776)),
        (64, [768] * 4 + [384], False, (22_429_824, 22_381_440)),
        (256, [768] * 4 + [384, 192, 96], False, (23_057_952, 23_009_568)),
    ],
)
def test_parameter_counts_are_the_published_ones(
    resolution: int, widths: list[int], conditional: bool, counts: tuple[int, int]
) -> None:
    with torch.device("meta"):  # nothing is allocated
        groups = [width // 8 for width in widths]
        model = R3GAN((3, resolution, resolution), 10, widths, groups, conditional=conditional)
    assert (parameters(model.generator), parameters(model.discriminator)) == counts


def test_a_block_begins_as_the_identity_with_scaled_weights() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(64, 8, 2, depth=16), torch.randn(2, 64, 4, 4)
    assert torch.equal(block(x), x)
    for layer, fan_in in ((block.conv1, 64), (block.conv2, 16 * 9)):
        assert float(layer.weight.detach().std()) * fan_in**0.5 == pytest.approx(GAIN / 2, rel=0.05)  # 16^(-1/4)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_a_block_by_hand() -> None:
    block = ResidualBlock(4, 2, 2, depth=1)
    for p in block.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 4, 5, 5)
    y = F.leaky_relu(F.conv2d(x, block.conv1.weight, block.conv1.bias), 0.2)
    y = F.leaky_relu(F.conv2d(y, block.conv2.weight, block.conv2.bias, padding=1, groups=2), 0.2)
    torch.testing.assert_close(block(x), x + F.conv2d(y, block.conv3.weight))


@pytest.mark.parametrize("conditional", [False, True])
def test_shapes(conditional: bool) -> None:
    model = awake(tiny(num_classes=3, conditional=conditional))
    assert isinstance(model, HasLatents)
    assert isinstance(model, HasCritic)
    x, z = model.sample(range(4)), torch.randn(2, 6)
    assert x.shape == (4, 3, 16, 16)
    assert x.abs().max() <= 1
    assert model.logits(x, torch.tensor([0, 2, 1, 1])).shape == (4,)
    first, second = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert torch.equal(model.decode(z, first), model.decode(z, second)) != conditional
    assert torch.equal(model.logits(x[:2], first), model.logits(x[:2], second)) != conditional
    assert describe(build(describe(model))) == describe(model)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data_shape": (3, 32, 32)}, "widths names 3 resolutions, 4 to 16 px, but pictures are 32x32"),
        ({"groups": [2, 4]}, "groups and widths need one number per resolution"),
        ({"groups": [2, 3, 1]}, "groups must divide 8 channels times expansion 2"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"conditional": True}, "conditional: true needs labels"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        tiny(**settings)


def scheduled() -> AdversarialTraining:
    def cosine(start: float, end: float) -> Cosine:
        return Cosine(start, end, 0.032)

    augmentation = ADA(["xflip", "brightness"], cosine(0.0, 0.5), target=None, multipliers={"brightness": 0.5})
    return AdversarialTraining(
        RelativisticPairing(), [R1(cosine(2.0, 0.2)), R2(cosine(2.0, 0.2))], augmentation,
        lr=cosine(2e-3, 5e-4), beta1=0.0, beta2=cosine(0.9, 0.99), ema_halflife_kimg=cosine(0.0, 0.1),
    )  # fmt: skip


def test_schedules_reach_adam_and_the_augmentation(fit: Fit, batches: Batches) -> None:
    model = tiny(adversarial=scheduled())
    trainer = fit(model, batches(5, 4, (3, 16, 16)))
    # The last step began after 16 of 32 samples: half of each way.
    for optimizer in trainer.optimizers:
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(1.25e-3)
        assert group["betas"] == (0.0, pytest.approx(0.945))
    augmentation = model.adversarial.augmentation
    assert isinstance(augmentation, ADA)
    assert augmentation.p_at(16) == pytest.approx(0.25)


def test_a_fit_resumes_bit_for_bit(fit: Fit, batches: Batches, tmp_path: Path) -> None:
    data, path = batches(6, 4, (3, 16, 16), 3), tmp_path / "half.ckpt"

    def make() -> R3GAN:
        return tiny(num_classes=3, conditional=True, adversarial=scheduled())

    whole, resumed = make(), make()
    fit(whole, data)
    fit(make(), data[:3]).save_checkpoint(path)
    for tensor in resumed.state_dict().values():
        tensor.zero_()  # whatever is not restored shows
    fit(resumed, [*data[3:], *data[:3]], ckpt_path=path, max_steps=6, max_epochs=-1)
    assert resumed.samples_seen == 24
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


@pytest.mark.parametrize("conditional", [False, True])
def test_a_step_is_the_authors(conditional: bool, fit: Fit, batches: Batches, double: None) -> None:
    """Their `Trainer.py` in plain torch, in float64: loss and penalties of one pass, one backward pass for both."""
    settings = AdversarialTraining(RelativisticPairing(), [R1(2.0), R2(2.0)], lr=1e-3, beta1=0.0, beta2=0.9)
    model = awake(tiny(num_classes=3, conditional=conditional, adversarial=settings)).double()
    hand = copy.deepcopy(model)
    ((real, y),) = batches(1, 4, (3, 16, 16), classes=3)
    fit(model, [(real, y)], precision="64-true")

    hand.training_seed = 7
    players = hand.generator, hand.discriminator
    adams = [torch.optim.Adam(network.parameters(), 1e-3, (0.0, 0.9)) for network in players]
    real = real.double().requires_grad_()
    fake = hand.draw(y, with_graph=False).requires_grad_()
    real_logits, fake_logits = hand.discriminator(real, y), hand.discriminator(fake, y)
    slopes = [
        torch.autograd.grad(logits.sum(), x, create_graph=True)[0].square().sum((1, 2, 3))
        for x, logits in ((real, real_logits), (fake, fake_logits))
    ]
    (F.softplus(fake_logits - real_logits) + 2.0 / 2 * (slopes[0] + slopes[1])).mean().backward()
    adams[1].step()
    fake = hand.draw(y, with_graph=True)
    loss = F.softplus(hand.discriminator(real.detach(), y).detach() - hand.discriminator(fake, y)).mean()
    parameters = list(hand.generator.parameters())
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient
    adams[0].step()
    for name, value in hand.state_dict().items():
        if not name.startswith("average"):
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_penalties_and_pairing_by_hand_on_a_linear_critic() -> None:
    weight, x = torch.randn(12, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)

    def critic(samples: Tensor) -> Tensor:
        return samples @ weight

    gamma = Cosine(2.0, 1.0, 1.0)
    expected = (0.75 * weight.square().sum()).expand(5)  # gamma is 1.5 half way
    for penalty in (R1(gamma), R2(gamma)):
        torch.testing.assert_close(penalty.penalty(critic, x, x, 500), expected)
