import math

import pytest
import torch
from torch import Tensor

from models.parts.tokens import chosen, restricted
from settings.sampling import TransformerSettings

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log()


def kept(logits: Tensor) -> list[int]:
    return torch.isfinite(logits[0]).nonzero().flatten().tolist()


def test_nothing_is_restricted_by_default() -> None:
    torch.testing.assert_close(restricted(LOGITS), LOGITS)


def test_temperature_raises_probabilities_to_a_power() -> None:
    expected = torch.tensor([[0.01, 0.16, 0.04, 0.09]], dtype=torch.float64) / 0.3
    torch.testing.assert_close(restricted(LOGITS, temperature=0.5).softmax(-1), expected)


@pytest.mark.parametrize(("k", "tokens"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_top_k_keeps_the_likeliest(k: int, tokens: list[int]) -> None:
    assert kept(restricted(LOGITS, top_k=k)) == tokens


@pytest.mark.parametrize(
    ("p", "tokens"), [(1e-9, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_reach_it(p: float, tokens: list[int]) -> None:
    assert kept(restricted(LOGITS, top_p=p)) == tokens


def test_top_p_counts_what_top_k_left() -> None:
    # Of the two likeliest, 4/7 and 3/7, the first alone reaches a half; of all four it does not.
    assert kept(restricted(LOGITS, top_k=2, top_p=0.5)) == [1]
    assert kept(restricted(LOGITS, top_p=0.5)) == [1, 3]


def test_what_is_kept_keeps_its_proportions() -> None:
    expected = torch.tensor([[0, 0.4, 0.2, 0.3]], dtype=torch.float64) / 0.9
    torch.testing.assert_close(restricted(LOGITS, top_k=3).softmax(-1), expected)


def test_uniform_numbers_choose_by_the_cumulative_distribution() -> None:
    uniforms = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 0.9999])
    assert chosen(LOGITS.expand(8, 4), uniforms).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    uniforms = (torch.arange(100_000) + 0.5) / 100_000
    shares = chosen(LOGITS.float().expand(100_000, 4), uniforms).bincount() / 100_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.4, 0.2, 0.3]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_a_token_that_is_ruled_out_is_never_chosen(uniform: float) -> None:
    logits = torch.full((1, 300), -math.inf)
    logits[0, 100:200] = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 8
    assert 100 <= chosen(logits, torch.tensor([uniform])).item() < 200


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"temperature": 0.0}, "temperature"), ({"temperature": 1.0, "top_k": 0}, "top_k"),
     ({"temperature": 1.0, "top_p": 0.0}, "top_p"), ({"temperature": 1.0, "top_p": 1.5}, "top_p")],
)  # fmt: skip
def test_bad_settings_are_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must"):
        TransformerSettings(**settings)  # type: ignore[arg-type]
