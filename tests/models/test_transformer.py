import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import load
from models.parts.tokens import chosen
from models.training.capabilities import HasLikelihood
from models.transformer import Decoder, Transformer, rotated, turns
from settings.sampling import TransformerSettings
from settings.training import Optimization
from tests.models.toy_coder import CODES, ToyCoder, save_model

SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2}
ALPHABET = "ab cd"


def decoder(grid: tuple[int, ...], tokens: int = 5, starts: int = 2) -> Decoder:
    """In float64, with weights large enough to matter."""
    torch.manual_seed(0)
    network = Decoder(tokens, grid, starts, 16, 2, 2, dropout=0.0).double().eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.4)
    return network


def text_model(**settings: Any) -> Transformer:  # noqa: ANN401
    torch.manual_seed(0)
    return Transformer((6,), vocabulary_size=len(ALPHABET), alphabet=ALPHABET, **SMALL, **settings)


def text_batches(count: int, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randint(len(ALPHABET), (size, 6), generator=generator), torch.zeros(size, dtype=torch.int64))
        for _ in range(count)
    ]


# Rotary positions.


def test_products_of_rotated_vectors_depend_on_the_distance_only() -> None:
    queries, keys = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(here: int, there: int) -> float:
        a, b = (turns(torch.tensor([place]), 4, 10_000.0) for place in (here, there))
        return float((rotated(queries, a.cos(), a.sin()) * rotated(keys, b.cos(), b.sin())).sum())

    assert product(3, 1) == pytest.approx(product(103, 101), abs=1e-12)
    assert abs(product(3, 1) - product(3, 2)) > 1e-3
    assert product(5, 5) == pytest.approx(float((queries * keys).sum()), abs=1e-12)


def test_the_angles_are_those_of_the_paper() -> None:
    torch.testing.assert_close(
        turns(torch.tensor([3]), 2, 10_000.0), torch.tensor([[3.0, 3.0 / 100]], dtype=torch.float64)
    )


def test_a_sequence_looks_the_same_wherever_it_stands() -> None:
    """Of text: keys before a window being out of sight, attention sees distances, never places."""
    network = decoder((8,))
    block, x = network.blocks[0], torch.randn(1, 3, 16, dtype=torch.float64)
    here = block(x, network.cos[:3], network.sin[:3])
    there = block(x, network.cos[5:8], network.sin[5:8])
    torch.testing.assert_close(here, there, atol=1e-6, rtol=0)  # the angles are kept in float32


# The network.


