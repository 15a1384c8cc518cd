"""One loss, one optimizer: whole steps against a bare loop in float64, with a density that an affine map makes."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from models.parts.schedules import Cosine
from models.training.base import Batch
from models.training.single_loss import SingleLoss
from settings.sampling import SamplerSettings
from settings.training import Optimization
from tests.models.ranks import fit_share, on_ranks

Fit = Callable[..., lightning.Trainer]
Batches = Callable[..., list[Batch]]

SIZE = 4
"""Values of a sample."""


class Affine(nn.Module):
    """z = W (x - c) + b, and the density of x that makes z standard normal."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(SIZE) + 0.1 * torch.randn(SIZE, SIZE))
        self.bias = nn.Parameter(0.1 * torch.randn(SIZE))
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(SIZE))

    def forward(self, x: Tensor) -> Tensor:
        """The log-density of samples (N, 1, 2, 2), (N,)."""
        z = (x.flatten(1) - self.centre) @ self.weight.T + self.bias
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1) + torch.linalg.slogdet(self.weight).logabsdet


class Density(SingleLoss):
    """Its buffer is the mean of the first batch, where `centred`."""

    def __init__(
        self,
        data_shape: Sequence[int] = (1, 2, 2),
        num_classes: int = 0,
        centred: bool = False,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__(data_shape, num_classes, Affine(), optimization or Optimization())
        self.centred = centred
        self.first_batches: list[Tensor] = []
        self.seen: list[int] = []

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        return -self.network(x)

    def on_first_batch(self, x: Tensor, labels: Tensor) -> None:
        self.first_batches.append(x)
        if self.centred:
            assert isinstance(self.network, Affine)
            self.network.centre.copy_(x.flatten(1).mean(0))

    def count(self, batch: int) -> None:
        super().count(batch)
        self.seen.append(self.samples_seen)

    def generate(self, generators: Sequence[torch.Generator], labels: Tensor, settings: SamplerSettings) -> Tensor:
        raise NotImplementedError  # nothing here samples


def density(centred: bool = False, **settings: Any) -> Density:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Density(centred=centred, optimization=Optimization(**settings))


def joint_batches(count: int = 5, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    x = 0.5 + torch.randn(count, size, 1, 2, 2, generator=generator, dtype=torch.float64)
    return [(batch, torch.zeros(size, dtype=torch.int64)) for batch in x]


class Norms(lightning.Callback):
    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: SingleLoss, *rest: Any) -> None:  # noqa: ANN401
        self.found.append(pl_module.reported())


def bare_loop(
    network: nn.Module,
    batches: Sequence[Batch],
    **settings: Any,  # noqa: ANN401
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Trains in place; returns the average (of decay 0 where none is asked for) and each step's loss and norm."""
    lr, betas = settings.get("lr", 1e-3), (settings.get("beta1", 0.9), settings.get("beta2", 0.999))
    decay = settings.get("weight_decay", 0.0)
    groups = [{"params": [network.weight], "weight_decay": decay}, {"params": [network.bias], "weight_decay": 0.0}]
    optimizer = (torch.optim.AdamW if decay else torch.optim.Adam)(groups, betas=betas, eps=settings.get("eps", 1e-8))
    average, seen, reports = copy.deepcopy(network), 0, []
    for x, _ in batches:
        rate = lr.at(seen / 1000) if isinstance(lr, Cosine) else lr
        if warmup := settings.get("warmup_kimg"):
            rate *= min(1.0, seen / 1000 / warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = -network(x).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))
        if clip := settings.get("clip_norm"):
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        reports.append({"loss": loss.item(), "grad_norm": norm})
        keep = 0.0
        if halflife := settings.get("ema_halflife_kimg"):
            span = 1000 * halflife
            if (rampup := settings.get("ema_rampup")) is not None:
                span = min(span, seen * rampup)
            keep = 0.5 ** (len(x) / span) if span else 0.0
        for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
            mine.data = keep * mine.data + (1 - keep) * theirs.data
        seen += len(x)
    return average, reports


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "Adam's numbers": {"lr": 1e-2, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "schedule": {"lr": Cosine(1e-2, 1e-3, kimg=0.03)},
    "accumulate": {"accumulate": 4},
    "clipped": {"clip_norm": 0.3},
    "accumulated and clipped": {"accumulate": 2, "clip_norm": 0.3},
    "warm-up": {"lr": 1e-2, "warmup_kimg": 0.02},
    "weight decay": {"lr": 1e-2, "weight_decay": 0.5},
    "average": {"lr": 1e-2, "ema_halflife_kimg": 0.016},
    "average, ramped up": {"lr": 1e-2, "ema_halflife_kimg": 0.016, "ema_rampup": 0.5},
    "everything": {
        "lr": Cosine(1e-2, 1e-3, kimg=0.03), "accumulate": 2, "clip_norm": 0.3, "warmup_kimg": 0.02,
        "weight_decay": 0.5, "ema_halflife_kimg": 0.016, "ema_rampup": 0.5,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_five_steps_equal_a_bare_loop(settings: dict[str, Any], fit: Fit) -> None:
    model, recorder = density(**settings), Norms()
    network = copy.deepcopy(model.network).double()
    average, reports = bare_loop(network, joint_batches(), **settings)
    fit(model, joint_batches(), precision="64-true", callbacks=[recorder])
    for mine, theirs in zip(model.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)  # clipping adds 1e-6 to the norm it divides by
    assert recorder.found == [pytest.approx(report, rel=1e-6) for report in reports]  # reported in float32
    if "ema_halflife_kimg" in settings:
        assert model.average is not None
        for mine, theirs in zip(model.average.module.parameters(), average.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
        assert not torch.equal(model.average.module.weight, model.network.weight)
        assert model.chosen_network("ema") is model.average.module
        assert list(model.averages()) == ["network average"]
    else:
        assert model.average is None
        assert model.averages() == {}
        assert model.chosen_network("ema") is model.network
    assert model.chosen_network("raw") is model.network


def test_a_warm_up_moves_nothing_in_its_first_step_and_then_ever_more(fit: Fit) -> None:
    model = density(lr=1e-2, warmup_kimg=0.016)
    before = [p.clone() for p in model.network.parameters()]
    fit(model, joint_batches(1), precision="64-true")
    assert all(torch.equal(old.double(), new) for old, new in zip(before, model.network.parameters(), strict=True))
    assert [model.lr_at(seen) for seen in (0, 4, 8, 16, 1000)] == pytest.approx([0, 2.5e-3, 5e-3, 1e-2, 1e-2])


def test_weights_decay_and_biases_do_not(fit: Fit) -> None:
    optimizer = fit(density(weight_decay=0.1), joint_batches(1), precision="64-true").optimizers[0]
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 1), (0.0, 1)]
    assert optimizer.param_groups[0]["params"][0].ndim == 2


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_batch_is_one_step_whatever_its_parts(accumulate: int, fit: Fit) -> None:
    model = density(accumulate=accumulate)
    trainer = fit(model, joint_batches(), precision="64-true", max_steps=3)
    assert trainer.global_step == model.steps == 3
    assert model.seen == [8, 16, 24]  # counted before the hook
    assert model.micro_batches == accumulate
    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {3}


def test_a_batch_that_does_not_split_is_an_error(fit: Fit) -> None:
    with pytest.raises(ValueError, match="a loader batch of 8 does not split into 3 micro-batches"):
        fit(density(accumulate=3), joint_batches(1), precision="64-true")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"warmup_kimg": -1.0}, "warmup_kimg must be at least 0"),
    ],
)
def test_settings_without_meaning_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimization(**settings)


