import copy
from collections.abc import Callable

import lightning
import pytest
import torch
from torch import nn

from models.training.ema import WeightAverage, decay_for
from models.training.gan import GAN


@pytest.mark.parametrize("batch", [1, 4, 32, 500])
def test_a_weights_trace_halves_after_the_halflife_whatever_the_batch(batch: int) -> None:
    trace = decay_for(batch, samples_seen=0, halflife_kimg=2.0) ** (2000 / batch)
    assert trace == pytest.approx(0.5, rel=1e-12)  # 2000 multiplications of numbers rounded to 1e-16


def test_no_halflife_keeps_no_memory() -> None:
    assert decay_for(1, samples_seen=10, halflife_kimg=0.0) == 0.0


@pytest.mark.parametrize(
    ("seen", "halflife"),
    [(1_000, 50.0), (100_000, 5_000.0), (200_000, 10_000.0), (10**8, 10_000.0)],
)
def test_rampup_bounds_the_halflife_by_a_share_of_the_samples_seen(seen: int, halflife: float) -> None:
    assert decay_for(64, seen, halflife_kimg=10.0, rampup=0.05) == pytest.approx(0.5 ** (64 / halflife), rel=1e-12)


def test_rampup_forgets_the_first_weights_at_once() -> None:
    assert decay_for(64, samples_seen=0, halflife_kimg=10.0, rampup=0.05) == 0.0


def test_nothing_is_kept_before_the_start() -> None:
    """Steps of 200 "from step 1,000", where steps are counted from 1: the 999th copies, the 1,000th averages."""
    half = {"halflife_kimg": 0.2, "start_kimg": 200.0}
    assert decay_for(200, samples_seen=998 * 200, **half) == 0.0
    assert decay_for(200, samples_seen=999 * 200, **half) == 0.5


def network(value: float) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()
    for p in net.parameters():
        nn.init.constant_(p, value)
    return net


def test_update_moves_every_weight_by_the_formula() -> None:
    source = network(1.0)
    average = WeightAverage(source)
    for value in (3.0, -2.0):
        source.load_state_dict(network(value).state_dict())
        average.update(decay=0.75)
    expected = 0.75 * (0.75 * 1.0 + 0.25 * 3.0) + 0.25 * -2.0
    for p in average.module.parameters():
        torch.testing.assert_close(p, torch.full_like(p, expected), rtol=1e-15, atol=0)


def test_buffers_are_copied() -> None:
    source = network(1.0)
    average = WeightAverage(source)
    source(torch.randn(8, 1, 4, 4, dtype=torch.float64))
    average.update(decay=0.999)
    for mine, theirs in zip(average.module.buffers(), source.buffers(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()


def test_average_leaves_its_source_alone() -> None:
    source = network(1.0)
    average = WeightAverage(source)
    source.load_state_dict(network(5.0).state_dict())
    average.update(decay=0.5)
    assert all((p == 5).all() and p.requires_grad for p in source.parameters())
    assert source.training


def test_average_stays_in_evaluation_mode() -> None:
    parent = nn.ModuleList([WeightAverage(network(1.0))])
    assert not any(module.training for module in parent[0].module.modules())
    parent.train()
    assert not any(module.training for module in parent[0].modules())


def test_average_takes_no_gradient() -> None:
    average = WeightAverage(network(1.0))
    average.update(decay=0.5)
    assert not any(p.requires_grad for p in average.parameters())


def test_a_copy_of_a_model_has_an_average_that_follows_the_copy() -> None:
    """The average hides its source from torch, but not from `copy.deepcopy`."""
    model = nn.Module()
    model.network = network(1.0)
    model.average = WeightAverage(model.network)
    copied = copy.deepcopy(model)
    copied.network.load_state_dict(network(3.0).state_dict())
    copied.average.update(decay=0.0)
    assert all((p == 3).all() for p in copied.average.module.parameters())
    assert "source" not in "".join(model.state_dict())


def test_no_optimizer_holds_the_average(toy_gan: Callable[..., GAN], fit: Callable, batches: Callable) -> None:
    model = toy_gan()
    trainer = fit(model, batches(1, 2))
    stepped = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    assert stepped == {id(p) for network in model.networks().values() for p in network.parameters()}
    assert stepped.isdisjoint(id(p) for p in model.average.parameters())


def test_average_follows_the_generator_through_a_fit(
    toy_gan: Callable[..., GAN], fit: Callable, batches: Callable
) -> None:
    model = toy_gan(ema_halflife_kimg=0.008, lr=0.1)
    before = [p.clone() for p in model.average.parameters()]
    fit(model, batches(1, 8))  # one half-life: halfway from the old weights to the new
    for old, mine, new in zip(before, model.average.parameters(), model.generator.parameters(), strict=True):
        torch.testing.assert_close(mine, (old + new) / 2, rtol=1e-6, atol=1e-7)  # float32


def test_average_is_the_generator_until_its_start(
    toy_gan: Callable[..., GAN], fit: Callable, batches: Callable
) -> None:
    model = toy_gan(ema_halflife_kimg=10.0, ema_start_kimg=0.024, lr=0.1)
    same = []

    class Compare(lightning.Callback):
        def on_train_batch_end(self, trainer: object, pl_module: GAN, *rest: object) -> None:
            pairs = zip(pl_module.average.parameters(), pl_module.generator.parameters(), strict=True)
            same.append(all(torch.equal(mine, theirs) for mine, theirs in pairs))

    fit(model, batches(4, 8), callbacks=[Compare()])
    assert same == [True, True, False, False]
