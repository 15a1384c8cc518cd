"""Codes and their gradients, in float64; averages against values computed by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.parts.quantizers import Codebook, EMACodebook, FiniteScalar, perplexity


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alone(x: Tensor) -> Tensor:
    """The sum over a single rank."""
    return x


def codebook(vectors: list[list[float]], **settings: float) -> Codebook:
    """In float64, with these vectors, each of which stood for one vector a step."""
    made = EMACodebook(len(vectors), len(vectors[0]), **{"revive_below": 0.0, **settings}).module().double()
    made.vectors.copy_(torch.tensor(vectors))
    made.sums.copy_(made.vectors)
    return made


def grid(rows: list[list[float]]) -> Tensor:
    """Vectors, one a row, as one picture (1, dim, 1, places)."""
    return torch.tensor(rows, dtype=torch.float64).T[None, :, None, :]


# The codebook.


def test_each_vector_gets_the_nearest_code() -> None:
    made = EMACodebook(7, 4).module().double()
    z = drawn(2, 4, 3, 5)
    found = made(z)
    distances = (z.movedim(1, -1)[..., None, :] - made.vectors).square().sum(-1)
    assert torch.equal(found.codes, distances.argmin(-1))
    assert torch.equal(found.values, made.values_of(found.codes))
    assert torch.equal(found.values.movedim(1, -1), made.vectors[found.codes])


def test_the_commitment_is_the_weighted_mean_square_and_moves_the_encoder_only() -> None:
    made = codebook([[0.0, 0.0], [3.0, 4.0]], commitment=0.25)
    z = grid([[1.0, 0.0], [3.0, 2.0]]).requires_grad_()
    found = made(z)
    assert found.codes.flatten().tolist() == [0, 1]
    assert found.loss.tolist() == [0.25 * (1 + 0 + 0 + 4) / 4]
    (gradient,) = torch.autograd.grad(found.loss.sum(), z)
    torch.testing.assert_close(gradient, 0.25 * 2 * grid([[1.0, 0.0], [0.0, -2.0]]) / 4)


@pytest.mark.parametrize("quantizer", [EMACodebook(6, 3), FiniteScalar([5, 4, 3])], ids=["codebook", "scalar"])
def test_the_gradient_passes_straight_through(quantizer: EMACodebook | FiniteScalar) -> None:
    """The gradient by what was quantized is the decoder's at the quantized values."""
    made = quantizer.module().double()
    z, weights = drawn(2, 3, 2, 2).requires_grad_(), drawn(2, 3, 2, 2, seed=1)

    def decoder(values: Tensor) -> Tensor:
        return (weights * values.sin()).sum()

    found = made(z)
    (mine,) = torch.autograd.grad(decoder(found.values), z)
    values = found.values.detach().requires_grad_()
    (theirs,) = torch.autograd.grad(decoder(values), values)
    if isinstance(quantizer, FiniteScalar):  # which rounds what a tanh has bounded: that has a gradient of its own
        bounded = made._bounded(z) / made._half
        (theirs,) = torch.autograd.grad(bounded, z, theirs)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert (mine != 0).all()


def test_averages_move_as_computed_by_hand() -> None:
    """Two places choose code 0, one code 1: with decay 0.9, N = 0.9 + 0.1 n and m = 0.9 e + 0.1 sum z."""
    made = codebook([[0.0, 0.0], [10.0, 10.0]], decay=0.9, epsilon=1e-12)
    z = grid([[1.0, 0.0], [0.0, 2.0], [8.0, 10.0]])
    made.note(z, made(z).codes)
    made.update(alone, 0, 1)
    torch.testing.assert_close(made.counts, torch.tensor([1.1, 1.0], dtype=torch.float64))
    torch.testing.assert_close(made.sums, torch.tensor([[0.1, 0.2], [9.8, 10.0]], dtype=torch.float64))
    vectors = torch.tensor([[0.1 / 1.1, 0.2 / 1.1], [9.8, 10.0]], dtype=torch.float64)
    torch.testing.assert_close(made.vectors, vectors, rtol=1e-10, atol=1e-10)


