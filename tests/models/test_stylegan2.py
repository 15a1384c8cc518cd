"""StyleGAN2: parameter counts, its parts by hand, noise and truncation, path lengths, and a fit that resumes."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from commands.options.command_line import quietly
from datamodules.shapes import Shapes
from models.parts.layers import autocast_dtype, with_minibatch_deviation
from models.parts.losses import NonSaturating
from models.parts.ops import low_pass, upsample2d
from models.parts.regularizers import R1, R2, MicroBatch, path_lengths
from models.stylegan2 import (
    Discriminator,
    DiscriminatorBlock,
    EqualizedConv2d,
    EqualizedLinear,
    Mapping,
    StyledConv2d,
    StyleGAN2,
    mixed,
    noise_of,
)
from models.training.base import Batch
from models.training.capabilities import HasCritic, HasLatents
from settings.configurable import build, describe
from settings.sampling import GANSettings, StyleGAN2Settings
from settings.training import AdversarialTraining

Fit = Callable[..., lightning.Trainer]
Batches = Callable[..., list[Batch]]


def tiny(data_shape: Sequence[int] = (3, 16, 16), num_classes: int = 0, **settings: Any) -> StyleGAN2:  # noqa: ANN401
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "channel_base": 64, "channel_max": 8, "latent_dim": 6, "w_dim": 5, "mapping_layers": 2, "minibatch_group": 2,
    }  # fmt: skip
    return StyleGAN2(data_shape, num_classes, **{**sizes, **settings})


def awake(model: StyleGAN2) -> StyleGAN2:
    """With noise that shows, a different average, and an average of w."""
    torch.manual_seed(1)
    for generator in (model.generator, model.average.module):
        assert isinstance(generator, nn.Module)
        for name, value in generator.state_dict().items():
            if name.endswith("noise_strength"):
                value.fill_(0.3)
            if name == "w_average":
                value.normal_()
            if name == "synthesis.const":
                value.normal_()
    return model


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


# Parameters.


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("resolution", "settings", "counts"),
    [
        (1024, {}, (30_370_060, 29_012_513)),
        (512, {}, (30_276_583, 28_982_849)),
        (256, {"channel_base": 16384}, (24_767_458, 24_001_089)),
        (32, {"mapping_layers": 2, "architecture": "orig"}, (19_947_539, 20_720_641)),
        (32, {"mapping_layers": 2, "architecture": "orig", "conditional": True}, (20_215_315, 23_089_664)),
    ],
    ids=["1024", "512", "256", "32", "32 conditional"],
)
def test_parameter_counts_are_the_published_ones(
    resolution: int, settings: dict[str, Any], counts: tuple[int, int]
) -> None:
    with torch.device("meta"):  # nothing is allocated
        model = StyleGAN2((3, resolution, resolution), 10, **settings)
    assert (parameters(model.generator), parameters(model.discriminator)) == counts


# Layers, by hand.


def test_equalized_layers_scale_weights_and_biases_at_runtime() -> None:
    torch.manual_seed(0)
    linear = EqualizedLinear(30, 200, "lrelu", lr_multiplier=0.01, initial_bias=2.0)
    assert abs(linear.weight.std() * 0.01 - 1) < 5 / (2 * 6000) ** 0.5  # five standard errors
    x = noise(3, 30)
    expected = F.leaky_relu(x @ linear.weight.T * 0.01 / math.sqrt(30) + 0.02, 0.2) * math.sqrt(2)
    torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-5)

    conv = EqualizedConv2d(4, 50, 3, "linear", clamp=1.5)
    x, resample_filter = noise(2, 4, 5, 5), low_pass(1, 3, 3, 1)
    expected = F.conv2d(x, conv.weight, padding=1) / 6
    torch.testing.assert_close(conv(x, resample_filter), expected.clamp(-1.5, 1.5), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conv(x, resample_filter, 0.5), (expected / 2).clamp(-0.75, 0.75), rtol=1e-4, atol=1e-5)


def test_layers_of_both_networks_keep_the_size_of_activations_at_the_start() -> None:
    """What equalized weights, demodulation and the gains are for."""
    torch.manual_seed(0)
    layer = StyledConv2d(64, 64, 16, 16, up=False, clamp=None)
    resample_filter = low_pass(1, 3, 3, 1)
    x = layer(noise(4, 64, 16, 16), noise(4, 16, seed=1), None, resample_filter)
    assert 0.8 < x.square().mean() < 1.2
    x = EqualizedConv2d(64, 64, 3)(noise(4, 64, 16, 16), resample_filter)
    assert 0.8 < x.square().mean() < 1.2


def test_the_mapping_normalises_latents_and_embeddings() -> None:
    torch.manual_seed(0)
    mapping = Mapping(6, 5, 3, 2)
    z, labels = noise(4, 6), torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(mapping(5 * z, labels), mapping(z, labels))
    assert mapping.embed is not None
    with torch.no_grad():
        expected = mapping(z, labels)
        mapping.embed.weight.mul_(3)  # its bias is 0
        torch.testing.assert_close(mapping(z, labels), expected)
    assert (mapping(z, labels) != mapping(z, zeros(4))).any(1).tolist() == [False, True, True, True]


def test_noise_is_added_before_bias_and_activation() -> None:
    torch.manual_seed(0)
    layer = StyledConv2d(3, 4, 5, 8, up=False, clamp=None)
    x, w, added, resample_filter = noise(2, 3, 8, 8), noise(2, 5), noise(2, 1, 8, 8, seed=2), low_pass(1, 3, 3, 1)
    nn.init.normal_(layer.bias)
    with torch.no_grad():
        layer.noise_strength.fill_(0.7)
        slope = torch.where((plain := layer(x, w, None, resample_filter)) > 0, 1.0, 0.2) * math.sqrt(2)
        before = plain / slope + 0.7 * added
        torch.testing.assert_close(layer(x, w, added, resample_filter), F.leaky_relu(before, 0.2) * math.sqrt(2))


def test_a_picture_is_the_sum_of_all_resolutions_pictures() -> None:
    synthesis = tiny((3, 8, 8)).generator.synthesis
    ws = noise(2, synthesis.layers, 5)
    first, second = synthesis.blocks.children()
    x = synthesis.const.expand(2, -1, -1, -1)
    x = first.conv1(x, ws[:, 0], None, synthesis.resample_filter)
    picture = first.to_rgb(x, ws[:, 1])  # shares its latent with the next convolution
    x = second.conv0(x, ws[:, 1], None, synthesis.resample_filter)
    x = second.conv1(x, ws[:, 2], None, synthesis.resample_filter)
    expected = upsample2d(picture, synthesis.resample_filter) + second.to_rgb(x, ws[:, 3])
    torch.testing.assert_close(synthesis(ws, "none"), expected, rtol=1e-5, atol=1e-5)


def test_residual_blocks_halve_both_variances() -> None:
    torch.manual_seed(0)
    block, resample_filter = DiscriminatorBlock(3, 4, True, clamp=None), low_pass(1, 3, 3, 1)
    x = noise(2, 3, 8, 8)
    assert block.skip is not None
    expected = (
        block.skip(x, resample_filter) + block.conv1(block.conv0(x, resample_filter), resample_filter)
    ) * 0.5**0.5
    torch.testing.assert_close(block(x, resample_filter), expected)
    assert block(x, resample_filter).shape == (2, 4, 4, 4)
    assert DiscriminatorBlock(3, 4, False, clamp=None).skip is None


def test_the_authors_minibatch_deviation_by_hand() -> None:
    x = torch.tensor([1.0, 10.0, 3.0, 10.0])[:, None, None, None].expand(4, 2, 2, 3)  # samples 0 and 2 are a group
    out = with_minibatch_deviation(x, 2, unbiased=False)[:, 2, 0, 0]
    torch.testing.assert_close(out, torch.tensor([1.0, 1e-4, 1.0, 1e-4]))
    assert with_minibatch_deviation(x[:1], 4, unbiased=False)[0, 2, 0, 0] == pytest.approx(1e-4)


def test_a_conditional_logit_is_a_projection_on_the_class_vector() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator([8, 4], 3, 3, True, 2, None, [], mapping_layers=2)
    x, labels = noise(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    assert discriminator.mapping is not None
    features: list[Tensor] = []
    discriminator.last.register_forward_hook(lambda module, arguments, output: features.append(output))
    logits = discriminator(x, labels)
    torch.testing.assert_close(logits, (features[0] * discriminator.mapping(None, labels)).sum(1) / 8**0.5)


# Styles.


def test_the_average_of_w_by_hand() -> None:
    generator = tiny().generator
    first, second = noise(4, 5), noise(3, 5, seed=1)
    generator.track(first, 0.9)
    torch.testing.assert_close(generator.w_average, 0.1 * first.mean(0))
    generator.track(second, 0.9)
    torch.testing.assert_close(generator.w_average, 0.09 * first.mean(0) + 0.1 * second.mean(0))


@pytest.mark.parametrize(("psi", "cutoff"), [(1.0, None), (0.7, None), (0.7, 2), (0.0, 0), (0.0, None), (-1.0, 3)])
def test_truncation_by_hand(psi: float, cutoff: int | None) -> None:
    model = awake(tiny())
    z = noise(3, 6)
    ws = model.to_w(z, settings=StyleGAN2Settings(truncation_psi=psi, truncation_cutoff=cutoff))
    plain = model.to_w(z)
    assert ws.shape == plain.shape == (3, 6, 5)
    average = model.average.module.w_average
    for layer in range(6):
        expected = plain[:, layer]
        if cutoff is None or layer < cutoff:
            expected = average + psi * (expected - average)
        torch.testing.assert_close(ws[:, layer], expected)


def test_samples_are_truncated_by_the_settings() -> None:
    model = awake(tiny())
    flat = model.sample(range(3), settings=StyleGAN2Settings(truncation_psi=0.0, noise="const"))
    torch.testing.assert_close(flat[0], flat[1], rtol=0, atol=1e-5)
    assert (model.sample(range(2), settings=StyleGAN2Settings(noise="const"))[0] - flat[0]).abs().max() > 1e-3


@pytest.mark.parametrize("cutoff", [1, 2, 5])
def test_styles_are_mixed_from_the_cutoff_on(cutoff: int) -> None:
    w, other = noise(3, 5), noise(3, 5, seed=1)
    ws = mixed(w, other, cutoff, 6)
    assert ws.shape == (3, 6, 5)
    assert all(torch.equal(ws[:, layer], w if layer < cutoff else other) for layer in range(6))


def test_cutoffs_are_drawn_as_often_as_published() -> None:
    model = tiny(mixing=0.6)
    model.training_seed = 5
    drawn = []
    for samples_seen in range(4000):
        model.samples_seen = samples_seen
        drawn.append(model.mixing_cutoff())
    counts = torch.bincount(torch.tensor(drawn), minlength=7) / 4000
    assert counts[0] == 0
    expected = torch.tensor([0.12] * 5 + [0.4])
    assert ((counts[1:] - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()
    never, always = tiny(mixing=0.0), tiny(mixing=1.0)
    for seed in range(50):
        never.training_seed = always.training_seed = seed
        assert never.mixing_cutoff() == 6
        assert 1 <= always.mixing_cutoff() <= 5


def test_a_training_batch_is_mixed_and_its_first_style_tracked() -> None:
    model = tiny(mixing=1.0)
    model.training_seed = 5
    ws = model.training_ws(zeros(3))
    cutoff = next(layer for layer in range(6) if not torch.equal(ws[:, layer], ws[:, 0]))
    assert all(torch.equal(ws[:, layer], ws[:, 0 if layer < cutoff else 5]) for layer in range(6))
    torch.testing.assert_close(model.generator.w_average, 0.005 * ws[:, 0].mean(0).detach())


# Noise.


def test_random_noise_is_the_samples_own_whatever_its_batch() -> None:
    model = awake(tiny())
    x = model.sample(range(5), seed=3)
    one_by_one = torch.cat([model.sample([i], seed=3) for i in range(5)])
    torch.testing.assert_close(x, one_by_one, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.sample([4, 2], seed=3), x[[4, 2]], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.decode(model.draw_latents(range(5), seed=3)), x, rtol=0, atol=1e-5)
    state = torch.get_rng_state()
    assert torch.equal(model.sample(range(5), seed=3), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_three_kinds_of_noise() -> None:
    model = awake(tiny())
    z = noise(1, 6).expand(2, 6)

    def pictures(kind: Any) -> Tensor:  # noqa: ANN401
        return model.decode(z, settings=StyleGAN2Settings(noise=kind))

    for kind in ("random", "const", "none"):
        torch.testing.assert_close(pictures(kind)[0], pictures(kind)[1], rtol=0, atol=1e-5)
    assert (pictures("const") - pictures("none")).abs().max() > 1e-3
    assert (pictures("const") - pictures("random")).abs().max() > 1e-3
    generator = model.average.module
    with torch.no_grad():
        ws = generator.ws(z, zeros(2))
        kept = [layer.noise_const for layer in generator.modules() if isinstance(layer, StyledConv2d)]
        given = generator.synthesis(ws, [each.expand(2, 1, -1, -1) for each in kept])
    torch.testing.assert_close(pictures("const"), given.clamp(-1, 1))
    different = model.decode(noise(2, 6), settings=StyleGAN2Settings(truncation_psi=0.0))
    assert (different[0] - different[1]).abs().max() > 1e-3  # the noise alone


def test_noise_has_a_picture_for_each_layer_and_the_law_of_the_normal() -> None:
    synthesis = tiny((3, 32, 32)).generator.synthesis
    assert synthesis.noise_sides == [4, 8, 8, 16, 16, 32, 32]
    drawn = noise_of(noise(6), synthesis.noise_sides)
    assert [each.shape for each in drawn] == [(1, side, side) for side in synthesis.noise_sides]
    joint = torch.cat([each.flatten() for each in drawn])
    assert abs(joint.mean()) < 5 / len(joint) ** 0.5
    assert abs(joint.std() - 1) < 5 / (2 * len(joint)) ** 0.5
    assert not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], noise_of(noise(6, seed=1), [4])[0])


def test_training_noise_differs_from_sample_to_sample() -> None:
    model = awake(tiny())
    ws = noise(1, 6, 5).expand(2, 6, 5)
    x = model.generator.synthesis(ws)
    assert (x[0] - x[1]).abs().max() > 1e-3


# The contract.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", ["resnet", "orig"])
@pytest.mark.parametrize("conditional", [False, True])
def test_shapes(channels: int, architecture: Any, conditional: bool) -> None:  # noqa: ANN401
    model = tiny((channels, 8, 8), 3, conditional=conditional, architecture=architecture)
    assert isinstance(model, HasLatents)
    assert isinstance(model, HasCritic)
    x = model.sample(range(4))
    assert x.shape == (4, channels, 8, 8)
    assert x.abs().max() <= 1
    logits = model.logits(x, torch.tensor([0, 2, 1, 1]))
    assert logits.shape == (4,)
    assert logits.isfinite().all()
    assert model.label_classes == (3 if conditional else 0)
    z, first, second = noise(4, 6), zeros(4), zeros(4) + 1
    assert torch.equal(model.decode(z, first), model.decode(z, second)) != conditional
    assert torch.equal(model.logits(x, first), model.logits(x, second)) != conditional
    assert torch.equal(model.to_w(z, first), model.to_w(z, second)) != conditional


def test_w_goes_there_and_back_and_can_be_moved() -> None:
    model = awake(tiny())
    settings = StyleGAN2Settings(noise="const", truncation_psi=0.5)
    z = noise(3, 6)
    ws = model.to_w(z, settings=settings)
    x = model.from_w(ws, settings=settings)
    torch.testing.assert_close(x.clamp(-1, 1), model.decode(z, settings=settings), rtol=0, atol=1e-5)
    moved = ws.clone().requires_grad_()
    given = [noise(3, 1, side, side, seed=side).requires_grad_() for side in model.generator.synthesis.noise_sides]
    model.from_w(moved, noise=given).square().sum().backward()
    assert moved.grad is not None
    assert (moved.grad.abs().amax((0, 2)) > 0).all()
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in given)
    assert all(p.grad is None for p in model.average.parameters())
    assert model.training


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"data_shape": (3, 16, 8)}, "power of two from 8 up, not 16x8: set data.resolution"),
        ({"data_shape": (3, 4, 4)}, "power of two from 8 up, not 4x4"),
        ({"data_shape": (3, 24, 24)}, "power of two from 8 up, not 24x24"),
        ({"conditional": True}, "conditional: true needs labels"),
        ({"minibatch_group": 1}, "minibatch_group must be at least 2, or null"),
        ({"mixing": 1.5}, "mixing is a probability, not 1.5"),
        ({"mapping_layers": 0}, "mapping_layers must be at least 1"),
        ({"path_length_every": 0}, "path_length_every must be at least 1"),
        ({"channel_base": 15}, "channel_base 15 leaves no channels at 16 px"),
        (
            {"adversarial": AdversarialTraining(regularizers=[R1(1.0, every=2), R2(1.0, every=4)])},
            r"must share one interval, not \[2, 4\]",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        tiny(**settings)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"noise": "white"}, "noise must be random, const or none, not 'white'"),
        ({"truncation_psi": math.nan}, "truncation_psi must be a finite number"),
        ({"truncation_cutoff": -1}, "truncation_cutoff must be at least 0"),
        ({"truncation": 0.0}, "truncation must be above 0"),
    ],
)
def test_sampler_settings_that_cannot_work_are_named(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        StyleGAN2Settings(**settings)


def test_a_checkpoint_can_hold_it() -> None:
    model = tiny(architecture="orig", path_length_weight=1.0, low_resolutions=2)
    rebuilt = build(describe(model))
    assert describe(rebuilt) == describe(model)
    with pytest.raises(ValueError, match="takes StyleGAN2Settings"):
        model.sample([0], settings=GANSettings())


# Precision.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_high_resolutions_compute_in_16_bits_and_the_rest_does_not(dtype: Any) -> None:  # noqa: ANN401
    model = tiny((3, 32, 32), low_resolutions=2)
    assert model.generator.synthesis.low_sides == model.discriminator.low_sides == (16, 32)
    low, seen = getattr(torch, dtype), {}
    for name, module in model.named_modules():
        if isinstance(module, (StyledConv2d, EqualizedConv2d, EqualizedLinear)):
            module.register_forward_hook(lambda m, arguments, output, name=name: seen.update({name: output.dtype}))
    with torch.autocast("cpu", dtype=low):
        assert autocast_dtype(torch.zeros(1)) == low
        x = model.generator(noise(2, 6), zeros(2))
        logits = model.discriminator(x, zeros(2))
    assert x.dtype == logits.dtype == torch.float32
    for name, kind in seen.items():
        if not name.startswith(("generator", "discriminator")):
            continue
        is_low = ".blocks.2.conv" in name or ".blocks.3.conv" in name if "synthesis" in name else False
        if name.startswith("discriminator"):
            is_low = "from_rgb" in name or ".blocks.0." in name or ".blocks.1." in name
        if "affine" not in name:
            assert kind == (low if is_low else torch.float32), name
    whole = model.discriminator(model.generator(noise(2, 6), zeros(2)), zeros(2))
    torch.testing.assert_close(logits, whole, rtol=0.2, atol=0.1)


def test_double_precision_throughout() -> None:
    model = tiny(num_classes=3, conditional=True).double()
    x = model.generator(noise(2, 6, dtype=torch.float64), zeros(2))
    assert x.dtype == model.discriminator(x, zeros(2)).dtype == torch.float64


# Path lengths.


def test_path_lengths_of_a_linear_generator_by_hand() -> None:
    matrix, ws = noise(12, 10, dtype=torch.float64), noise(3, 2, 5, seed=1, dtype=torch.float64).requires_grad_()
    y = noise(3, 1, 3, 4, seed=2, dtype=torch.float64)
    lengths = path_lengths((ws.flatten(1) @ matrix.T).view(3, 1, 3, 4), ws, y)
    pulled = y.flatten(1) @ matrix  # J^T y
    torch.testing.assert_close(lengths, (pulled.square().sum(1) / 2).sqrt())  # the mean over two layers


def test_the_path_length_penalty_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a synthesis that is linear, twice: the average moves first, and is part of the penalty."""
    model = tiny(mixing=0.0)
    model.training_seed = 5
    matrix = noise(3 * 16 * 16, 30)
    monkeypatch.setattr(model.generator.synthesis, "forward", lambda ws: (ws.flatten(1) @ matrix.T).view(-1, 3, 16, 16))
    average = torch.tensor(0.0)
    for seed in (1, 2):
        torch.manual_seed(seed)
        penalty = model.penalties()[-1]
        assert (penalty.name, penalty.network, penalty.every, penalty.own_step) == (
            "path_length_penalty",
            "generator",
            4,
            True,
        )
        assert penalty.value is not None
        value = penalty.value(of_labels(zeros(4)))
        torch.manual_seed(seed)
        pulled = (torch.randn(2, 3, 16, 16) / 16).flatten(1) @ matrix  # half of the batch
        lengths = (pulled.square().sum(1) / 6).sqrt()
        average = 0.99 * average + 0.01 * lengths.mean()
        torch.testing.assert_close(value, 2.0 * (lengths - average).square().mean())
        torch.testing.assert_close(model.path_length_mean, average)