@pytest.mark.parametrize("grid", [(6,), (2, 3), (2, 2, 3)])
def test_no_token_sees_itself_or_a_later_one(grid: tuple[int, ...]) -> None:
    network = decoder(grid)
    length = math.prod(grid)
    embedded = torch.randn(1, length, 16, dtype=torch.float64, requires_grad=True)
    network.tokens.forward = lambda tokens: embedded[:, : tokens.shape[1]]  # type: ignore[method-assign]
    logits = network(torch.zeros(1, length, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    for i in range(length):
        (gradient,) = torch.autograd.grad(logits[0, i].square().sum(), embedded, retain_graph=True)
        seen = gradient[0].abs().amax(-1) > 0
        assert seen.tolist() == [j < i for j in range(length)]


@pytest.mark.parametrize("grid", [(6,), (2, 3), (2, 2, 3)])
def test_drawing_with_kept_keys_equals_drawing_without(grid: tuple[int, ...]) -> None:
    network, length = decoder(grid), math.prod(grid)
    classes = torch.tensor([0, 1, 1])
    uniforms = torch.rand(3, length, generator=torch.Generator().manual_seed(0))
    drawn = network.draw(classes, uniforms, TransformerSettings())
    tokens = torch.zeros(3, length, dtype=torch.int64)
    for at in range(length):
        tokens[:, at] = chosen(network(tokens, classes)[:, at], uniforms[:, at])
    assert torch.equal(drawn, tokens)
    assert len(drawn.unique()) > 2


def test_logits_of_steps_equal_those_of_the_whole() -> None:
    from models.transformer import Memory

    network = decoder((2, 3))
    tokens, classes = torch.randint(5, (2, 6)), torch.tensor([1, 0])
    memories = [Memory(6) for _ in network.blocks]
    inputs = torch.cat([network.starts(classes)[:, None], network.tokens(tokens[:, :-1])], dim=1)
    steps = torch.stack([network.next_logits(inputs[:, at], at, memories) for at in range(6)], dim=1)
    torch.testing.assert_close(steps, network(tokens, classes))


def test_the_probabilities_of_all_sequences_add_up_to_one() -> None:
    model = Transformer((3,), vocabulary_size=4, **SMALL).double()
    everything = torch.cartesian_prod(*[torch.arange(4)] * 3)
    assert float(model.log_prob(everything).exp().sum()) == pytest.approx(1, abs=1e-6)


# The family.


def test_bits_of_a_known_distribution() -> None:
    """A network that gives every token the same logits knows the bits of each: here 1, 2, 3 and 3."""
    model = Transformer((4,), vocabulary_size=4, **SMALL).double()
    probabilities = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64)
    head = model.network.head
    assert isinstance(head, torch.nn.Module)
    head.forward = lambda x: probabilities.log().expand(*x.shape[:-1], 4)
    tokens, observed = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]]), dict[str, Tensor]()
    found = model.log_prob(tokens) / -math.log(2)
    torch.testing.assert_close(found, torch.tensor([9.0, 4.0], dtype=torch.float64))
    model.observe = observed.__setitem__  # type: ignore[method-assign, assignment]
    bits = torch.tensor([9 / 4, 1.0], dtype=torch.float64)
    torch.testing.assert_close(model.loss(tokens, torch.zeros(2, dtype=torch.int64)), bits * math.log(2))
    torch.testing.assert_close(observed, {"train_bits_per_token": bits})


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4)])
def test_pictures_are_their_bytes_in_raster_order(shape: tuple[int, ...]) -> None:
    model = Transformer(shape, **SMALL)
    levels = torch.randint(256, (2, *shape))
    x = levels / 127.5 - 1
    tokens = model.to_tokens(x)
    assert torch.equal(model.from_tokens(tokens), x)
    channels = shape[0]
    assert tokens[0, :channels].tolist() == levels[0, :, 0, 0].tolist()
    assert tokens[0, channels : 2 * channels].tolist() == levels[0, :, 0, 1].tolist()
    samples = model.sample([0, 1])
    assert samples.shape == (2, *shape)
    assert model.log_prob(samples).shape == (2,)
    assert model.likelihood_unit == "dim"


def test_samples_do_not_depend_on_their_batch() -> None:
    model = text_model()
    whole = model.sample(range(5), seed=4)
    assert whole.dtype == torch.int64
    assert len(model.sample([])) == 0
    for i in range(5):
        assert torch.equal(model.sample([i], seed=4)[0], whole[i])
    assert not torch.equal(whole, model.sample(range(5), seed=5))


def test_a_class_has_a_start_of_its_own() -> None:
    model = Transformer((1, 4, 4), num_classes=3, conditional=True, **SMALL)
    x = torch.zeros(2, 1, 4, 4)
    assert model.label_classes == 3
    same, other = model.log_prob(x, torch.tensor([1, 2]))
    assert same != other
    assert not torch.equal(*model.sample([0, 0], [0, 1]))


def test_settings_of_drawing_are_used() -> None:
    model = text_model()
    greedy = model.sample([0, 1], settings=TransformerSettings(top_k=1))
    assert torch.equal(greedy[0], greedy[1])
    assert torch.equal(greedy, model.sample([0, 1], settings=TransformerSettings(top_p=1e-6)))
    assert torch.equal(greedy, model.sample([0, 1], settings=TransformerSettings(temperature=1e-4)))


def test_it_learns_text_resumes_exactly_and_writes_by_itself(fit: Callable[..., Any], tmp_path: Path) -> None:
    batches = text_batches(6)
    settings = Optimization(lr=1e-2, warmup_kimg=0.01, weight_decay=0.1, ema_halflife_kimg=0.01)
    whole, first, second = (text_model(optimization=settings, dropout=0.1) for _ in range(3))
    fit(whole, batches)
    fit(first, batches[:3]).save_checkpoint(tmp_path / "half.ckpt")
    trainer = fit(second, [*batches[3:], *batches[:3]], ckpt_path=tmp_path / "half.ckpt", max_steps=6, max_epochs=-1)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    opened = load(tmp_path / "last.ckpt")
    drawn = opened.sample(range(3))
    assert torch.equal(drawn, second.eval().sample(range(3)))
    (text, _, _) = opened.text_of(drawn)
    assert text == "".join(ALPHABET[token] for token in drawn[0])


