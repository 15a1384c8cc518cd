"""Figures from nearest neighbours: precision and recall, density and coverage; and the rows next to a sample.

Every decision is that of exact distances in float64, at the speed of float32. A matrix product in float32 bounds each
squared distance from below and above, with a proven error; if the bounds leave a decision open, the difference of the
two rows is squared and summed in float64. So equal rows have distance 0, where |x|² + |y|² - 2 x·y leaves the rounding
of |x|². A pair has one distance, in whatever order and block it occurs, and a tie between a distance and a radius is a
tie.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
"""The k of precision and recall, and of density and coverage, as published."""
NEIGHBOURS = 10_000
"""The largest number of real pictures, and of samples, among which neighbours are searched: the work is quadratic."""
BLOCK = 1024
"""Rows multiplied at once. A block of distances is then 4 MiB, and two blocks of 2048 features 16 MiB, whatever the
number of rows; larger ones would not multiply faster, but leave the processor's caches."""
SPARE = 16
"""Candidates kept beyond the k nearest, so that float32's bounds nearly always decide which are nearest."""
_PAIRS = 64
"""Pairs whose distance is summed directly at once: 1 MiB of differences at 2048 features, which stays in the cache."""
_SETTLED = 64
"""One pair in this many may be left open by float32's bounds; with more, float64's bounds cost less than the pairs."""


@dataclass(frozen=True)
class NeighbourFigures:
    """Precision, recall and coverage lie between 0 and 1; density is at least 0, and 1 if the sets are alike."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_distances(rows: np.ndarray, k: int) -> np.ndarray:
    """Distance of each of `rows`, float (N, D), to its nearest, 2nd, … k-th other row: float64 (N, k), ascending.

    Column k - 1 holds the radii of the k-nearest-neighbour balls. Costs N² / 2 distances. ValueError for fewer than
    k + 1 rows, for k < 1, another shape, and rows with NaN or infinity.
    """
    _check_shape(rows, "rows")
    _check_neighbours(len(rows), k, "rows")
    (prepared,) = _prepared({"rows": rows}, "rows")
    return _search(prepared, prepared, k, itself=True)[0]


def nearest(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of `rows`, float (N, D), to each of `queries`, float (M, D): distances and indices.

    Both (M, k), float64 and int64, ascending. Of rows at equal distance the lower index comes first; but if these are
    more than k + SPARE, it is undefined which of them are returned. ValueError for fewer than k rows, for k < 1,
    dimensions that differ, and NaN or infinity.
    """
    _check_shape(queries, "queries")
    _check_shape(rows, "rows")
    _check_dimensions(queries, rows, "queries", "rows")
    if not 1 <= k <= len(rows):
        raise ValueError(f"{len(rows)} rows do not have {k} nearest ones; take k from 1 to the number of rows")
    prepared_queries, prepared_rows = _prepared({"queries": queries, "rows": rows}, "rows")
    return _search(prepared_queries, prepared_rows, k, itself=False)