def test_laplaces_smoothing_by_hand() -> None:
    """Counts 1.1 and 1.0, epsilon 0.5: smoothed (n + 0.5) / (2.1 + 2 x 0.5) x 2.1."""
    made = codebook([[0.0, 0.0], [10.0, 10.0]], decay=0.9, epsilon=0.5)
    z = grid([[1.0, 0.0], [0.0, 2.0], [8.0, 10.0]])
    made.note(z, made(z).codes)
    made.update(alone, 0, 1)
    smoothed = torch.tensor([1.6, 1.5], dtype=torch.float64) / 3.1 * 2.1
    torch.testing.assert_close(made.vectors, made.sums / smoothed[:, None])


def test_micro_batches_update_as_their_joint_batch() -> None:
    z, books = drawn(4, 3, 2, 2), []
    for parts in (1, 2):
        made = codebook(drawn(5, 3, seed=3).tolist())
        for part in z.chunk(parts):
            made.note(part, made(part).codes)
        made.update(alone, 0, 1)
        books.append(made)
    torch.testing.assert_close(books[0].vectors, books[1].vectors, rtol=1e-12, atol=1e-12)


def test_two_ranks_update_as_one_process_on_the_joint_batch() -> None:
    """Their sums are exchanged by hand: the first pass records, the second adds what the other recorded."""
    z, start = drawn(4, 3, 2, 2), drawn(5, 3, seed=3).tolist()
    joint = codebook(start)
    joint.note(z, joint(z).codes)
    joint.update(alone, 0, 1)
    sent: list[list[Tensor]] = []
    for part in z.chunk(2):
        rank = codebook(start)
        rank.note(part, rank(part).codes)
        mine: list[Tensor] = []
        rank.update(recording(mine), len(sent), 2)
        sent.append(mine)
    sums = iter([a + b for a, b in zip(*sent, strict=True)])
    rank = codebook(start)
    rank.note(z[:2], rank(z[:2]).codes)
    rank.update(lambda x: next(sums), 0, 2)
    torch.testing.assert_close(rank.vectors, joint.vectors, rtol=1e-12, atol=1e-12)