# Codes of another model.


@pytest.fixture
def coder_path(tmp_path: Path) -> Path:
    coder = ToyCoder((1, 8, 8))
    coder.values.data = torch.linspace(-0.5, 0.5, CODES)  # as no new one has
    save_model(coder, tmp_path / "coder.ckpt")
    return tmp_path / "coder.ckpt"


def test_a_prior_over_codes_holds_their_model(
    coder_path: Path, tmp_path: Path, fit: Callable[..., Any], batches: Callable[..., Any]
) -> None:
    prior = Transformer((1, 8, 8), codes_from=str(coder_path), **SMALL)
    assert (prior.num_tokens, prior.grid) == (CODES, (2, 2))
    assert set(prior.networks()) == {"network"}
    prior.train()
    assert isinstance(prior.codes_from, ToyCoder)
    assert prior.network.training
    assert not prior.codes_from.training
    assert not any(parameter.requires_grad for parameter in prior.codes_from.parameters())
    before = {name: value.clone() for name, value in prior.codes_from.state_dict().items()}
    trainer = fit(prior, batches(2, 4, (1, 8, 8)))
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in prior.network.parameters()}
    for name, value in prior.codes_from.state_dict().items():
        assert torch.equal(value, before[name])
    trainer.save_checkpoint(tmp_path / "prior.ckpt")
    coder_path.unlink()
    opened = load(tmp_path / "prior.ckpt")
    samples = opened.sample(range(4))
    assert torch.equal(samples, prior.eval().sample(range(4)))
    assert samples.shape == (4, 1, 8, 8)
    allowed = torch.linspace(-0.5, 0.5, CODES)
    assert (samples.flatten()[:, None] - allowed).abs().amin(1).max() == 0


def test_a_prior_over_codes_has_no_likelihood_of_pictures(coder_path: Path) -> None:
    prior = Transformer((1, 8, 8), codes_from=str(coder_path), **SMALL)
    assert isinstance(prior, HasLikelihood)
    assert prior.why_no_likelihood is not None
    with pytest.raises(ValueError, match="codes"):
        prior.log_prob(torch.zeros(1, 1, 8, 8))


def test_codes_are_learned_in_raster_order(coder_path: Path) -> None:
    prior = Transformer((1, 8, 8), codes_from=str(coder_path), **SMALL).eval()
    x = torch.full((1, 1, 8, 8), -0.5)
    x[..., :4, 4:] = 0.5
    assert prior.to_tokens(x).tolist() == [[0, CODES - 1, 0, 0]]
    torch.testing.assert_close(prior.from_tokens(prior.to_tokens(x)), x)


# Mistakes.


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 8, 8), {"width": 18, "heads": 2}, "width: 18"),
        ((1, 8, 8), {"depth": 0}, "depth and heads must be at least 1, not 16, 0 and 2"),
        ((1, 8, 8), {"heads": 0}, "heads must be at least 1"),
        ((1, 8, 8), {"conditional": True}, "needs labels"),
        ((1, 8, 8), {"codes_from": "nowhere.ckpt"}, "no checkpoint at nowhere"),
        ((1, 8), {}, "pictures"),
        ((1, 8, 8), {"vocabulary_size": 5}, "sequence"),
        ((8,), {"vocabulary_size": 5, "alphabet": "abc"}, "alphabet"),
        ((8,), {"vocabulary_size": 5, "codes_from": "x.ckpt"}, "codes_from"),
    ],
)
def test_mistakes_are_said_in_a_line(shape: tuple[int, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Transformer(shape, **{**SMALL, **settings})
    assert "\n" not in str(caught.value)


def test_a_model_without_codes_or_of_other_pictures_is_refused(coder_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 8\).*\(3, 8, 8\)"):
        Transformer((3, 8, 8), codes_from=str(coder_path), **SMALL)
    save_model(text_model(), tmp_path / "text.ckpt")
    with pytest.raises(ValueError, match="has no codes"):
        Transformer((1, 8, 8), codes_from=str(tmp_path / "text.ckpt"), **SMALL)
    (tmp_path / "words.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"^codes_from: .*words\.ckpt"):
        Transformer((1, 8, 8), codes_from=str(tmp_path / "words.ckpt"), **SMALL)
