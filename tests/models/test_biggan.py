"""BigGAN's architecture, its sampling and its place in a fit; the layers it is made of are in test_layers.py."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from commands.options.configs import read_config
from models import load
from models.biggan import BigGAN, Discriminator, Generator
from models.parts.attention import SelfAttention
from models.parts.layers import BatchNorm2d
from models.parts.losses import Hinge
from models.parts.regularizers import R1, non_orthogonality
from settings.sampling import BigGANSettings
from settings.training import AdversarialTraining

CONFIGS = Path(__file__).parents[2] / "configs"


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def tiny(resolution: int = 32, num_classes: int = 3, channels: int = 1, **arguments: Any) -> BigGAN:  # noqa: ANN401
    """8 channels a stage at 32 px, the same weights each time."""
    settings: dict[str, Any] = {"width": 2, "latent_dim": 12, **arguments}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BigGAN((channels, resolution, resolution), num_classes, **settings)


@pytest.mark.parametrize(
    ("name", "resolution", "classes", "generator", "discriminator"),
    [
        ("biggan_imagenet128", 128, 1000, 70_433_988, 87_982_370),
        ("biggan_cifar10_ajbrock", 32, 10, 4_304_387, 4_207_361),
        ("biggan_cifar10_studiogan", 32, 10, 9_416_196, 2_415_170),
    ],
)
def test_parameter_counts_are_the_published_ones(
    name: str, resolution: int, classes: int, generator: int, discriminator: int
) -> None:
    """Of what the shipped configs ask for; without memory, and without the minutes that orthogonal weights take."""
    asked = read_config(CONFIGS / f"{name}.yaml")["model"]["init_args"]
    shared, hierarchical, attention = (
        asked.get("shared_dim"),
        asked.get("hierarchical", False),
        asked.get("attention", []),
    )
    with torch.device("meta"):
        g = Generator(
            asked["latent_dim"], asked["width"], 3, resolution, classes, shared, hierarchical, attention, 1e-5, 1e-12
        )
        d = Discriminator(asked.get("d_width") or asked["width"], 3, resolution, classes, attention, 1e-12)
    assert (parameters(g), parameters(d)) == (generator, discriminator)


VARIANTS: dict[str, dict[str, Any]] = {
    "own embeddings": {},
    "shared embedding": {"shared_dim": 5},
    "hierarchical": {"shared_dim": 5, "hierarchical": True},
    "attention": {"shared_dim": 5, "attention": [16]},
    "unlabelled data": {"num_classes": 0},
    "unlabelled data, hierarchical": {"num_classes": 0, "hierarchical": True, "shared_dim": 5},
    "labels not used": {"conditional": False},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_samples_and_logits_have_their_shapes(variant: dict[str, Any]) -> None:
    model = tiny(**variant)
    x = model.sample(range(3), seed=1)
    assert x.shape == (3, 1, 32, 32)
    assert x.abs().max() <= 1
    logits = model.logits(x, torch.tensor([0, 2, 1]))
    assert logits.shape == (3,)
    assert logits.isfinite().all()
    labelled = bool(variant.get("num_classes", 3)) and variant.get("conditional", True)
    assert model.label_classes == (3 if labelled else 0)


@pytest.mark.parametrize(("resolution", "channels"), [(64, 4), (128, 3), (256, 1), (512, 1)])
def test_every_power_of_two_passes_through_both_networks(resolution: int, channels: int) -> None:
    model = tiny(resolution, channels=channels, initialization="normal", attention=[8])
    x = model.sample([0])
    assert x.shape == (1, channels, resolution, resolution)
    assert model.logits(x, torch.tensor([1])).isfinite().all()


@pytest.mark.parametrize(
    ("resolution", "up", "down"),
    [
        (32, [8, 8, 8], [8, 8, 8, 8]),
        (64, [32, 16, 8, 4], [2, 4, 8, 16, 32]),
        (128, [32, 16, 8, 4, 2], [2, 4, 8, 16, 32, 32]),
    ],
)
def test_stages_have_the_published_channels(resolution: int, up: list[int], down: list[int]) -> None:
    generator = Generator(12, 2, 3, resolution, 0, None, False, [], 1e-5, 1e-12)
    discriminator = Discriminator(2, 3, resolution, 0, [], 1e-12)
    assert [stage[0].conv2.out_channels for stage in generator.blocks] == up
    assert [stage[0].conv2.out_channels for stage in discriminator.blocks] == down
    halved = [stage[0].down for stage in discriminator.blocks]
    assert halved == ([True, True, False, False] if resolution == 32 else [True] * (len(down) - 1) + [False])


def test_attention_stands_behind_the_block_that_ends_at_its_side() -> None:
    model = tiny(64, width=4, attention=[16], initialization="normal")
    seen: dict[str, tuple[int, ...]] = {}
    for name, network in model.networks().items():
        (layer,) = [module for module in network.modules() if isinstance(module, SelfAttention)]
        layer.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output.shape}))
    model.logits(model.sample([0], settings=BigGANSettings(weights="raw")), torch.tensor([0]))
    assert {name: shape[-2:] for name, shape in seen.items()} == {"generator": (16, 16), "discriminator": (16, 16)}


# Conditions.


def test_labels_steer_samples_and_logits_where_there_are_any() -> None:
    x, z = torch.randn(1, 1, 32, 32), torch.randn(1, 12)
    zero, one = torch.tensor([0]), torch.tensor([1])
    for arguments in ({}, {"shared_dim": 5}):
        model = tiny(**arguments).eval()
        assert not torch.equal(model.decode(z, zero), model.decode(z, one))
        assert (model.logits(x, zero) != model.logits(x, one)).item()
    model = tiny(conditional=False).eval()
    assert torch.equal(model.generator(z, zero), model.generator(z, one))
    assert torch.equal(model.logits(x, zero), model.logits(x, one))


def test_hierarchical_latents_go_to_the_start_and_to_a_block_each() -> None:
    model = tiny(shared_dim=5, hierarchical=True).eval()
    z, labels = torch.randn(2, 12), torch.tensor([2, 0])
    seen: list[Tensor] = []
    keep: Callable[..., None] = lambda module, inputs: seen.append(inputs[-1][0] if len(inputs) > 1 else inputs[0])  # noqa: E731
    model.generator.linear.register_forward_pre_hook(keep)
    for stage in model.generator.blocks:
        stage[0].register_forward_pre_hook(keep)
    model.generator(z, labels)
    assert torch.equal(seen[0], z[:, :3])
    for i, condition in enumerate(seen[1:]):
        assert torch.equal(condition, torch.cat([model.generator.embedding(labels), z[:, 3 * i + 3 : 3 * i + 6]], 1))
    assert len(seen) == 4


@pytest.mark.parametrize("classes", [0, 3])
def test_logits_are_a_line_and_a_projection_by_hand(classes: int) -> None:
    discriminator = tiny(num_classes=classes).discriminator.eval()
    x, labels = torch.randn(4, 1, 32, 32), torch.tensor([2, 0, 1, 1])
    features: list[Tensor] = []
    discriminator.blocks[-1][0].register_forward_hook(lambda module, inputs, output: features.append(output))

    def unit(layer: Any) -> Tensor:  # noqa: ANN401
        """The layer's weight by its singular value, which `u` is made to know."""
        return layer.weight / torch.linalg.svdvals(layer.weight)[0]

    for layer in filter(None, (discriminator.linear, discriminator.embed)):
        layer.u.copy_(torch.linalg.svd(layer.weight)[0][:, 0])
    logits = discriminator(x, labels)
    h = F.relu(features[-1]).sum((2, 3))
    expected = (h @ unit(discriminator.linear).T).squeeze(1) + discriminator.linear.bias
    if classes:
        expected = expected + (unit(discriminator.embed)[labels] * h).sum(1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)  # float32, features of a few hundreds


