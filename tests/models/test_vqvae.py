from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import load
from models.parts.quantizers import Codebook, EMACodebook, FiniteScalar, Quantizer
from models.training.base import Batch
from models.training.capabilities import Encodes, HasCodes, HasLatents, HasLikelihood
from models.vqvae import VQVAE
from settings.sampling import SamplerSettings
from settings.training import Optimization

Fit = Callable[..., Any]
Batches = Callable[..., list[Batch]]
SHAPE = (1, 12, 12)


def quantizers() -> list[Quantizer]:
    return [EMACodebook(8, 4), FiniteScalar([4, 3])]


def vqvae(shape: Sequence[int] = SHAPE, seed: int = 1, **arguments: Any) -> VQVAE:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        small: dict[str, Any] = {"quantizer": EMACodebook(8, 4), "width": 8, "residual_width": 4, "blocks": 1}
        return VQVAE(shape, **{**small, **arguments})


def pictures(count: int, shape: Sequence[int] = SHAPE, seed: int = 5) -> Tensor:
    """Smooth ones: a few waves."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.linspace(0, 6.3, shape[-1])
    phases = 6.3 * torch.rand(count, shape[0], 1, 1, generator=generator)
    return torch.sin(across[None, None, None] + 2 * across[None, None, :, None] + phases)


def book(model: VQVAE) -> Codebook:
    found = model.network.quantizer
    assert isinstance(found, Codebook)
    return found


# The contract.


@pytest.mark.parametrize("quantizer", quantizers(), ids=["codebook", "scalar"])
def test_its_capabilities(quantizer: Quantizer) -> None:
    model = vqvae(quantizer=quantizer)
    assert isinstance(model, Encodes)
    assert isinstance(model, HasCodes)
    assert not isinstance(model, HasLatents)
    assert not isinstance(model, HasLikelihood)
    with pytest.raises(ValueError, match=r"prior.*transformer") as caught:
        model.sample(range(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantizer", quantizers(), ids=["codebook", "scalar"])
@pytest.mark.parametrize(("shape", "halvings"), [((1, 28, 28), 2), ((3, 32, 32), 1), ((3, 64, 64), 3)])
def test_pictures_of_any_usual_size(quantizer: Quantizer, shape: tuple[int, int, int], halvings: int) -> None:
    model, x = vqvae(shape, quantizer=quantizer, halvings=halvings), pictures(2, shape)
    side = shape[1] // 2**halvings
    assert model.code_shape == (side, side)
    assert model.encode(x).shape == (2, quantizer.dim, side, side)
    codes = model.to_codes(x)
    assert codes.shape == (2, side, side)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < model.num_codes
    made = model.reconstruct(x)
    assert made.shape == x.shape
    assert made.abs().max() <= 1
    assert torch.equal(made, model.from_codes(codes))
    assert torch.equal(made, model.decode(model.encode(x)))


def test_its_default_networks_have_the_parameters_of_the_authors_example() -> None:
    """Three channels, 128 hidden units, 2 residual blocks of 32, 64 values a code: weights and biases by hand."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + outputs

    blocks = 2 * (conv(128, 32, 3) + conv(32, 128, 1))
    encoder = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 128, 3) + blocks + conv(128, 64, 1)
    decoder = conv(64, 128, 3) + blocks + conv(128, 64, 4) + conv(64, 3, 4)
    model = VQVAE((3, 32, 32))
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks().items()}
    assert counts == {"encoder": encoder, "decoder": decoder}
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder


def test_a_picture_is_coded_the_same_in_any_batch() -> None:
    model, x = vqvae().double(), pictures(5)
    assert torch.equal(torch.cat([model.to_codes(part) for part in x.split(2)]), model.to_codes(x))


