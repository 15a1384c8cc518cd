import math

import pytest
import torch
from torch import Tensor

from models.parts.mixture import drawn, log_probability, moved, parameters_needed, parted
from models.parts.output_distributions import logistic

VALUES = torch.arange(256, dtype=torch.float64) / 127.5 - 1
PAIRS = {1: 0, 2: 1, 3: 3}


def random_parameters(channels: int, mixtures: int = 3, pixels: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(pixels, parameters_needed(mixtures, channels), dtype=torch.float64, generator=generator)
    _, rest = parameters.split([mixtures, parameters.shape[1] - mixtures], dim=1)
    rest.view(pixels, mixtures, -1)[..., channels : 2 * channels] -= 2  # scales of some bytes
    return parameters


def of_fewer_channels(parameters: Tensor, channels: int) -> Tensor:
    """The parameters of all channels but the last."""
    logits, means, log_scales, coefficients = parted(parameters, channels)
    kept = PAIRS[channels - 1]
    rest = [means[..., :-1], log_scales[..., :-1], coefficients[..., :kept].atanh()]  # `parted` takes their tanh
    return torch.cat([logits, torch.cat(rest, dim=-1).flatten(-2)], dim=-1)


def test_the_numbers_of_parameters_are_the_papers() -> None:
    assert [parameters_needed(10, channels) for channels in (1, 2, 3)] == [30, 60, 100]


def test_a_grey_pixels_256_probabilities_add_up_to_one() -> None:
    parameters = random_parameters(1)
    found = log_probability(VALUES[:, None, None].expand(256, 4, 1), parameters)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("channels", [2, 3])
def test_a_channels_256_probabilities_add_up_to_what_those_before_it_have(channels: int) -> None:
    """So, with the test above, those of all 256^C pixels add up to one."""
    parameters = random_parameters(channels)
    before = VALUES[torch.randint(256, (4, channels - 1), generator=torch.Generator().manual_seed(1))]
    x = torch.cat([before.expand(256, 4, channels - 1), VALUES[:, None, None].expand(256, 4, 1)], dim=-1)
    summed = log_probability(x, parameters).exp().sum(0)
    torch.testing.assert_close(summed, log_probability(before, of_fewer_channels(parameters, channels)).exp())


def test_one_component_is_one_logistic_whose_mean_moves_with_the_channels_before() -> None:
    raw = torch.tensor([0.3, 0.1, -0.2, 0.4, -2.0, -3.0, -1.0, 0.5, -0.7, 0.9], dtype=torch.float64)
    red, green, blue = x = VALUES[torch.tensor([10, 200, 99])]
    a, b, c = torch.tensor([0.5, -0.7, 0.9], dtype=torch.float64).tanh()
    expected = (
        logistic(red, raw[1], raw[4])
        + logistic(green, raw[2] + a * red, raw[5])
        + logistic(blue, raw[3] + b * red + c * green, raw[6])
    )
    torch.testing.assert_close(log_probability(x, raw), expected)


def test_components_are_weighed() -> None:
    x = VALUES[[50]]
    sharp = torch.tensor([math.log(0.25), math.log(0.75), -0.6, -3.0, 0.6, -3.0], dtype=torch.float64)
    one, other = (logistic(x[0], mean, torch.tensor(-3.0)) for mean in torch.tensor([-0.6, 0.6]).double())
    torch.testing.assert_close(log_probability(x, sharp).exp(), 0.25 * one.exp() + 0.75 * other.exp())


def test_the_mean_of_the_first_channel_never_moves() -> None:
    mean = torch.tensor([1.0, 2.0])
    assert torch.equal(moved(mean, torch.ones(2, 3), torch.empty(0)), mean)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_drawn_comes_as_often_as_it_is_likely(channels: int) -> None:
    parameters = random_parameters(channels, pixels=1, seed=5)
    count = 200_000
    uniforms = torch.rand(count, 1 + channels, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = drawn(parameters.expand(count, -1), uniforms)
    assert ((x + 1) * 127.5 - ((x + 1) * 127.5).round()).abs().max() < 1e-4
    first = ((x[:, 0] + 1) * 127.5).round().long().bincount(minlength=256) / count
    while channels > 1:
        parameters, channels = of_fewer_channels(parameters, channels), channels - 1
    expected = log_probability(VALUES[:, None], parameters).exp()
    assert float((first - expected).abs().max()) < 5 * math.sqrt(float(expected.max()) / count)


def test_later_channels_are_drawn_given_those_before() -> None:
    """Means that follow the channel before exactly, and no spread."""
    raw = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, -7.0, -7.0, 9.0, 0.0, -9.0], dtype=torch.float64)
    uniforms = torch.rand(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    red, green, blue = drawn(raw.expand(50, -1), uniforms).unbind(-1)
    inside = red.abs() < 0.99
    assert inside.sum() > 5
    assert (green - red)[inside].abs().max() < 0.03
    assert (blue + green)[inside].abs().max() < 0.03


def test_a_low_temperature_takes_the_likeliest_components_mean() -> None:
    raw = torch.tensor([0.0, 1.0, -0.6, -1.0, VALUES[200], -1.0], dtype=torch.float64)
    uniforms = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = drawn(raw.expand(50, -1), uniforms, temperature=1e-3)
    torch.testing.assert_close(x, VALUES[200].expand(50, 1), atol=1e-6, rtol=0)


def test_the_largest_and_least_uniform_numbers_give_bytes() -> None:
    for uniform in (0.0, 1 - 2**-24):
        x = drawn(random_parameters(3).float(), torch.full((4, 4), uniform))
        assert x.isfinite().all()
        assert x.abs().max() <= 1