# Weights.


def test_weights_begin_orthogonal_or_normal() -> None:
    for network in tiny(shared_dim=5).networks().values():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
                rows = layer.weight.flatten(1)
                rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
                torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-5)
                bias = getattr(layer, "bias", None)
                assert bias is None or (bias == 0).all()
    weights = torch.cat(
        [p.detach().flatten() for p in tiny(width=16, initialization="normal").parameters() if p.ndim > 1]
    )
    assert abs(float(weights.std()) - 0.02) < 5 * 0.02 / (2 * len(weights)) ** 0.5


@pytest.mark.parametrize(
    ("shape", "arguments", "said"),
    [
        ((3, 32, 16), {}, "power of two from 32 to 512, not 32x16: set data.resolution"),
        ((3, 16, 16), {}, "power of two from 32 to 512, not 16x16"),
        ((3, 48, 48), {}, "power of two from 32 to 512, not 48x48"),
        ((8000,), {}, "draws pictures"),
        ((3, 32, 32), {"hierarchical": True, "shared_dim": 8, "latent_dim": 10}, "is not divisible into 4 chunks"),
        ((3, 32, 32), {"hierarchical": True, "latent_dim": 8}, "hierarchical latents need a shared_dim"),
        ((3, 32, 32), {"attention": [32]}, "attention at 32 px: both networks pass through 8, 16"),
        ((3, 32, 32), {"attention": [16], "width": 1}, "needs 8, not 4"),
        ((3, 32, 32), {"shared_dim": 0}, "shared_dim must be positive or null, not 0"),
    ],
)
def test_settings_that_cannot_be_built_are_errors(shape: Sequence[int], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BigGAN(shape, 3, **{"width": 2, **arguments})


def test_data_that_does_not_know_itself_is_an_error() -> None:
    with pytest.raises(ValueError, match="data_shape and num_classes must be known"):
        BigGAN((3, 32, 32), None, width=2)  # type: ignore[arg-type]


# Sampling.


@pytest.fixture
def settled() -> BigGAN:
    """A model whose running statistics and average are not those of new weights."""
    model = tiny(shared_dim=5)
    with torch.no_grad():
        for _ in range(3):
            model.generator(torch.randn(16, 12), torch.randint(3, (16,)))
        model.average.update(0.5)
        for p in model.average.parameters():
            p.mul_(1.1)
    return model


STANDING = BigGANSettings(standing_statistics=3, standing_batch=8, truncation=0.7)


@pytest.mark.parametrize("settings", [BigGANSettings(truncation=0.5), STANDING])
def test_a_truncated_sample_is_the_same_whatever_its_batch(settled: BigGAN, settings: BigGANSettings) -> None:
    together = settled.sample(range(6), seed=4, settings=settings)
    apart = torch.cat([settled.sample([i], seed=4, settings=settings) for i in range(6)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)  # another batch size rounds differently
    assert torch.equal(together, settled.sample(range(6), seed=4, settings=settings))
    assert settled.draw_latents(range(6), seed=4, settings=settings).abs().max() <= settings.truncation


def test_standing_statistics_are_the_mean_over_batches(settled: BigGAN) -> None:
    """Of the first norm's input, by hand; and a sample is normalised by them."""
    found: list[Tensor] = []
    first = next(module for module in settled.average.modules() if isinstance(module, BatchNorm2d))
    hook = first.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    settled.sample(range(2), settings=STANDING)
    hook.remove()
    *batches, _ = found
    assert [len(x) for x in batches] == [8, 8, 8]
    statistics = settled._standing["ema"][1][0]
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(statistics, (mean, variance), rtol=1e-5, atol=1e-6)


def test_standing_statistics_change_samples_and_leave_the_model_alone(settled: BigGAN) -> None:
    before = copy.deepcopy(settled.state_dict())
    plain = settled.sample(range(2))
    assert not torch.allclose(
        plain, settled.sample(range(2), settings=BigGANSettings(standing_statistics=3)), atol=1e-3
    )
    assert torch.equal(plain, settled.sample(range(2)))
    assert settled.generator.training
    assert before.keys() == settled.state_dict().keys()
    for name, tensor in settled.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for norm in settled.generator.modules():
        if isinstance(norm, BatchNorm2d):
            assert (norm.momentum, norm.joint) == (0.1, True)


@pytest.fixture
def passes(settled: BigGAN) -> list[int]:
    """The batch size of every pass of the average."""
    seen: list[int] = []
    settled.average.module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return seen


def test_standing_statistics_are_computed_once_for_weights_and_settings(settled: BigGAN, passes: list[int]) -> None:
    for seed in (0, 1):
        settled.sample(range(2), seed=seed, settings=STANDING)
    settled.sample(range(2), settings=BigGANSettings(weights="raw", standing_statistics=1))
    settled.sample(range(2), settings=STANDING)
    assert passes == [8, 8, 8, 2, 2, 2]
    settled.sample(range(2), settings=BigGANSettings(standing_statistics=1, standing_batch=4))
    assert passes[6:] == [4, 2]


def test_new_weights_get_new_standing_statistics(settled: BigGAN, passes: list[int]) -> None:
    settled.sample(range(2), settings=STANDING)
    kept = settled._standing["ema"][1][0]
    for parameter in settled.average.parameters():
        parameter.data.mul_(0.9)  # what counters of changes do not see
    settled.sample(range(2), settings=STANDING)
    assert passes == [8, 8, 8, 2] * 2
    assert not torch.equal(settled._standing["ema"][1][0][1], kept[1])


def test_latents_decode_to_their_sample_under_standing_statistics(settled: BigGAN) -> None:
    labels = settled.sample_labels(range(3), seed=9)
    z = settled.draw_latents(range(3), seed=9, settings=STANDING)
    assert torch.equal(
        settled.decode(z, labels, settings=STANDING), settled.sample(range(3), seed=9, settings=STANDING)
    )
    assert settled.decode(z, labels).shape == (3, 1, 32, 32)


@pytest.mark.parametrize("name", ["standing_statistics", "standing_batch"])
def test_impossible_standing_settings_are_errors(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BigGANSettings(**{name: -1})


# Training.


def adversarial(**settings: Any) -> AdversarialTraining:  # noqa: ANN401
    return AdversarialTraining(**{"loss": Hinge(), "beta1": 0.0, "d_steps": 2, **settings})


def test_a_resumed_fit_goes_on_bit_for_bit(
    fit: Callable[..., Any], batches: Callable[..., Any], tmp_path: Path
) -> None:
    data = batches(4, 8, (1, 32, 32), classes=3)

    def new() -> BigGAN:
        settings = adversarial(ema_start_kimg=0.016, ema_halflife_kimg=0.03, accumulate=2)
        return tiny(
            shared_dim=5, hierarchical=True, attention=[16], orthogonal=1e-3, d_orthogonal=1e-3, adversarial=settings
        )

    whole, resumed = new(), new()
    fit(whole, data)
    path = tmp_path / "last.ckpt"
    fit(new(), data[:2]).save_checkpoint(path)
    # Lightning goes on within the epoch, and ends it after as many batches as the loader has in all.
    fit(resumed, [*data[2:], *data[:2]], ckpt_path=path, max_steps=4, max_epochs=-1)
    assert resumed.samples_seen == 32
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    opened = load(path)
    assert isinstance(opened, BigGAN)
    assert (opened.hierarchical, opened.attention, opened.orthogonal) == (True, [16], 1e-3)
    assert opened.sample(range(2), settings=STANDING).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_weight_moves_and_stays_finite(
    precision: str, fit: Callable[..., Any], batches: Callable[..., Any]
) -> None:
    """Attention's gain begins at 0, and nothing behind it moves in the first step."""
    model = tiny(shared_dim=5, attention=[16], adversarial=adversarial(regularizers=[R1(1.0, every=2)], lr=1e-2))
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(model, batches(3, 8, (1, 32, 32), classes=3), precision=precision)
    for name, p in model.named_parameters():
        assert p.isfinite().all(), name
        if "average" not in name:
            assert (p != before[name]).any(), name


def test_power_iterations_advance_in_both_steps_and_not_in_sampling(
    fit: Callable[..., Any], batches: Callable[..., Any]
) -> None:
    # Not orthogonal weights: of those every iteration gives the same.
    model = tiny(adversarial=adversarial(lr=1e-12, d_steps=1), initialization="normal")
    u = {name: b.clone() for name, b in model.named_buffers() if name.endswith(".u")}
    model.sample(range(2))
    assert all(torch.equal(b, u[name]) for name, b in model.named_buffers() if name in u)
    fit(model, batches(1, 4, (1, 32, 32), classes=3))
    weights = dict(model.named_parameters())
    for name, was in u.items():
        if name.startswith("average"):
            continue
        matrix = weights[name.removesuffix("u") + "weight"].detach().flatten(1)
        assert not torch.allclose(was, dict(model.named_buffers())[name], rtol=0, atol=1e-2) or len(was) == 1
        for _ in range(2):  # G draws for either step; D sees reals and fakes in one pass, and fakes again
            was = F.normalize(matrix @ F.normalize(was @ matrix, dim=0), dim=0)
        torch.testing.assert_close(dict(model.named_buffers())[name], was, rtol=0, atol=1e-4)
    for name, b in model.generator.named_buffers():
        assert torch.equal(b, dict(model.average.module.named_buffers())[name])


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_the_orthogonal_penalty_adds_its_gradient(
    network: str, fit: Callable[..., Any], batches: Callable[..., Any]
) -> None:
    """Up to the network's first step the weights are the same with and without it."""
    found: list[dict[str, Tensor]] = []
    for strength in (0.0, 0.1):
        penalized = {"orthogonal" if network == "generator" else "d_orthogonal": strength}
        settings = adversarial(d_steps=1, d_lr=1e-12)
        model = tiny(shared_dim=5, initialization="normal", adversarial=settings, **penalized)
        named = {name: p for name, p in model.networks()[network].named_parameters() if p.ndim > 1}
        weights = {name: p.detach().clone().requires_grad_() for name, p in named.items()}
        watch = Gradients(named)
        fit(model, batches(1, 4, (1, 32, 32), classes=3), callbacks=[watch])
        assert (f"{network[0]}_orthogonal_penalty" in model.reported()) == bool(strength)
        found.append(watch.found)
    (0.1 * non_orthogonality([p for name, p in weights.items() if name != "embedding.weight"])).backward()
    for name, p in weights.items():
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(found[1][name] - found[0][name], expected, rtol=1e-3, atol=1e-5)  # float32


class Gradients(lightning.Callback):
    """Keeps the gradients that these parameters are stepped with."""

    def __init__(self, named: dict[str, nn.Parameter]) -> None:
        self.named = named
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:  # noqa: ANN401
        stepped = {id(p) for p in optimizer.param_groups[0]["params"]}
        mine = {name: p.grad.clone() for name, p in self.named.items() if id(p) in stepped and p.grad is not None}
        self.found.update(mine)