# What is initialized from data, and resuming.


def test_the_first_batch_initializes_once_the_average_too(fit: Fit) -> None:
    data = joint_batches(3)
    model = density(centred=True, ema_halflife_kimg=1e9, accumulate=2)
    with torch.no_grad():
        model.average.module.weight.zero_()  # type: ignore[union-attr, operator]
    start = model.network.weight.clone()
    fit(model, data, precision="64-true")
    assert len(model.first_batches) == 1
    assert torch.equal(model.first_batches[0], data[0][0])  # whole, not a micro-batch
    centre = data[0][0].flatten(1).mean(0)
    for network in (model.network, model.average.module):  # type: ignore[union-attr]
        torch.testing.assert_close(network.centre, centre, rtol=0, atol=0)
    # Whatever it held before: the average begins at the network that was initialized, and of that it keeps all.
    torch.testing.assert_close(model.average.module.weight, start.double(), rtol=0, atol=1e-7)  # type: ignore[union-attr]


@pytest.mark.parametrize("stopped", [1, 3])
def test_a_fit_resumes_bit_for_bit_and_initializes_no_more(stopped: int, fit: Fit, tmp_path: Path) -> None:
    data, path = joint_batches(), tmp_path / "last.ckpt"
    settings = VARIANTS["everything"]
    # Lightning loads weights before it makes a model float64.
    whole, resumed = density(centred=True, **settings), density(centred=True, **settings).double()
    fit(whole, data, precision="64-true")
    fit(density(centred=True, **settings), data[:stopped], precision="64-true").save_checkpoint(path)
    again = [*data[stopped:], *data[:stopped]]
    fit(resumed, again, precision="64-true", ckpt_path=path, max_steps=5, max_epochs=-1)
    assert (len(whole.first_batches), len(resumed.first_batches)) == (1, 0)
    assert resumed.samples_seen == 40
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# Several ranks.


def train_on_a_rank(rank: int, world: int, folder: Path) -> None:
    model = density(centred=False, **VARIANTS["everything"])
    fit_share(model, joint_batches(), rank, world)
    centred = density(centred=True)
    fit_share(centred, joint_batches(1), rank, world)
    torch.save((model.state_dict(), centred.state_dict(), model.samples_seen), folder / f"{rank}.pt")


def test_two_ranks_train_the_weights_of_one_on_the_joint_batch(fit: Fit, tmp_path: Path) -> None:
    """And take over what rank 0 found in its share of the first batch."""
    on_ranks(train_on_a_rank, tmp_path)
    one = density(**VARIANTS["everything"])
    fit(one, joint_batches(), precision="64-true")
    of_rank_0 = joint_batches(1)[0][0][0::2].flatten(1).mean(0)
    for rank in (0, 1):
        found, centred, seen = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert seen == one.samples_seen == 40
        for name, value in one.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(centred["network.centre"], of_rank_0, rtol=0, atol=0)