def of_labels(labels: Tensor) -> MicroBatch:
    """All that a path length reads."""
    nothing = torch.empty(0)
    return MicroBatch(nothing, nothing, labels, lambda x: x, 0)


def test_path_lengths_are_penalised_when_they_are_due() -> None:
    r1, lengths = tiny().penalties()
    assert [lengths.due(step) for step in range(6)] == [True, False, False, False, True, False]
    assert (r1.network, lengths.network) == ("discriminator", "generator")
    assert not tiny(path_length_weight=0.0).penalties()[-1].due(0)
    cycles = [tiny(), tiny(path_length_weight=0.0, path_length_every=3), tiny(path_length_every=3)]
    assert [len(model.work_cycle()) for model in cycles] == [16, 16, 48]
    assert [tiny().work_cycle()[step] for step in (0, 3, 4)] == [
        ("r1_penalty", "path_length_penalty"), (), ("path_length_penalty",)
    ]  # fmt: skip
    assert tiny(path_length_weight=0.0).work_cycle()[4] == ()


# In training.


def adversarial(gamma: float = 1.0, every: int = 2, **settings: Any) -> AdversarialTraining:  # noqa: ANN401
    base: dict[str, Any] = {"lr": 2e-3, "beta1": 0.0, "beta2": 0.99, "ema_rampup": 0.05}
    return AdversarialTraining(NonSaturating(), [R1(gamma, every=every)], **{**base, **settings})


