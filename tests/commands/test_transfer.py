"""Weights of one model as the start of another: what is taken, what is left, and where layers are found."""

from typing import Any

import pytest
import torch

from commands.options.init_from import Transfer, take_weights
from models.biggan import BigGAN
from models.dcgan import DCGAN
from models.progan import ProGAN
from models.r3gan import R3GAN
from models.stylegan2 import StyleGAN2
from models.training.base import GenerativeModel
from models.training.gan import GAN


def styled(side: int = 16, channels: int = 3, **settings: Any) -> StyleGAN2:  # noqa: ANN401
    own: dict[str, Any] = {"channel_base": 128, "channel_max": 8, "latent_dim": 8, "w_dim": 8, "mapping_layers": 2}
    return StyleGAN2((channels, side, side), **(own | settings))


def saved(model: GenerativeModel, **own: object) -> dict[str, Any]:
    """A checkpoint of `model`, every number of which is off its start."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) + 0.1)
    content: dict[str, Any] = {"state_dict": {name: value.clone() for name, value in model.state_dict().items()}}
    model.on_save_checkpoint(content)
    content["atelier"].update(own)
    return content


def test_a_model_of_the_same_settings_takes_everything_but_counters_and_seed() -> None:
    theirs, mine = styled(), styled()
    content = saved(theirs, samples_seen=800, steps=100, training_seed=5, origin={"code": "x", "licence": "y"})
    transfer = take_weights(mine, content)
    assert transfer.left == {}
    for network in ("generator", "discriminator", "average"):
        state, expected = getattr(mine, network).state_dict(), getattr(theirs, network).state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert transfer.numbers == sum(
        value.numel() for name, value in mine.state_dict().items() if name != "path_length_mean"
    )
    assert (mine.samples_seen, mine.steps, mine.training_seed) == (0, 0, None)
    assert mine.path_length_mean == 0  # of training, not of a network
    assert mine.origin == {"code": "x", "licence": "y"}


@pytest.mark.parametrize(("old", "new"), [(16, 32), (32, 16)])
def test_layers_of_the_same_side_find_each_other(old: int, new: int) -> None:
    theirs, mine = styled(old), styled(new)
    content, before = saved(theirs), {name: value.clone() for name, value in mine.state_dict().items()}
    transfer = take_weights(mine, content)
    shared = 3  # 4, 8 and 16 px
    for block in range(shared):
        weight = "conv1.weight"
        name = f"synthesis.blocks.{block}.{weight}"
        assert torch.equal(mine.generator.state_dict()[name], theirs.generator.state_dict()[name])
    for from_end in range(1, shared):  # the discriminator's last block begins at 8 px
        a, b = mine.discriminator.blocks[-from_end], theirs.discriminator.blocks[-from_end]  # type: ignore[index]
        assert torch.equal(a.conv0.weight, b.conv0.weight)
    if new > old:
        assert "discriminator.blocks.0.conv0.weight" in transfer.left
        assert "generator.synthesis.blocks.3.conv0.weight" in transfer.left
        assert "average.module.synthesis.blocks.3.conv0.weight" in transfer.left
    after = mine.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in transfer.left)
    assert not any(torch.equal(after[name], before[name]) for name in transfer.taken)


def test_biggan_and_r3gan_count_the_discriminator_from_the_end_too() -> None:
    def pyramid(side: int) -> R3GAN:
        widths = [8] * (side.bit_length() - 2)
        return R3GAN((3, side, side), widths=widths, groups=[1] * len(widths), blocks=1, latent_dim=4)

    theirs, mine = pyramid(16), pyramid(32)
    transfer = take_weights(mine, saved(theirs))
    for from_end in range(1, 4):
        first, second = (each.discriminator.stages[-from_end][0].conv2.weight for each in (mine, theirs))  # type: ignore[index]
        assert torch.equal(first, second)
    assert any(name.startswith("discriminator.stages.0.") for name in transfer.left)

    big = [BigGAN((3, side, side), width=2, d_width=2, latent_dim=12, hierarchical=False) for side in (128, 256)]
    take_weights(big[1], saved(big[0]))
    last = [each.discriminator.blocks[-1][0].conv1.weight for each in big]  # type: ignore[index]
    assert torch.equal(*last)


def test_other_channels_and_labels_leave_only_what_depends_on_them() -> None:
    mine = styled(channels=1, num_classes=3, conditional=True)
    transfer = take_weights(mine, saved(styled()))
    networks = {name: reason for name, reason in transfer.left.items() if not name.startswith("average.")}
    picture = {f"generator.synthesis.blocks.{i}.to_rgb.{kind}" for i in range(3) for kind in ("weight", "bias")}
    labels = {"generator.mapping.embed.weight", "generator.mapping.embed.bias", "generator.mapping.layers.0.weight"}
    critic = {"discriminator.from_rgb.weight", "discriminator.last.weight", "discriminator.last.bias"}
    own = {name for name in networks if name.startswith("discriminator.mapping.")}
    assert len(own) == 18  # an embedding and eight layers
    assert set(networks) == picture | labels | critic | own
    assert networks["discriminator.from_rgb.weight"] == "of another shape in the checkpoint"
    assert networks["generator.mapping.embed.weight"] == "not in the checkpoint"


def test_an_unconditional_model_begins_one_on_labelled_data() -> None:
    assert take_weights(styled(num_classes=10), saved(styled())).left == {}


def test_what_cannot_be_taken_is_refused() -> None:
    mine = styled()
    with pytest.raises(ValueError, match=r"it holds a models\.dcgan\.DCGAN"):
        take_weights(mine, saved(DCGAN((3, 16, 16), width=4, latent_dim=4)))
    wide = DCGAN((3, 16, 16), width=8, latent_dim=8)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    with pytest.raises(ValueError, match="none of its weights"):
        take_weights(wide, saved(DCGAN((1, 16, 16), width=4, latent_dim=4)))
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())
    content = saved(styled())
    content["state_dict"]["generator.w_average"] = "words"
    with pytest.raises(ValueError, match="tensors"):
        take_weights(mine, content)


def test_the_report_fits_in_a_dozen_lines_and_counts_everything() -> None:
    left = {f"generator.blocks.{i}.{j}.weight": "not in the checkpoint" for i in range(9) for j in range(5)}
    left |= {
        "discriminator.last.bias": "of another shape in the checkpoint",
        "discriminator.last.weight": "not in the checkpoint",
    }
    lines = Transfer(["a", "b"], left, 1234).lines()
    assert lines == [
        "taken: 2 of 49 tensors, 1,234 numbers",
        "left as initialised:",
        "  generator.blocks: 45 not in the checkpoint",
        "  discriminator.last: 1 of another shape in the checkpoint, 1 not in the checkpoint",
    ]
    assert Transfer(["a"], {}, 1).lines() == ["taken: 1 of 1 tensors, 1 numbers"]


def test_frozen_layers_begin_at_the_picture_in_every_family() -> None:
    families: list[tuple[GAN, list[str]]] = [
        (DCGAN((3, 16, 16), width=4, latent_dim=4), ["layers.0", "layers.2", "layers.3"]),
        (
            R3GAN((3, 16, 16), widths=[16, 8, 8], groups=[1, 1, 1], blocks=1, latent_dim=4),
            ["from_rgb", *(f"stages.{i}.0.conv{j}" for i in (0, 1) for j in (1, 2, 3)), "resize.1"],
        ),
        (
            ProGAN((3, 16, 16), channel_base=64, channel_max=8, latent_dim=4),
            ["from_rgb.2", "blocks.2.0", "blocks.2.1", "blocks.1.0", "blocks.1.1", "blocks.0.0"],
        ),
        (
            BigGAN((3, 32, 32), width=2, d_width=2, latent_dim=12, hierarchical=False),
            [f"blocks.0.0.{layer}" for layer in ("conv1", "conv2", "shortcut")],
        ),
    ]
    for model, expected in families:
        names = {module: name for name, module in model.discriminator.named_modules()}
        found = [names[layer] for layer in model.discriminator_layers()]
        assert found[: len(expected)] == expected, type(model).__name__