def neighbour_figures(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    real_distances: np.ndarray | None = None,
    precision_neighbours: int = PRECISION_NEIGHBOURS,
    density_neighbours: int = DENSITY_NEIGHBOURS,
) -> NeighbourFigures:
    """Precision and recall (Kynkäänniemi et al. 2019, eq. 1, 2), density and coverage (Naeem et al. 2020, eq. 4, 5).

    `generated` is float (M, D), `real` (N, D). The ball around each row reaches to its k-th nearest neighbour in its
    own set. Precision: the share of generated rows in any real ball. Recall: of real rows in any generated ball.
    Density: the number of real balls around a generated row, over k. Coverage: the share of real balls with a generated
    row. `real_distances` is `neighbour_distances(real, …)` for the larger k or more; caching it saves a third of the
    work.

    A row exactly on a ball's surface is in it for precision and recall, as in their paper (≤), and is not in it for
    density and coverage, as in their authors' code (<): a copy of the real set then has density 1. The one difference
    from that code is that every ball contains its own centre, even with a radius of 0, as happens if the data repeat a
    row, so that a copy has coverage 1 nevertheless.

    ValueError for fewer rows than k + 1, for k < 1, dimensions that differ, NaN or infinity, and `real_distances` of
    another shape.
    """
    _check_shape(generated, "generated")
    _check_shape(real, "real")
    _check_dimensions(generated, real, "generated", "real")
    most = max(precision_neighbours, density_neighbours)
    _check_neighbours(len(generated), precision_neighbours, "generated rows")
    for k in (precision_neighbours, density_neighbours):
        _check_neighbours(len(real), k, "real rows")
    if real_distances is None:
        real_distances = neighbour_distances(real, most)
    elif real_distances.ndim != 2 or len(real_distances) != len(real) or real_distances.shape[1] < most:
        raise ValueError(f"real_distances: expected ({len(real)}, {most} or more), got {real_distances.shape}")
    dense_radii = real_distances[:, density_neighbours - 1]
    real_radii = real_distances[:, precision_neighbours - 1]
    generated_radii = neighbour_distances(generated, precision_neighbours)[:, -1]

    prepared_generated, prepared_real = _prepared({"generated": generated, "real": real}, "real")
    precise, recalled = np.zeros(len(generated), dtype=bool), np.zeros(len(real), dtype=bool)
    covered, inside_count = np.zeros(len(real), dtype=bool), 0
    for i in _blocks(len(real)):
        for j in _blocks(len(generated)):
            limits = (dense_radii[i, None], real_radii[i, None], generated_radii[None, j])
            inside, open_pairs = _within(prepared_real, prepared_generated, i, j, limits)
            x, y = np.nonzero(open_pairs)
            distances = _distances(prepared_real, prepared_generated, i.start + x, j.start + y)
            dense, in_real, in_generated = inside
            dense[x, y] = (distances < dense_radii[i][x]) | (distances == 0)
            in_real[x, y] = distances <= real_radii[i][x]
            in_generated[x, y] = distances <= generated_radii[j][y]
            precise[j] |= in_real.any(axis=0)
            recalled[i] |= in_generated.any(axis=1)
            covered[i] |= dense.any(axis=1)
            inside_count += int(np.count_nonzero(dense))
    return NeighbourFigures(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=inside_count / (density_neighbours * len(generated)),
        coverage=float(covered.mean()),
    )


# Bounds


@dataclass(frozen=True)
class _Prepared:
    """Rows about a common centre and in a common unit: less cancels, and float32 neither over- nor underflows."""

    rows: np.ndarray
    centre: np.ndarray
    """(D,) float32."""
    unit: float
    """A power of two, at least the largest feature's magnitude."""
    squares: np.ndarray
    """(N,) float64: squared lengths, in squared units, about the centre."""
    same: np.ndarray
    """(N,) int64: for each row, the first equal one; a collapsed model's are all one."""

    def block(self, positions: slice | np.ndarray, dtype: type[np.floating]) -> np.ndarray:
        """The rows at `positions`, about the centre, in units."""
        return _shifted(self.rows[positions], self.centre, self.unit, dtype)


def _shifted(rows: np.ndarray, centre: np.ndarray, unit: float, dtype: type[np.floating]) -> np.ndarray:
    # Centred first, then cast, because float64 rows far from zero would lose their digits.
    values = rows.astype(np.promote_types(rows.dtype, dtype), copy=False) - centre
    return values.astype(dtype, copy=False) * dtype(1 / unit)


