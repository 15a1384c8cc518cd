"""Memory predicted of tensors without storage, against the bytes that a real step holds."""

from collections.abc import Callable

import lightning
import pytest
import torch
from torch import Tensor

from callbacks.expected import Expected, LiveBytes, OneStep, expected_memory
from commands.options.command_line import quietly
from models.dcgan import DCGAN
from models.parts.regularizers import R1
from models.progan import ProGAN
from models.training.base import GenerativeModel
from models.training.gan import GAN
from models.vae import VAE
from settings.training import AdversarialTraining


def dcgan() -> DCGAN:
    adversarial = AdversarialTraining(regularizers=[R1(gamma=1.0, every=4)])
    return DCGAN((3, 32, 32), 0, width=8, adversarial=adversarial)


def vae() -> VAE:
    return VAE((3, 32, 32), 0)


def counted(model: GenerativeModel, batch_size: int, precision: str) -> Expected:
    """The same step, on tensors with values."""
    step = OneStep(batch_size)
    with quietly():
        lightning.Trainer(
            accelerator="cpu", devices=1, precision=precision, logger=False, enable_checkpointing=False,  # type: ignore[arg-type]
            enable_progress_bar=False, enable_model_summary=False, max_epochs=-1, callbacks=[step],
        ).fit(model.train(), train_dataloaders=[0])  # fmt: skip
    assert step.expected is not None
    return step.expected


@pytest.mark.parametrize(("make", "precision"), [(dcgan, "32-true"), (dcgan, "bf16-mixed"), (vae, "32-true")])
def test_the_prediction_is_what_a_step_holds(make: Callable[[], GenerativeModel], precision: str) -> None:
    with torch.device("meta"):
        model = make()
    with quietly():
        predicted = expected_memory(model, 8, precision)
    real = counted(make(), 8, precision)
    assert predicted.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)
    assert predicted.peak_bytes > sum(predicted.kept.values())
    assert (predicted.kept, predicted.checkpoint_bytes) == (real.kept, real.checkpoint_bytes)


def test_adam_keeps_two_numbers_a_parameter_and_activations_grow_with_the_batch() -> None:
    small, large = dcgan(), dcgan()
    parameters = sum(p.numel() for network in small.networks().values() for p in network.parameters())
    with quietly():
        one, four = expected_memory(small, 32, "32-true"), expected_memory(large, 128, "32-true")
    assert one.kept["optimizer state"] == pytest.approx(2 * 4 * parameters, rel=0.01)
    assert one.kept == four.kept
    assert 3 < four.activations / one.activations < 5
    assert (four.samples, small.samples_seen) == (128, 0)


def test_a_model_that_grows_is_predicted_in_its_last_stage() -> None:
    model = ProGAN((1, 32, 32), 0, channel_base=256, channel_max=16, latent_dim=16, stable_kimg=1, fade_kimg=1)
    with quietly():
        found = expected_memory(model, 4, "32-true")
    assert found.samples == model.samples_per_step(model.stage_starts[-1], 4)


def test_what_cannot_be_predicted_says_why(toy_gan: Callable[..., GAN], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="memory can be predicted in precision 32-true"):
        expected_memory(toy_gan(), 4, "bf16-true")

    def some(self: GAN, x: Tensor) -> Tensor:
        return x[x[:, 0, 0, 0] > 0]

    monkeypatch.setattr(GAN, "augmented", some)
    with pytest.raises(RuntimeError), quietly():
        expected_memory(toy_gan(), 4, "32-true")


def test_bytes_are_counted_while_they_live() -> None:
    x = torch.zeros(10)
    with LiveBytes([x]) as live:
        y = x + 1
        assert live.now == 80
        shares = y.view(2, 5)
        del y
        assert live.now == 80
        del shares
        assert live.now == 40
    assert live.peak == 80
