"""The U-Net and the MLP: sizes, their zero start, what they refuse."""

import pytest
import torch

from models.parts.unet import MLP, UNet, positions


def small(resolution: int, classes: int = 0, adaptive_scale: bool = False) -> UNet:
    torch.manual_seed(0)
    return UNet(1, resolution, 8, [1, 2, 2], 1, [resolution // 4], 0.0, adaptive_scale, classes)


def test_the_network_of_edm_has_its_parameters() -> None:
    """NVlabs/edm's unconditional DDPM++ has 55,733,891, of which 9 x 128 take in the augmentation's parameters."""
    with torch.device("meta"):
        network = UNet(3, 32, 128, [2, 2, 2], 4, [16], 0.13, False, 0)
    assert sum(p.numel() for p in network.parameters()) == 55_733_891 - 9 * 128


@pytest.mark.parametrize("resolution", [28, 32, 64])
@pytest.mark.parametrize("adaptive_scale", [False, True])
def test_the_output_is_zero_at_first_and_has_the_pictures_shape(resolution: int, adaptive_scale: bool) -> None:
    x, level = torch.randn(2, 1, resolution, resolution), torch.tensor([0.1, 0.9])
    network = small(resolution, adaptive_scale=adaptive_scale)
    found = network(x, level, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(found, torch.zeros_like(x))
    loss = (found - 1).square().mean()
    loss.backward()
    assert network.last.weight.grad.abs().max() > 0


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """With weights as after training, none of them zero."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return network


@pytest.mark.parametrize("network", ["unet", "mlp"])
def test_level_and_label_matter_and_no_label_is_another(network: str) -> None:
    made = moved(small(8, classes=3) if network == "unet" else MLP(2, 16, 2, 3)).double()
    x = torch.randn(1, *((1, 8, 8) if network == "unet" else (2,)), dtype=torch.float64)

    def at(level: float, label: int) -> torch.Tensor:
        return made(x, torch.tensor([level], dtype=torch.float64), torch.tensor([label]))

    found = [at(0.2, 0), at(0.7, 0), at(0.2, 1), at(0.2, 3)]
    for i, one in enumerate(found):
        assert one.isfinite().all()
        for other in found[i + 1 :]:
            assert (one - other).abs().max() > 1e-6


def test_a_sample_does_not_see_its_batch() -> None:
    network = moved(small(8)).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    level, labels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(network(x, level, labels)[1:2], network(x[1:2], level[1:2], labels[1:2]))


def test_a_side_that_does_not_halve_and_attention_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match=r"30 is not divisible by 4: set data\.resolution"):
        UNet(1, 30, 8, [1, 2, 2], 1, [], 0.0, False, 0)
    with pytest.raises(ValueError, match=r"attention at 16 px: the features have sides \[28, 14, 7\]"):
        UNet(1, 28, 8, [1, 2, 2], 1, [16], 0.0, False, 0)


def test_positions_are_cosines_and_sines() -> None:
    found = positions(torch.tensor([2.0], dtype=torch.float64), 4)
    expected = torch.tensor([[2.0, 2e-4]], dtype=torch.float64)
    torch.testing.assert_close(found, torch.cat([expected.cos(), expected.sin()], 1))
    assert positions(torch.tensor([2.0], dtype=torch.bfloat16), 4).dtype == torch.float32
