import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import load
from models.parts.mixture import drawn
from models.pixelcnn import Part, PixelCNN, PixelNetwork, concat_elu, convolutions, gain, initializing
from settings.sampling import PixelCNNSettings
from settings.training import Optimization

SMALL: dict[str, Any] = {"width": 4, "blocks": 1, "mixtures": 2}


def network(channels: int, blocks: int = 1) -> PixelNetwork:
    """In float64, with weights large enough to matter."""
    torch.manual_seed(0)
    made = PixelNetwork(channels, 4, blocks, 2, dropout=0.0).double().eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    return made


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(256, (count, channels, height, width), generator=generator)
    return levels.double() / 127.5 - 1


def by_parts(net: PixelNetwork, x: Tensor) -> Tensor:
    """What `draw` computes of each pixel, of pictures that exist; what it must not look at yet is far away."""
    (height, width), known = x.shape[2:], {}
    found = []
    for row in range(height):
        unknown = x.clone()
        unknown[:, :, row:] = 99
        upper = net.upper_row(net.framed(unknown), Part(row, None, height, width, known))
        for column in range(width):
            unknown[:, :, row, :column] = x[:, :, row, :column]
            found.append(net.pixel(net.framed(unknown), upper, Part(row, column, height, width, known)))
    return torch.stack(found, dim=1).unflatten(1, (height, width))