class Watch(lightning.Callback):
    """Keeps the settings and the number of steps of both Adams after each training step; may save a checkpoint."""

    def __init__(self, save_after: int = -1, path: Path | None = None) -> None:
        self.save_after, self.path = save_after, path
        self.adams: list[list[tuple[float, tuple[float, float], int]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:  # noqa: ANN401
        self.adams.append(
            [
                (group["lr"], group["betas"], max(int(state["step"]) for state in optimizer.state.values()))
                for optimizer in trainer.optimizers
                for group in optimizer.param_groups
            ]
        )
        assert all(  # what a penalty does not reach steps too
            len({int(state["step"]) for state in optimizer.state.values()}) == 1 for optimizer in trainer.optimizers
        )
        if len(self.adams) == self.save_after:
            trainer.save_checkpoint(self.path)


def test_penalties_have_steps_of_their_own_and_adam_is_corrected_for_them(fit: Fit, batches: Batches) -> None:
    model, watch = tiny(adversarial=adversarial(every=3), path_length_every=2), Watch()
    trainer = fit(model, batches(5, 4, (3, 16, 16)), callbacks=[watch])
    assert trainer.global_step == 5
    assert [generator[2] for generator, _ in watch.adams] == [2, 3, 5, 6, 8]  # two where steps 0, 2 and 4 are due
    assert [discriminator[2] for _, discriminator in watch.adams] == [2, 3, 4, 6, 7]
    for generator, discriminator in watch.adams:
        assert generator[:2] == (pytest.approx(2e-3 * 2 / 3), (0, pytest.approx(0.99 ** (2 / 3))))
        assert discriminator[:2] == (pytest.approx(2e-3 * 3 / 4), (0, pytest.approx(0.99 ** (3 / 4))))


def test_the_generator_is_corrected_without_a_penalty_too_and_makes_no_further_steps(
    fit: Fit, batches: Batches
) -> None:
    watch = Watch()
    model = tiny(adversarial=adversarial(every=1), path_length_weight=0.0, path_length_every=4)
    fit(model, batches(3, 4, (3, 16, 16)), callbacks=[watch])
    generator, discriminator = watch.adams[-1]
    assert generator == (pytest.approx(2e-3 * 4 / 5), (0, pytest.approx(0.99**0.8)), 3)
    assert discriminator == (2e-3, (0, 0.99), 3)  # at every step: one step for both, and no correction


def test_one_step_is_its_four_phases_by_hand(fit: Fit, batches: Batches) -> None:
    """Loss of D, R1, loss of G, path lengths: each a step of Adam, in plain torch."""
    model = tiny(adversarial=adversarial(every=16, gamma=10.0), mixing=0.0)
    ((x, y),) = batches(1, 4, (3, 16, 16))
    hand = copy.deepcopy(model)
    fit(model, [(x, y)])

    hand.training_seed, c = 7, (4 / 5, 16 / 17)
    hand.seed_step()
    adams = [
        torch.optim.Adam(network.parameters(), 2e-3 * share, (0.0, 0.99**share))
        for network, share in zip((hand.generator, hand.discriminator), c, strict=True)
    ]

    def step(adam: torch.optim.Optimizer, loss: Tensor, network: nn.Module) -> None:
        for p, gradient in zip(
            network.parameters(), torch.autograd.grad(loss, list(network.parameters()), allow_unused=True), strict=True
        ):
            p.grad = torch.zeros_like(p) if gradient is None else gradient
        adam.step()

    fake = hand.draw(y, with_graph=False)
    d_loss = F.softplus(-hand.discriminator(x, y)) + F.softplus(hand.discriminator(fake, y))
    step(adams[1], d_loss.mean(), hand.discriminator)
    real = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(hand.discriminator(real, y).sum(), real, create_graph=True)
    step(adams[1], 16 * 5.0 * slope.square().sum() / 4, hand.discriminator)
    g_loss = F.softplus(-hand.discriminator(hand.draw(y, with_graph=True), y))
    step(adams[0], g_loss.mean(), hand.generator)
    penalty = hand.penalties()[-1]
    assert penalty.value is not None
    step(adams[0], 4 * penalty.value(of_labels(y)), hand.generator)
    for name, value in model.state_dict().items():
        if not name.startswith("average"):
            torch.testing.assert_close(value, hand.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_frozen_layers_are_counted_as_the_authors_do_and_stay(fit: Fit, batches: Batches) -> None:
    """Their --freezed=4: from_rgb, conv0, conv1 and skip of the first block; R1's own steps move them no more."""
    model = tiny(adversarial=adversarial(every=2, freeze_d=4))
    expected = {f"blocks.0.{layer}.{kind}" for layer in ("conv0", "conv1") for kind in ("weight", "bias")}
    expected |= {"from_rgb.weight", "from_rgb.bias", "blocks.0.skip.weight"}
    named = dict(model.discriminator.named_parameters())
    assert {name for name, p in named.items() if not p.requires_grad} == expected
    before = {name: p.clone() for name, p in named.items()}
    fit(model, batches(3, 4, (3, 16, 16)))
    assert {name for name, p in named.items() if torch.equal(p, before[name])} == expected
    assert len(tiny(architecture="orig").discriminator_layers()) == 1 + 2 * 2
    with pytest.raises(ValueError, match="freeze_d: 8 layers, but this discriminator has 7"):
        tiny(adversarial=adversarial(freeze_d=8))


VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "conditional, orig, accumulated, bf16": {
        "conditional": True, "architecture": "orig", "adversarial": {"accumulate": 2}, "precision": "bf16-mixed",
    },
}  # fmt: skip


def fitted(model: StyleGAN2, steps: int, *callbacks: lightning.Callback, **settings: Any) -> lightning.Trainer:  # noqa: ANN401
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=list(callbacks),
        **settings,
    )  # fmt: skip
    torch.manual_seed(9)
    data = Shapes(resolution=16, train_size=50, test_size=1, batch_size=4)
    with quietly():
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fit_resumes_bit_for_bit(variant: str, tmp_path: Path) -> None:
    """Between two path lengths; R1, the averages of w and of the lengths, and both Adams' further steps among it."""
    settings, path = dict(VARIANTS[variant]), tmp_path / "half.ckpt"
    precision, more = settings.pop("precision", "32-true"), settings.pop("adversarial", {})

    def make() -> StyleGAN2:
        return tiny(num_classes=16, adversarial=adversarial(every=3, **more), path_length_every=2, **settings)

    whole, resumed = make(), make()
    trainer = fitted(whole, 7, precision=precision)
    fitted(make(), 3, Watch(3, path), precision=precision)
    for tensor in resumed.state_dict().values():
        tensor.zero_()  # whatever is not restored shows
    rest = fitted(resumed, 7, ckpt_path=path, precision=precision)
    assert rest.global_step == trainer.global_step == 7
    assert whole.path_length_mean > 0
    assert whole.generator.w_average.abs().max() > 0
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for mine, theirs in zip(trainer.optimizers, rest.optimizers, strict=True):
        for first, second in zip(
            mine.state_dict()["state"].values(), theirs.state_dict()["state"].values(), strict=True
        ):
            assert all(torch.equal(first[key], second[key]) for key in first)


def test_fp16_with_a_scaler_trains(fit: Fit, batches: Batches) -> None:
    plugin = lightning.pytorch.plugins.precision.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    model = tiny(path_length_every=2)
    before = copy.deepcopy(model.state_dict())
    fit(model, batches(3, 4, (3, 16, 16)), plugins=[plugin])
    assert all(p.isfinite().all() for p in model.parameters())
    assert (model.generator.synthesis.const != before["generator.synthesis.const"]).any()
