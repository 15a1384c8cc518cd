"""The one attention block, as each family calls it."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.parts.attention import Attention, Memory, SelfAttention
from models.parts.layers import SpectralConv2d, spectrally_normalised


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(width: int, heads: int, **settings: bool | float) -> Attention:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        project, out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        return Attention(project, out, heads, **settings).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_tokens_by_hand(heads: int, causal: bool) -> None:
    layer, x = plain(6, heads), noise(2, 5, 6)
    queries, keys, values = layer.project(x).chunk(3, dim=2)
    size, mixed = 6 // heads, torch.zeros(2, 5, 6, dtype=torch.float64)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(5):
            seen = slice(0, i + 1) if causal else slice(0, 5)
            likeness = (keys[:, seen, part] * queries[:, i : i + 1, part]).sum(2) / math.sqrt(size)
            mixed[:, i, part] = (likeness.softmax(1)[:, :, None] * values[:, seen, part]).sum(1)
    torch.testing.assert_close(layer(x, causal=causal), layer.out(mixed), rtol=1e-10, atol=1e-12)


def test_a_picture_is_its_tokens_in_raster_order() -> None:
    x, tokens = noise(2, 4, 3, 5), plain(4, 2)
    maps = Attention(nn.Conv2d(4, 12, 1), nn.Conv2d(4, 4, 1), 2).double()
    for mine, theirs in ((maps.project, tokens.project), (maps.out, tokens.out)):
        mine.load_state_dict({"weight": theirs.weight[:, :, None, None], "bias": theirs.bias})
    expected = tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(maps(x), expected, rtol=1e-10, atol=1e-12)


def test_one_token_after_another_sees_what_all_at_once_see() -> None:
    layer, x, memory = plain(6, 2), noise(2, 5, 6), Memory(5)
    one_by_one = torch.cat([layer(x[:, i : i + 1], memory=memory) for i in range(5)], dim=1)
    torch.testing.assert_close(one_by_one, layer(x, causal=True), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_what_can_be_differentiated_twice_gives_the_same(causal: bool) -> None:
    fused, twice, x = plain(6, 2), plain(6, 2, twice=True), noise(2, 5, 6)
    torch.testing.assert_close(twice(x, causal=causal), fused(x, causal=causal), rtol=1e-10, atol=1e-12)
    scaled = plain(6, 2, twice=True, scale=1 / math.sqrt(3))
    torch.testing.assert_close(scaled(x), fused(x), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradgradcheck(twice, noise(1, 3, 6).requires_grad_())


def test_queries_and_keys_are_told_where_they_stand() -> None:
    layer, x = plain(6, 2), noise(2, 5, 6)
    assert not torch.allclose(layer(x, placed=lambda heads: 2 * heads), layer(x))
    torch.testing.assert_close(layer(x, placed=lambda heads: heads), layer(x), rtol=0, atol=0)


# Self-attention of GANs.


def test_it_begins_as_the_identity() -> None:
    x = noise(2, 9, 4, 4).float()
    assert torch.equal(SelfAttention(9)(x), x)


def test_self_attention_by_hand() -> None:
    torch.manual_seed(5)
    layer = SelfAttention(16).double().eval()
    layer.gamma.data.fill_(0.3)
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    maps = layer.attention.project

    def project(part: SpectralConv2d, at: Tensor) -> Tensor:
        weight = spectrally_normalised(part.weight, part.u, part.eps, update=False)[:, :, 0, 0]
        return torch.einsum("oc,nchw->nohw", weight, at)

    keys, values = (
        project(part, x).unflatten(3, (3, 2)).unflatten(2, (2, 2)).amax((3, 5)) for part in (maps.phi, maps.g)
    )
    assert keys.shape == (2, 2, 2, 3)
    expected = torch.empty(2, 8, 4, 6, dtype=torch.float64)
    for n in range(2):
        for i in range(4):
            for j in range(6):
                likeness = (project(maps.theta, x)[n, :, i, j, None, None] * keys[n]).sum(0)
                share = likeness.exp() / likeness.exp().sum()
                expected[n, :, i, j] = (values[n] * share).sum((1, 2))
    torch.testing.assert_close(layer(x), x + 0.3 * project(layer.attention.out, expected), rtol=1e-10, atol=1e-12)


def test_self_attention_can_be_differentiated_twice_and_needs_eight_channels() -> None:
    layer = SelfAttention(8)
    layer.gamma.data.fill_(1.0)
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), layer.attention.project.theta.weight)
    assert second.abs().max() > 0
    with pytest.raises(ValueError, match="needs 8, not 4"):
        SelfAttention(4)