@pytest.mark.parametrize("codes", [torch.zeros(1, 2, 3, dtype=torch.int64), torch.full((1, 3, 3), 8)])
def test_codes_that_there_are_not_are_refused(codes: Tensor) -> None:
    with pytest.raises(ValueError, match="codes"):
        vqvae().from_codes(codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 12, 16)}, "data.resolution"),
        ({"halvings": 3}, "halvings"),
        ({"halvings": 0}, "halvings"),
        ({"width": 1}, "width"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        vqvae(**arguments)
    assert "\n" not in str(caught.value)


# Training.


def test_the_loss_by_its_parts() -> None:
    model, x = vqvae().double().eval(), pictures(3).double()
    model.network.variance.fill_(0.3)
    found = model.loss(x, torch.zeros(3, dtype=torch.int64))
    z = model.network.encoder(x)
    values = book(model).values_of(model.to_codes(x))
    error = (model.network.decoder(values) - x).square().mean((1, 2, 3))
    commitment = (z - values).square().mean((1, 2, 3))
    torch.testing.assert_close(found, error / 0.3 + 0.25 * commitment, rtol=1e-10, atol=1e-10)


def test_the_first_batch_sets_the_codebook_and_the_variance(fit: Fit) -> None:
    x = pictures(6)
    model = vqvae(optimization=Optimization(lr=0.0, ema_halflife_kimg=1.0))
    rows = model.encode(x, settings=SamplerSettings(weights="raw")).movedim(1, -1).flatten(0, 2)
    fit(model, [(x, torch.zeros(6, dtype=torch.int64))])
    assert model.network.variance.item() == pytest.approx(x.var(correction=0).item())
    spread = torch.cdist(book(model).vectors, rows).min(1).values
    assert spread.max() < 0.1 * torch.cdist(rows, rows).max()
    average = model.average
    assert average is not None
    assert torch.equal(average.module.quantizer.vectors, book(model).vectors)


@pytest.mark.parametrize("quantizer", quantizers(), ids=["codebook", "scalar"])
def test_training_reconstructs_and_uses_its_codes(quantizer: Quantizer, fit: Fit) -> None:
    x, y = pictures(16), torch.zeros(16, dtype=torch.int64)
    model = vqvae(quantizer=quantizer, optimization=Optimization(lr=5e-3))
    fit(model, [(x, y)] * 120)
    assert (model.reconstruct(x) - x).square().mean() < 0.25 * x.var()
    reported = model.reported()
    assert 2 < reported["perplexity"] <= model.num_codes
    assert 0.3 < reported["codes_used"] <= 1


def test_micro_batches_update_the_codebook_once_a_step(fit: Fit) -> None:
    x, y = pictures(8), torch.zeros(8, dtype=torch.int64)
    books = []
    for accumulate in (1, 4):
        model = vqvae(
            quantizer=EMACodebook(8, 4, revive_below=0.0), optimization=Optimization(lr=1e-3, accumulate=accumulate)
        )
        fit(model, [(x, y)] * 2, precision="64-true")
        books.append(book(model))
    torch.testing.assert_close(books[0].counts, books[1].counts)
    torch.testing.assert_close(books[0].vectors, books[1].vectors, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("quantizer", quantizers(), ids=["codebook", "scalar"])
def test_a_resumed_run_ends_in_the_same_bits(
    quantizer: Quantizer, precision: str, fit: Fit, batches: Batches, tmp_path: Path
) -> None:
    data, settings = batches(4, 8, SHAPE), Optimization(lr=1e-3, ema_halflife_kimg=0.02)
    whole = vqvae(quantizer=quantizer, optimization=settings)
    fit(whole, data, precision=precision)
    half = vqvae(quantizer=quantizer, optimization=settings)
    path = tmp_path / "half.ckpt"
    fit(half, data[:2], precision=precision).save_checkpoint(path)
    resumed = vqvae(seed=9, quantizer=quantizer, optimization=settings)
    fit(resumed, [*data[2:], *data[:2]], precision=precision, ckpt_path=path, max_steps=4, max_epochs=-1)
    assert resumed.samples_seen == whole.samples_seen == 32
    for (name, mine), theirs in zip(resumed.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    if isinstance(quantizer, EMACodebook):
        moved = [name for name, mine in whole.state_dict().items() if not torch.equal(mine, half.state_dict()[name])]
        assert {f"network.quantizer.{name}" for name in ("vectors", "counts", "sums")} <= set(moved)
        assert book(resumed).sums.dtype == torch.float32


@pytest.mark.parametrize("quantizer", quantizers(), ids=["codebook", "scalar"])
def test_a_loaded_model_is_the_saved_one(quantizer: Quantizer, fit: Fit, batches: Batches, tmp_path: Path) -> None:
    model = vqvae(quantizer=quantizer, optimization=Optimization(ema_halflife_kimg=0.01))
    fit(model, batches(2, 8, SHAPE)).save_checkpoint(tmp_path / "last.ckpt")
    loaded, x = load(tmp_path / "last.ckpt"), pictures(3)
    assert isinstance(loaded, VQVAE)
    assert torch.equal(loaded.to_codes(x), model.to_codes(x))
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    assert loaded.num_codes == model.num_codes