def test_concat_elu_by_hand() -> None:
    found = concat_elu(torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, math.exp(-2) - 1, math.exp(-1) - 1, 2.0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_no_pixel_sees_itself_or_a_later_one(channels: int) -> None:
    net = network(channels)
    x = pictures(1, channels, 8, 8).requires_grad_()
    parameters = net(x)
    seen = torch.zeros(64, 64, dtype=torch.bool)
    for i in range(64):
        (gradient,) = torch.autograd.grad(parameters[0, i // 8, i % 8].square().sum(), x, retain_graph=True)
        seen[i] = gradient[0].abs().amax(0).flatten() > 0
    assert not seen.triu().any()
    for i in range(64):
        row, column = divmod(i, 8)
        near = [(row, column - 1), (row - 1, column - 1), (row - 1, column), (row - 1, column + 1), (row - 2, column)]
        for r, c in near:
            if r >= 0 and 0 <= c < 8:
                assert seen[i, r * 8 + c], f"{(row, column)} does not see {(r, c)}"
    assert seen[63].sum() > 50  # the coarser levels reach far


@pytest.mark.parametrize(("channels", "blocks", "height", "width"), [(1, 1, 8, 12), (3, 2, 12, 8), (1, 1, 28, 28)])
def test_parts_equal_the_whole(channels: int, blocks: int, height: int, width: int) -> None:
    net, x = network(channels, blocks), pictures(2, channels, height, width)
    with torch.no_grad():
        torch.testing.assert_close(by_parts(net, x), net(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_drawing_by_parts_equals_drawing_with_the_whole_network(channels: int) -> None:
    net = network(channels)
    uniforms = torch.rand(3, 8, 8, 1 + channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = net.draw(uniforms, 1.0)
        expected = torch.zeros(3, channels, 8, 8, dtype=torch.float64)
        for row in range(8):
            for column in range(8):
                expected[:, :, row, column] = drawn(net(expected)[:, row, column], uniforms[:, row, column])
    torch.testing.assert_close(x, expected)
    assert len(x.unique()) > 10


def test_bits_of_a_known_distribution() -> None:
    """Each pixel a logistic of its own scale around a mean: the sums by hand."""
    model = PixelCNN((1, 4, 4), width=2, blocks=1, mixtures=1, dropout=0.0)
    last = model.network.last
    assert isinstance(last, torch.nn.Conv2d)
    torch.nn.init.zeros_(gain(last))
    assert last.bias is not None
    last.bias.data = torch.tensor([0.7, 0.25, math.log(0.1)])
    levels = torch.arange(16).view(1, 1, 4, 4) * 17
    found = model.log_prob(levels / 127.5 - 1)
    x = levels.double() / 127.5 - 1

    def below(edge: Tensor) -> Tensor:
        return torch.sigmoid((edge - 0.25) / 0.1)

    lower = torch.where(levels == 0, torch.zeros_like(x), below(x - 1 / 255))
    upper = torch.where(levels == 255, torch.ones_like(x), below(x + 1 / 255))
    torch.testing.assert_close(found, (upper - lower).log().sum((1, 2, 3)), atol=1e-3, rtol=0)
    assert model.likelihood_kind == "exact"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_samples_do_not_depend_on_their_batch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = PixelCNN(shape, **SMALL)
    whole = model.sample(range(3), seed=4)
    assert whole.shape == (3, *shape)
    assert ((whole + 1) * 127.5 - ((whole + 1) * 127.5).round()).abs().max() < 1e-4
    for i in range(3):
        torch.testing.assert_close(model.sample([i], seed=4)[0], whole[i], atol=1e-6, rtol=0)
    assert not torch.equal(whole, model.sample(range(3), seed=5))
    assert not torch.equal(whole, model.sample(range(3), seed=4, settings=PixelCNNSettings(temperature=0.5)))


def test_it_resumes_exactly_and_samples_by_itself(
    fit: Callable[..., Any], batches: Callable[..., Any], tmp_path: Path
) -> None:
    data = batches(6, 4, (1, 8, 8))
    settings = Optimization(lr=1e-2, ema_halflife_kimg=0.01)

    def made() -> PixelCNN:
        torch.manual_seed(0)
        return PixelCNN((1, 8, 8), optimization=settings, **SMALL)

    whole, first, second = made(), made(), made()
    fit(whole, data)
    fit(first, data[:3]).save_checkpoint(tmp_path / "half.ckpt")
    path = tmp_path / "half.ckpt"
    trainer = fit(second, [*data[3:], *data[:3]], ckpt_path=path, max_steps=6, max_epochs=-1)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    opened = load(tmp_path / "last.ckpt")
    assert torch.equal(opened.sample(range(2)), second.eval().sample(range(2)))


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [((1, 6, 8), {}, "6x8"), ((1, 8), {}, "pictures"), ((1, 8, 8), {"mixtures": 0}, "at least 1")],
)
def test_mistakes_are_said_in_a_line(shape: tuple[int, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PixelCNN(shape, **{**SMALL, **settings})
    assert "\n" not in str(caught.value)


def test_the_authors_size_has_their_parameters() -> None:
    """Counted in a port of their code, pclucas14/pixel-cnn-pp."""
    with torch.device("meta"):
        made = PixelNetwork(3, width=160, blocks=5, mixtures=10, dropout=0.5)
    assert sum(weight.numel() for weight in made.parameters()) == 53_659_080


def outputs(net: PixelNetwork, x: Tensor) -> dict[str, Tensor]:
    """What each convolution makes of pictures."""
    found: dict[str, Tensor] = {}
    names = {layer: name for name, layer in net.named_modules()}

    def keep(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[names[layer]] = output

    hooks = [layer.register_forward_hook(keep) for layer in convolutions(net)]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_batch_sets_every_convolution(channels: int) -> None:
    """Also of a network whose convolutions have biases already."""
    net, x = network(channels), pictures(4, channels, 16, 16)
    for layer in convolutions(net):
        torch.nn.init.ones_(gain(layer))
    with torch.no_grad(), initializing(net):
        within = net(x)
    found = outputs(net, x)
    assert len(found) == len(convolutions(net))
    for name, output in found.items():
        expected = 0.1 if name.endswith("second") else 1.0
        torch.testing.assert_close(output.mean((0, 2, 3)), output.new_zeros(output.shape[1]), atol=1e-6, rtol=0)
        deviation = output.var((0, 2, 3), correction=0).sqrt()
        # 1e-10 is added to a variance.
        torch.testing.assert_close(deviation, torch.full_like(deviation, expected), atol=0, rtol=1e-5)
    torch.testing.assert_close(within, net(x), atol=1e-6, rtol=1e-6)


def test_the_first_batch_sets_a_network_once(fit: Callable[..., Any], batches: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = PixelCNN((1, 8, 8), optimization=Optimization(lr=0.0), **SMALL)
    before = gain(model.network.last).clone()
    fit(model, batches(1, 4, (1, 8, 8)))
    first = gain(model.network.last).clone()
    assert not torch.equal(first, before)
    model.samples_seen = model.steps = 0
    fit(model, batches(2, 4, (1, 8, 8))[1:])
    assert torch.equal(gain(model.network.last), first)