def recording(into: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def total(x: Tensor) -> Tensor:
        into.append(x.clone())
        return x

    return total


def test_a_dead_code_is_put_where_a_vector_is_and_others_stay() -> None:
    """The third code is far from everything: 0.9 of one vector a step is below 0.95."""
    start = [[0.0, 0.0], [10.0, 10.0], [99.0, 99.0]]
    z = grid([[1.0, 0.0], [0.0, 2.0], [8.0, 10.0], [9.0, 10.0]])
    kept, revived = (codebook(start, decay=0.9, revive_below=limit) for limit in (0.0, 0.95))
    for made in (kept, revived):
        made.note(z, made(z).codes)
        torch.manual_seed(0)
        made.update(alone, 0, 1)
    torch.testing.assert_close(revived.vectors[:2], kept.vectors[:2])
    torch.testing.assert_close(revived.counts, torch.tensor([1.1, 1.1, 0.95], dtype=torch.float64))
    rows = z[0, :, 0].T
    assert (kept.vectors[2] - rows).abs().min() > 50
    assert (revived.vectors[2] == rows).all(1).any()
    torch.testing.assert_close(revived.sums[2], 0.95 * revived.vectors[2])


def test_ranks_revive_dead_codes_alike() -> None:
    """Rank 0 proposes vectors for codes 0, 2, ..., rank 1 for the others; the sum of both is what all take."""
    start, sent = [[99.0 + i, 99.0] for i in range(5)], []
    parts = [drawn(1, 2, 3, 3, seed=rank) for rank in range(2)]
    for rank, part in enumerate(parts):
        made = codebook(start, decay=0.0, revive_below=20.0)  # more than there are places: all codes are dead
        made.note(part, made(part).codes)
        torch.manual_seed(rank)
        mine: list[Tensor] = []
        made.update(recording(mine), rank, 2)
        sent.append(mine)
    of_first, of_second = sent[0][-1], sent[1][-1]
    assert ((of_first != 0).any(1).long() + (of_second != 0).any(1).long() == 1).all()
    totals, books = [a + b for a, b in zip(*sent, strict=True)], []
    for rank, part in enumerate(parts):
        made = codebook(start, decay=0.0, revive_below=20.0)
        made.note(part, made(part).codes)
        torch.manual_seed(rank)
        given = iter(totals)
        made.update(lambda x, given=given: next(given), rank, 2)  # type: ignore[misc]
        books.append(made)
    assert torch.equal(books[0].vectors, books[1].vectors)
    everything = torch.cat([part[0].flatten(1).T for part in parts])
    assert all((vector == everything).all(1).any() for vector in books[0].vectors)


def test_it_starts_from_the_first_batchs_vectors() -> None:
    made, z = EMACodebook(6, 3).module().double(), drawn(2, 3, 2, 4)
    torch.manual_seed(0)
    made.initialize(z)
    rows = z.movedim(1, -1).flatten(0, 2)
    chosen = [int((vector == rows).all(1).nonzero()) for vector in made.vectors]
    assert len(set(chosen)) == 6
    torch.testing.assert_close(made.sums / made.counts[:, None], made.vectors)
    few = EMACodebook(40, 3).module().double()
    few.initialize(z)  # fewer vectors than codes
    assert all((vector == rows).all(1).any() for vector in few.vectors)


def test_under_autocast_distances_and_averages_stay_float32() -> None:
    made = EMACodebook(50, 8).module()
    z = drawn(4, 8, 5, 5).float()
    expected = made(z).codes
    with torch.autocast("cpu", torch.bfloat16):
        found = made(z)
        made.note(z.bfloat16(), found.codes)
        made.update(alone, 0, 1)
    assert torch.equal(found.codes, expected)
    assert found.values.dtype == found.loss.dtype == made.vectors.dtype == made.sums.dtype == torch.float32


# The grid.


@pytest.mark.parametrize("levels", [[8, 5, 5], [2, 3], [7], [4, 6, 2]])
def test_codes_and_values_of_the_grid_are_one_to_one(levels: list[int]) -> None:
    made = FiniteScalar(levels).module().double()
    codes = torch.arange(made.num_codes).view(1, 1, -1)
    values = made.values_of(codes)
    assert values.shape == (1, len(levels), 1, made.num_codes)
    assert len({tuple(column.tolist()) for column in values[0, :, 0].T}) == made.num_codes
    for axis, count in enumerate(levels):
        expected = (torch.arange(count) - count // 2) / (count // 2)
        torch.testing.assert_close(values[0, axis].unique(), expected, check_dtype=False)


@pytest.mark.parametrize("levels", [[8, 5, 5], [2, 3], [7], [4, 6, 2]])
def test_every_code_of_the_grid_is_reached_and_means_its_values(levels: list[int]) -> None:
    made = FiniteScalar(levels).module().double()
    z = torch.cartesian_prod(*[torch.linspace(-6, 6, 61, dtype=torch.float64)] * len(levels))
    z = z.view(-1, len(levels)).T[None, :, None, :]
    found = made(z)
    assert found.codes.unique().tolist() == list(range(made.num_codes))
    torch.testing.assert_close(made.values_of(found.codes), found.values, check_dtype=False, rtol=1e-6, atol=1e-6)
    assert found.values.abs().max() <= 1
    assert found.loss.tolist() == [0.0]


def test_the_grid_rounds_to_the_nearest_level() -> None:
    """Of 5 levels: -2 to 2, bounded by 1.998 tanh(z)."""
    made = FiniteScalar([5]).module().double()
    z = grid([[-9.0], [-0.9], [-0.2], [0.0], [0.3], [9.0]])
    expected = torch.round(1.998 * torch.tanh(z)) / 2
    torch.testing.assert_close(made(z).values, expected)
    assert made(z).codes.flatten().tolist() == [0, 1, 2, 2, 3, 4]


def test_an_even_number_of_levels_has_zero_among_them() -> None:
    made = FiniteScalar([8]).module().double()
    assert made(torch.zeros(1, 1, 1, 1, dtype=torch.float64)).values.item() == 0


# What is reported, and refused.


def test_perplexity_of_known_shares() -> None:
    assert perplexity(torch.tensor([3.0, 3.0, 3.0, 0.0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([5.0, 0.0])).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"codes": 1}, "codes"), ({"decay": 1.0}, "decay"), ({"commitment": -1.0}, "commitment"), ({"dim": 0}, "dim")],
)
def test_a_codebooks_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMACodebook(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [[], [5, 1]])
def test_a_grids_bad_levels_are_named(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="levels"):
        FiniteScalar(levels)
