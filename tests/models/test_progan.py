"""ProGAN: its layers by hand, the fade at both ends, the schedule, and a fit that grows and resumes."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.plan import Plan, Trial, cost_until, plan_lines
from commands.options.command_line import quietly
from datamodules.shapes import Shapes
from models.parts.layers import pixel_norm, with_minibatch_deviation
from models.parts.losses import NonSaturating, Wasserstein
from models.parts.regularizers import R1, GradientPenalty
from models.progan import (
    Discriminator,
    EqualizedConv2d,
    EqualizedLinear,
    Generator,
    Growing,
    ProGAN,
)
from settings.configurable import build, describe
from settings.training import AdversarialTraining


def small(data_shape: Sequence[int] = (3, 16, 16), **settings: Any) -> ProGAN:  # noqa: ANN401
    """Grows every 48 samples, of which the first 24 fade a resolution in: 4 px, 8 px from 24, 16 px from 72."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channel_base": 64, "channel_max": 8, "latent_dim": 6}
    return ProGAN(data_shape, **{**sizes, "stable_kimg": 0.024, "fade_kimg": 0.024, **settings})


def at(model: ProGAN, samples_seen: int) -> ProGAN:
    model.samples_seen = samples_seen
    model.grow()
    return model


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# Layers, by hand.


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(EqualizedConv2d(40, 50, 3), 360), (EqualizedConv2d(400, 50, 1), 400), (EqualizedLinear(300, 60), 300)],
    ids=["3x3", "1x1", "linear"],
)
def test_weights_begin_with_unit_variance_and_are_scaled_at_runtime(
    layer: EqualizedConv2d | EqualizedLinear, fan_in: int
) -> None:
    torch.manual_seed(0)
    layer = copy.deepcopy(layer)
    count = layer.weight.numel()
    assert layer.scale == pytest.approx(math.sqrt(2) / math.sqrt(fan_in), rel=1e-12)
    assert abs(layer.weight.mean()) < 5 / count**0.5  # five standard errors of either estimate
    assert abs(layer.weight.std() - 1) < 5 / (2 * count) ** 0.5
    assert (layer.bias == 0).all()
    nn.init.normal_(layer.bias)
    if isinstance(layer, EqualizedLinear):
        x = noise(3, 300)
        expected = x @ (layer.weight * math.sqrt(2 / fan_in)).T + layer.bias
    else:
        x = noise(3, layer.in_channels, 5, 5)
        expected = F.conv2d(x, layer.weight, padding="same") * math.sqrt(2 / fan_in) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_pixel_norm_gives_every_position_a_mean_square_of_one() -> None:
    x = torch.tensor([[3.0, 0.0], [4.0, 0.0]])[None, :, :, None]  # two channels, two positions
    normalised = pixel_norm(x)[0, :, :, 0]
    torch.testing.assert_close(normalised[:, 0], torch.tensor([3.0, 4.0]) / math.sqrt(12.5))
    assert (normalised[:, 1] == 0).all()


