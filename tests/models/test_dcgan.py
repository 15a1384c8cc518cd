from collections.abc import Sequence

import pytest
import torch
from torch import nn

from models.dcgan import DCGAN
from models.parts.layers import BatchNorm2d


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    networks = DCGAN((3, 64, 64)).networks()
    assert {name: parameters(network) for name, network in networks.items()} == {
        "generator": 3_576_704,
        "discriminator": 2_765_568,
    }


@pytest.mark.parametrize("resolution", [16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("conditional", [False, True])
def test_samples_and_logits_have_their_shapes(resolution: int, channels: int, conditional: bool) -> None:
    model = DCGAN((channels, resolution, resolution), num_classes=3, width=4, latent_dim=8, conditional=conditional)
    x = model.sample(range(2))
    assert x.shape == (2, channels, resolution, resolution)
    logits = model.logits(x, torch.tensor([0, 2]))
    assert logits.shape == (2,)
    assert logits.isfinite().all()


def test_samples_fill_the_range_and_never_leave_it() -> None:
    model = DCGAN((1, 16, 16), width=8)
    for parameter in model.generator.parameters():
        parameter.data.mul_(100)
    x = model.sample(range(8), settings=model.settings_class(weights="raw"))
    assert x.max() == 1
    assert x.min() == -1


@pytest.mark.parametrize("resolution", [16, 64, 128])
def test_stages_double_from_4_pixels_with_half_the_channels_never_above_8_widths(resolution: int) -> None:
    model = DCGAN((3, resolution, resolution), width=4)
    up = [layer for layer in model.generator.modules() if isinstance(layer, nn.ConvTranspose2d)]
    down = [layer for layer in model.discriminator.modules() if isinstance(layer, nn.Conv2d)]
    expected = {16: [8, 4], 64: [32, 16, 8, 4], 128: [32, 32, 16, 8, 4]}[resolution]
    assert [layer.out_channels for layer in up] == [*expected, 3]
    assert [layer.in_channels for layer in down] == [3, *reversed(expected)]


def test_batches_are_normalised_everywhere_but_at_the_picture() -> None:
    model = DCGAN((3, 32, 32), width=4)
    assert [layer.num_features for layer in model.generator.modules() if isinstance(layer, BatchNorm2d)] == [16, 8, 4]
    assert [layer.num_features for layer in model.discriminator.modules() if isinstance(layer, BatchNorm2d)] == [8, 16]


@pytest.mark.parametrize("shape", [(3, 32, 16), (3, 24, 24), (3, 8, 8), (3, 0, 0)])
def test_sides_that_are_no_power_of_two_from_16_are_an_error(shape: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=f"power of two from 16 up, not {shape[1]}x{shape[2]}: set data.resolution"):
        DCGAN(shape)


def test_data_without_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"draws pictures, \(C, H, W\), but the data's shape is \(8000,\)"):
        DCGAN((8000,))


@pytest.mark.parametrize(("data_shape", "num_classes"), [(None, 0), ((3, 16, 16), None)])
def test_data_that_does_not_know_itself_is_an_error(data_shape: Sequence[int] | None, num_classes: int | None) -> None:
    with pytest.raises(ValueError, match="data_shape and num_classes must be known"):
        DCGAN(data_shape, num_classes)  # type: ignore[arg-type]


def test_conditional_without_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="conditional: true needs labels"):
        DCGAN((3, 16, 16), num_classes=0, conditional=True)


def test_labels_steer_samples_and_logits_only_where_conditional() -> None:
    for conditional in (True, False):
        torch.manual_seed(0)
        model = DCGAN((1, 16, 16), num_classes=2, width=8, latent_dim=8, conditional=conditional).eval()
        x, z = torch.randn(1, 1, 16, 16), torch.randn(1, 8)
        zero, one = torch.tensor([0]), torch.tensor([1])
        assert (model.logits(x, zero) != model.logits(x, one)).item() == conditional
        assert torch.equal(model.decode(z, zero), model.decode(z, one)) != conditional


def test_discriminator_reads_the_output_of_the_label() -> None:
    model = DCGAN((1, 16, 16), num_classes=3, width=8, conditional=True).eval()
    x = torch.randn(4, 1, 16, 16)
    outputs = model.discriminator.layers(x).flatten(1)
    labels = torch.tensor([2, 0, 1, 1])
    assert torch.equal(model.logits(x, labels), outputs[range(4), labels])


def test_weights_begin_as_published() -> None:
    torch.manual_seed(0)
    model = DCGAN((3, 64, 64))
    for network in model.networks().values():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                mean, deviation = 0.0, layer.weight.std()
            elif isinstance(layer, BatchNorm2d):
                mean, deviation = 1.0, layer.weight.std()
                assert (layer.bias == 0).all()
            else:
                continue
            count = layer.weight.numel()
            # Five standard errors of either estimate.
            assert abs(layer.weight.mean() - mean) < 5 * 0.02 / count**0.5
            assert abs(deviation - 0.02) < 5 * 0.02 / (2 * count) ** 0.5


def test_average_begins_as_the_generator() -> None:
    model = DCGAN((1, 16, 16), width=8)
    for mine, theirs in zip(model.average.parameters(), model.generator.parameters(), strict=True):
        assert torch.equal(mine, theirs)