def _prepared(sets: dict[str, np.ndarray], centred: str) -> list[_Prepared]:
    """Each of `sets`, about the mean of the one called `centred`. ValueError, naming the set, for NaN or infinity."""
    largest, centre = 0.0, np.zeros(0)
    for name, rows in sets.items():
        total, broken = np.zeros(rows.shape[1]), 0
        for block in _blocks(len(rows)):
            values = rows[block].astype(np.float64)
            finite = np.isfinite(values).all(axis=1)
            broken += int((~finite).sum())
            total += values.sum(axis=0)
            largest = max(largest, float(np.abs(values).max()))
        if broken:
            raise ValueError(f"{name}: {broken} of {len(rows)} rows hold NaN or infinity; look at the samples")
        if name == centred:
            centre = (total / len(rows)).astype(np.float32)
    unit = float(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else 1.0
    prepared = []
    for rows in sets.values():
        squares, same = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
        first: dict[bytes, int] = {}
        for block in _blocks(len(rows)):
            values = rows[block]
            squares[block] = np.square(_shifted(values, centre, unit, np.float64)).sum(axis=1)
            for position, row in zip(range(block.start, block.stop), values, strict=True):
                same[position] = first.setdefault(hashlib.sha256(row.tobytes()).digest(), position)
        prepared.append(_Prepared(rows, centre, unit, squares, same))
    return prepared


def _relative_error(dimension: int, dtype: type[np.floating]) -> float:
    """t such that |x|² + |y|² - 2 x·y, computed in `dtype`, is off by less than t (|x|² + |y|²).

    A sum of D products in any order is off by D u Σ|x y| (Higham 2002, eq. 3.5), and 2 Σ|x y| ≤ |x|² + |y|². The rest,
    centring, scaling, adding and comparing, is at most 12 u (|x|² + |y|²); u is the unit roundoff.
    """
    return (dimension + 16) * float(np.finfo(dtype).eps) / 2


def _lower_bounds(
    x: np.ndarray, y: np.ndarray, x_squares: np.ndarray, y_squares: np.ndarray, error: float
) -> np.ndarray:
    """Of the squared distances of rows x (n, D) and y (m, D), in squared units: (n, m), in the rows' own precision."""
    # NumPy's product, because torch's may be set to multiply in bfloat16, which the bound does not allow for.
    lower = x @ y.T
    lower *= -2
    lower += ((1 - error) * x_squares).astype(x.dtype)[:, None]
    lower += ((1 - error) * y_squares).astype(x.dtype)
    return lower


def _within(
    rows: _Prepared, columns: _Prepared, i: slice, j: slice, limits: tuple[np.ndarray, ...]
) -> tuple[list[np.ndarray], np.ndarray]:
    """For each of `limits`, which pairs are surely nearer; and the pairs that the bounds leave open for any of them."""
    for dtype in (np.float32, np.float64):
        x, y = rows.block(i, dtype), columns.block(j, dtype)
        x_squares, y_squares = rows.squares[i], columns.squares[j]
        error = _relative_error(x.shape[1], dtype)
        lower = _lower_bounds(x, y, x_squares, y_squares, error)
        upper = lower + (2 * error * x_squares).astype(dtype)[:, None]
        upper += (2 * error * y_squares).astype(dtype)
        inside, open_pairs = [], np.zeros(lower.shape, dtype=bool)
        for limit in limits:
            squared = np.square(limit / rows.unit).astype(dtype)
            surely = upper < squared
            inside.append(surely)
            open_pairs |= (lower <= squared) & ~surely
        if np.count_nonzero(open_pairs) * _SETTLED <= open_pairs.size:
            break
    return inside, open_pairs


def _distances(x: _Prepared, y: _Prepared, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Euclidean distances of the rows i of x and j of y, float64, each from the difference itself."""
    pairs, inverse = np.unique(x.same[i] * len(y.rows) + y.same[j], return_inverse=True)
    i, j = np.divmod(pairs, len(y.rows))
    distances = np.empty(len(pairs))
    for start in range(0, len(pairs), _PAIRS):
        part = slice(start, start + _PAIRS)
        difference = x.rows[i[part]].astype(np.float64) - y.rows[j[part]]
        distances[part] = np.square(difference, out=difference).sum(axis=1)
    return np.sqrt(distances)[inverse]


# Search


def _search(queries: _Prepared, rows: _Prepared, k: int, *, itself: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices of the k nearest rows to each query; with `itself`, of the others: queries are the rows."""
    count, others = len(queries.rows), len(rows.rows) - itself
    bounds, candidates = _candidates(queries, rows, min(k + SPARE, others), itself=itself)
    distances, indices = np.empty((count, k)), np.empty((count, k), dtype=np.int64)
    for block in _blocks(count):
        distances[block], indices[block] = _settled(queries, rows, block, bounds[block], candidates[block], k)
    if bounds.shape[1] < others:
        # A row that is no candidate is no nearer than the last one's bound. If that leaves open which are nearest (in a
        # nearly collapsed set), the k-th candidate is still near enough to rule out most of the others.
        unsettled = np.flatnonzero(np.square(distances[:, -1] / rows.unit) > bounds.max(axis=1))
        for block in _blocks(len(unsettled)):
            part = unsettled[block]
            limit = distances[part, -1]
            distances[part], indices[part] = _measured(queries, rows, part, limit, k, itself=itself)
    return distances, indices


def _candidates(queries: _Prepared, rows: _Prepared, kept: int, *, itself: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each query the `kept` rows with the smallest lower bounds in float32, unsorted: bounds and indices."""
    count = len(queries.rows)
    bounds = np.full((count, kept), np.inf, dtype=np.float32)
    indices = np.zeros((count, kept), dtype=np.int64)
    error = _relative_error(rows.rows.shape[1], np.float32)
    for i in _blocks(count):
        x = queries.block(i, np.float32)
        # Distances within one set are symmetric, so half of the blocks serve both their sides.
        for j in _blocks(len(rows.rows)):
            if itself and j.start < i.start:
                continue
            y = rows.block(j, np.float32)
            lower = _lower_bounds(x, y, queries.squares[i], rows.squares[j], error)
            if itself and i == j:
                np.fill_diagonal(lower, np.inf)
            _keep(bounds[i], indices[i], lower, j.start)
            if itself and i != j:
                _keep(bounds[j], indices[j], np.ascontiguousarray(lower.T), i.start)
    return bounds, indices


def _keep(bounds: np.ndarray, indices: np.ndarray, lower: np.ndarray, first: int) -> None:
    """Merges a block's lower bounds (n, m), of rows from `first` on, into the smallest so far (n, kept), in place."""
    kept = bounds.shape[1]
    better = np.flatnonzero(lower < bounds.max(axis=1, keepdims=True))
    if len(better) == 0:
        return
    row, column = np.divmod(better, lower.shape[1])
    if len(better) > bounds.size:
        # The first blocks, where nearly everything is better than before.
        joined = np.concatenate([bounds, lower], axis=1)
        joined_indices = np.concatenate(
            [indices, np.broadcast_to(first + np.arange(lower.shape[1]), lower.shape)], axis=1
        )
        least = np.argpartition(joined, kept - 1, axis=1)[:, :kept]
        bounds[:] = np.take_along_axis(joined, least, axis=1)
        indices[:] = np.take_along_axis(joined_indices, least, axis=1)
        return
    joined_rows = np.concatenate([np.repeat(np.arange(len(bounds)), kept), row])
    joined = np.concatenate([bounds.ravel(), lower[row, column]])
    joined_indices = np.concatenate([indices.ravel(), first + column])
    order = np.lexsort((joined, joined_rows))
    # Every row has at least `kept` entries; take that many from its start.
    starts = np.searchsorted(joined_rows[order], np.arange(len(bounds)))
    least = order[starts[:, None] + np.arange(kept)]
    bounds[:], indices[:] = joined[least], joined_indices[least]


def _settled(
    queries: _Prepared, rows: _Prepared, block: slice, bounds: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Exact distances and indices of the k nearest among the candidates (n, kept) of a block of queries, ascending."""
    error = _relative_error(rows.rows.shape[1], np.float32)
    upper = bounds + 2 * error * (queries.squares[block][:, None] + rows.squares[candidates])
    row, column = np.nonzero(bounds <= np.partition(upper, k - 1, axis=1)[:, k - 1 : k])
    distances = np.full(bounds.shape, np.inf)
    distances[row, column] = _distances(queries, rows, block.start + row, candidates[row, column])
    return _least(distances, candidates, k)


def _measured(
    queries: _Prepared, rows: _Prepared, part: np.ndarray, limit: np.ndarray, k: int, *, itself: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Exact distances and indices of the k rows nearest to the queries `part`, all of which are within `limit` (n,).

    It computes every distance that float64's bounds do not rule out.
    """
    distances, indices = np.full((len(part), k), np.inf), np.zeros((len(part), k), dtype=np.int64)
    error = _relative_error(rows.rows.shape[1], np.float64)
    squared_limit = np.square(limit / rows.unit)[:, None]
    x = queries.block(part, np.float64)
    for j in _blocks(len(rows.rows)):
        lower = _lower_bounds(x, rows.block(j, np.float64), queries.squares[part], rows.squares[j], error)
        near = lower <= squared_limit
        if itself:
            near &= part[:, None] != np.arange(j.start, j.stop)
        row, column = np.nonzero(near)
        exact = np.full(lower.shape, np.inf)
        exact[row, column] = _distances(queries, rows, part[row], j.start + column)
        _keep(distances, indices, exact, j.start)
    return _least(distances, indices, k)


def _least(distances: np.ndarray, indices: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row of distances, ascending, and their indices, the lower first of equals."""
    order = np.lexsort((indices, distances))[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


# Checks


def _check_shape(rows: np.ndarray, name: str) -> None:
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{name}: expected shape (N, D), neither 0, got {rows.shape}")


def _check_dimensions(a: np.ndarray, b: np.ndarray, name_a: str, name_b: str) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{name_a} of dimension {a.shape[1]} and {name_b} of {b.shape[1]}: not of the same extractor")


def _check_neighbours(count: int, k: int, name: str) -> None:
    if k < 1:
        raise ValueError(f"nearest neighbours are counted from 1, not {k}")
    if count < k + 1:
        raise ValueError(f"{count} {name} have no neighbour number {k}; take at least {k + 1}")