def test_minibatch_deviation_by_hand() -> None:
    x = torch.tensor([[1.0, 10.0], [0.0, 0.0], [3.0, 10.0], [0.0, 4.0]]).view(4, 2, 1, 1).expand(4, 2, 2, 3)
    out = with_minibatch_deviation(x, 2)
    assert torch.equal(out[:, :2], x)
    # Samples 0 and 2 differ by 2 and 0: deviations sqrt(2) and 0. Samples 1 and 3 differ by 0 and 4: 0 and sqrt(8).
    expected = torch.tensor([2**0.5 / 2, 8**0.5 / 2, 2**0.5 / 2, 8**0.5 / 2])
    torch.testing.assert_close(out[:, 2], expected[:, None, None].expand(4, 2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(with_minibatch_deviation(x[:3], 2)[:, 2].unique(), x[:3, :, 0, 0].std(0).mean()[None])
    assert (with_minibatch_deviation(x[:1], 4)[:, 2] == 0).all()


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_have_the_groups_of_one_process(world_size: int) -> None:
    x = noise(16, 3, 4, 4, dtype=torch.float64)
    parts = [with_minibatch_deviation(x[rank::world_size], 4) for rank in range(world_size)]
    torch.testing.assert_close(torch.stack(parts, 1).flatten(0, 1), with_minibatch_deviation(x, 4), rtol=0, atol=1e-12)


# Networks.


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):  # nothing is allocated
        widths = [512, 512, 512, 512, 256, 128, 64, 32, 16]
        assert parameters(Generator(512, widths, 3, 0)) == 23_086_795
        assert parameters(Discriminator(widths, 3, 0, 4)) == 23_087_249
        assert parameters(Discriminator(widths, 3, 0, None)) == 23_087_249 - 9 * 512


def test_the_default_widths_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = ProGAN((3, 1024, 1024))
    widths = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert [layer.in_channels for layer in model.generator.to_rgb] == widths
    assert [layer.out_channels for layer in model.discriminator.from_rgb] == widths


@pytest.mark.parametrize("stage", [1, 2])
def test_generator_fades_from_the_stage_before_to_the_new_one(stage: int) -> None:
    generator = small().generator
    z, labels = noise(5, 6), torch.zeros(5, dtype=torch.int64)

    def made(stage: int, alpha: float) -> Tensor:
        generator.stage, generator.alpha = stage, alpha
        return generator(z, labels)

    before, new = made(stage - 1, 1.0), made(stage, 1.0)
    assert new.shape == (5, 3, 4 * 2**stage, 4 * 2**stage)
    doubled = before.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(made(stage, 0.0), doubled)
    torch.testing.assert_close(made(stage, 0.3), 0.7 * doubled + 0.3 * new, rtol=0, atol=1e-5)
    assert (new - doubled).abs().max() > 0.1


@pytest.mark.parametrize("stage", [1, 2])
def test_discriminator_fades_from_the_stage_before_to_the_new_one(stage: int) -> None:
    discriminator = small().discriminator
    labels, size = torch.zeros(4, dtype=torch.int64), 4 * 2**stage
    x = noise(4, 3, size, size)

    def judged(x: Tensor, stage: int, alpha: float) -> Tensor:
        discriminator.stage, discriminator.alpha = stage, alpha
        return discriminator(x, labels)

    averaged = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    before, new = judged(averaged, stage - 1, 1.0), judged(x, stage, 1.0)
    torch.testing.assert_close(judged(x, stage, 0.0), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(judged(x, stage, 1 - 1e-7), new, rtol=0, atol=1e-5)
    half = judged(x, stage, 0.5)
    assert ((half - new).abs() > 1e-4).all()
    assert ((half - before).abs() > 1e-4).all()


@pytest.mark.parametrize("resolution", [4, 8, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("conditional", [False, True])
def test_samples_have_the_final_shape_in_every_stage(resolution: int, channels: int, conditional: bool) -> None:
    model = small((channels, resolution, resolution), num_classes=3, conditional=conditional)
    for stage, start in enumerate(model.stage_starts):
        x = at(model, start).sample(range(3))
        assert x.shape == (3, channels, resolution, resolution)
        assert x.abs().max() <= 1
        side = resolution // (4 * 2**stage)  # of the squares of one value
        assert torch.equal(x, x[:, :, ::side, ::side].repeat_interleave(side, 2).repeat_interleave(side, 3))
        assert torch.equal(model.decode(model.draw_latents(range(3)), model.sample_labels(range(3))), x)
        logits = model.logits(x, torch.tensor([0, 2, 1]))
        assert logits.shape == (3,)
        assert logits.isfinite().all()


def test_samples_are_cut_off_at_the_ends_of_the_range() -> None:
    model = small()
    with torch.no_grad():
        model.average.module.to_rgb[0].weight.mul_(100)
    x = model.sample(range(8))
    assert (x.min(), x.max()) == (-1, 1)


def test_labels_steer_samples_and_logits_only_where_conditional() -> None:
    zero, one = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    for conditional in (True, False):
        model = small(num_classes=2, conditional=conditional)
        x, z = noise(4, 3, 16, 16), noise(4, 6)
        assert bool((model.logits(x, zero) != model.logits(x, one)).all()) == conditional
        assert torch.equal(model.decode(z, zero), model.decode(z, one)) != conditional


# The schedule.


def test_stages_and_fades_are_functions_of_the_samples_seen() -> None:
    model = small(stable_kimg=[0.01, 0.03], fade_kimg=[0.02, 0.04])
    assert model.stage_starts == (0, 10, 60)  # 4 px for 10; 8 px for 20 + 30; then 16 px, 40 of them fading
    expected = {0: (0, 1), 9: (0, 1), 10: (1, 0), 20: (1, 0.5), 30: (1, 1), 59: (1, 1), 60: (2, 0), 70: (2, 0.25)}
    for seen, (stage, alpha) in {**expected, 100: (2, 1.0), 10**9: (2, 1.0)}.items():
        at(model, seen)
        networks = [module for module in model.modules() if isinstance(module, Growing)]
        assert len(networks) == 3  # the average among them
        assert all((network.stage, network.alpha) == (stage, alpha) for network in networks)


@pytest.mark.parametrize("least", [4, 5, 6, 8, 48])
def test_no_step_has_two_resolutions_and_boundaries_are_exact_for_multiples(least: int) -> None:
    model = small(batch_factors=[8, 3, 1])
    seen, sizes = 0, []
    while seen < 200:
        size = model.samples_per_step(seen, least)
        assert size % least == 0
        assert 0 < size <= least * [8, 3, 1][model.stage_at(seen)]
        later = [start for start in model.stage_starts if start > seen]
        assert not later or seen + size < later[0] + least  # a step ends in the smallest that holds the boundary
        sizes.append((seen, size))
        seen += size
    if least in (4, 6, 8):  # 24 and 72 are multiples
        assert {24, 72} <= {start for start, _ in sizes}
        assert sizes[0] == (0, 24)


def test_real_pictures_are_averaged_to_the_stages_size_and_blended() -> None:
    model, x = small(), noise(2, 3, 16, 16)
    squares = {side: F.avg_pool2d(x, side) for side in (2, 4)}
    assert torch.equal(at(model, 0).of_the_stage(x), squares[4])
    assert torch.equal(at(model, 48).of_the_stage(x), squares[2])
    assert torch.equal(at(model, 96).of_the_stage(x), x)
    coarse = squares[4].repeat_interleave(2, 2).repeat_interleave(2, 3)
    faded = at(model, 24 + 6).of_the_stage(x)  # a quarter of the way
    torch.testing.assert_close(faded, 0.75 * coarse + 0.25 * squares[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data_shape": (3, 16, 8)}, "power of two from 4 up, not 16x8: set data.resolution"),
        ({"data_shape": (3, 24, 24)}, "power of two from 4 up, not 24x24"),
        ({"data_shape": (3, 2, 2)}, "power of two from 4 up, not 2x2"),
        ({"conditional": True}, "conditional: true needs labels"),
        ({"stable_kimg": [1.0]}, "stable_kimg needs one number, or 2 for this resolution"),
        ({"fade_kimg": -1.0}, "fade_kimg needs one number, or 2 .* none of them negative"),
        ({"batch_factors": [1, 1]}, "batch_factors needs 3 numbers from 1 up, for 4 px to 16 px"),
        ({"batch_factors": [2, 0, 1]}, "batch_factors needs 3 numbers from 1 up"),
        ({"minibatch_group": 1}, "minibatch_group must be at least 2, or null"),
        ({"channel_base": 15}, "channel_base 15 leaves no channels at 16 px"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        small(**settings)


def test_a_checkpoint_can_hold_it() -> None:
    model = small(stable_kimg=[0.01, 0.02], batch_factors=[4, 2, 1])
    rebuilt = build(describe(model))
    assert describe(rebuilt) == describe(model)
    assert rebuilt.stage_starts == model.stage_starts


# The published loss.


def test_wgan_gp_with_drift_by_hand() -> None:
    model = at(small(minibatch_group=None), 30).double()
    x, fake = model.of_the_stage(noise(4, 3, 16, 16, dtype=torch.float64)), noise(4, 3, 8, 8, dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)

    def critic(x: Tensor) -> Tensor:
        return model.discriminator(x, labels)

    loss = Wasserstein(drift=0.001).discriminator(critic(x), critic(fake))
    torch.testing.assert_close(loss, critic(fake) - critic(x) + 0.001 * critic(x) ** 2, rtol=1e-12, atol=0)
    assert torch.equal(Wasserstein(drift=0.001).generator(critic(fake)), -critic(fake))

    torch.manual_seed(5)
    penalty = GradientPenalty(10.0).penalty(critic, x, fake, 0)
    torch.manual_seed(5)
    between = x + torch.rand(4, 1, 1, 1, dtype=torch.float64) * (fake - x)
    for i in range(4):  # without the statistic samples are apart, so that each gradient is its own
        point = between[i : i + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.discriminator(point, labels[:1]), point)
        torch.testing.assert_close(penalty[i], 10 * (slope.norm() - 1) ** 2, rtol=1e-9, atol=0)


def test_negative_drift_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"drift .* must not be negative"):
        Wasserstein(drift=-1.0)


# In training.

TRAINING = {
    "wgan-gp": {},
    "r1, two D steps": {
        "adversarial": {"loss": NonSaturating(), "regularizers": [R1(1.0, every=2)], "d_steps": 2, "lr": 1e-3},
    },
}  # fmt: skip


class Watch(lightning.Callback):
    """Keeps what each step trained with, and saves a checkpoint after so many steps."""

    def __init__(self, save_after: int = -1, path: Path | None = None) -> None:
        self.save_after, self.path = save_after, path
        self.steps: list[tuple[int, int, int, int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        network = pl_module.generator
        self.steps.append((pl_module.samples_seen, len(batch[0]), network.stage, round(24 * network.alpha)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:  # noqa: ANN401
        if pl_module.steps == self.save_after:
            trainer.save_checkpoint(self.path)


def fitted(model: ProGAN, steps: int, *callbacks: lightning.Callback, **settings: Any) -> lightning.Trainer:  # noqa: ANN401
    data = Shapes(resolution=16, train_size=50, test_size=1, batch_size=4)
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=list(callbacks),
        **settings,
    )  # fmt: skip
    torch.manual_seed(9)
    with quietly():
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def growing(variant: dict[str, Any], **settings: Any) -> ProGAN:  # noqa: ANN401
    adversarial = AdversarialTraining(**variant["adversarial"]) if variant else None
    return small(batch_factors=[3, 2, 1], adversarial=adversarial, **settings)


@pytest.mark.parametrize("variant", TRAINING)
def test_a_fit_that_grows_resumes_bit_for_bit_in_the_midst_of_a_fade(variant: str, tmp_path: Path) -> None:
    """Two and three stages lie on either side of where it stopped."""
    settings = TRAINING[variant]
    per_step = 2 if settings else 1
    whole, watch = growing(settings), Watch()
    trainer = fitted(whole, 14, watch)
    stopped = next(i for i, (_, _, stage, alpha) in enumerate(watch.steps) if stage == 1 and 0 < alpha < 24)
    path = tmp_path / "half.ckpt"
    fitted(growing(settings), stopped, Watch(stopped, path))
    resumed = growing(settings)
    for parameter in resumed.parameters():
        parameter.data.zero_()  # whatever is not restored shows
    again = Watch()
    rest = fitted(resumed, 14, again, ckpt_path=path)

    assert {stage for _, _, stage, _ in watch.steps} == {0, 1, 2}
    assert again.steps == watch.steps[stopped:]
    assert next(size // per_step for _, size, stage, _ in watch.steps if stage == 2) == 4
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for mine, theirs in zip(trainer.optimizers, rest.optimizers, strict=True):
        for a, b in zip(mine.state_dict()["state"].items(), theirs.state_dict()["state"].items(), strict=True):
            assert a[0] == b[0]
            assert all(torch.equal(a[1][key], b[1][key]) for key in a[1])


def test_layers_train_from_the_stage_that_uses_them_on() -> None:
    model, watch = growing({}), Watch()
    initial = copy.deepcopy(model.state_dict())
    trainer = fitted(model, 5, watch)  # 12 + 12 samples at 4 px, then 8 + 8 + 8 of 8 px
    assert [step[:3] for step in watch.steps] == [(0, 12, 0), (12, 12, 0), (24, 8, 1), (32, 8, 1), (40, 8, 1)]
    names = {parameter: name for name, parameter in model.named_parameters()}
    taken = {
        names[parameter]: int(state["step"])
        for optimizer in trainer.optimizers for parameter, state in optimizer.state.items()
    }  # fmt: skip
    assert taken["generator.first.weight"] == taken["discriminator.last.weight"] == 5
    assert taken["generator.blocks.1.0.weight"] == taken["discriminator.from_rgb.1.weight"] == 3
    assert not any(".2" in name for name in taken)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        used = name.replace("average.module", "generator") in taken
        if not used or "weight" in name:  # a bias may have no gradient for other reasons
            assert torch.equal(value, initial[name]) != used, name


def test_a_grown_model_loads_as_it_was_saved(tmp_path: Path) -> None:
    from models import load

    model = growing({})
    path = tmp_path / "grown.ckpt"
    fitted(model, 4, Watch(4, path))
    loaded = load(path)
    assert isinstance(loaded, ProGAN)
    assert (loaded.generator.stage, loaded.generator.alpha) == (model.generator.stage, model.generator.alpha) != (0, 1)
    assert torch.equal(loaded.sample(range(4)), model.sample(range(4)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_shrink_as_resolutions_grow_micro_batches_and_mixed_precision_included(precision: str) -> None:
    adversarial = {"loss": NonSaturating(), "accumulate": 2, "lr": 1e-3}
    model, watch = growing({"adversarial": adversarial}), Watch()
    fitted(model, 6, watch, precision=precision)
    assert [step[:3] for step in watch.steps] == [
        (0, 24, 0), (24, 16, 1), (40, 16, 1), (56, 16, 1), (72, 8, 2), (80, 8, 2),
    ]  # fmt: skip
    assert all(p.isfinite().all() for p in model.parameters())


# The plan.


class Measured(lightning.Callback):
    def __init__(self, end: float) -> None:
        self.end = end

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        model = pl_module
        assert isinstance(model, ProGAN)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        place = (model.samples_seen, model.steps, model.generator.stage, model.average.module.alpha)
        self.cost = cost_until(trainer, model, 4, self.end)
        self.lines = plan_lines(trainer, model, self.cost, 1, None)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(not optimizer.state for optimizer in trainer.optimizers)
        assert (model.samples_seen, model.steps, model.generator.stage, model.average.module.alpha) == place
        trainer.should_stop = True


def test_the_plan_measures_every_stage_to_come_and_says_so() -> None:
    measured = Measured(math.inf)
    fitted(growing({}), 1, measured)
    cost = measured.cost
    assert [stage.samples_seen for stage in cost.stages] == [0, 24, 72]
    assert cost.seconds_per_kimg == cost.stages[-1].seconds_per_kimg
    assert cost.checkpoint_bytes == cost.stages[-1].checkpoint_bytes > cost.stages[0].checkpoint_bytes
    assert cost.peak_bytes == max(stage.peak_bytes for stage in cost.stages)
    (line,) = (line for line in measured.lines if line.strip().startswith("stages"))
    assert [f"from {kimg} kimg on" in line for kimg in ("0", "0.024", "0.072")] == [True] * 3

    bounded = Measured(48)
    fitted(growing({}), 1, bounded)
    first, second = bounded.cost.stages  # the third begins after the end
    assert bounded.cost.seconds_per_kimg == pytest.approx((first.seconds_per_kimg + second.seconds_per_kimg) / 2)


def test_a_trial_measures_the_last_stage() -> None:
    trial = Trial(batch_size=4)
    fitted(growing({}), 1, trial)
    assert trial.cost is not None
    assert trial.cost.samples_seen == 72
    assert not trial.cost.stages


def test_a_fit_with_a_plan_begins_where_it_stood() -> None:
    watch = Watch()
    fitted(growing({}), 2, Plan(), watch)
    assert watch.steps == [(0, 12, 0, 24), (12, 12, 0, 24)]
