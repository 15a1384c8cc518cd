"""Directions in a latent space that change pictures: SeFa and GANSpace."""

import torch
from torch import Tensor


def factorized(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions that a linear map stretches most: SeFa (Shen & Zhou 2021, arXiv:2007.06600, eq. 5-7).

    They maximise |A n| over unit n, with A the weights (outputs, D), of several layers stacked: the eigenvectors of
    A^T A with the largest eigenvalues. The result is unit directions (count, D), and |A n|² of each, descending;
    float64. ValueError if there are fewer than `count`.
    """
    a = weights.double()
    return _leading(a.T @ a, count)


def principal(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The principal components of points (N, D): GANSpace (Härkönen et al. 2020, arXiv:2004.02546, section 2.1).

    The result is unit directions (count, D), and the points' variance along each, descending; float64. ValueError if
    there are fewer components than `count`, or fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(f"principal components need at least 2 points, not {len(points)}")
    centred = points.double() - points.double().mean(0)
    return _leading(centred.T @ centred / (len(points) - 1), count)


def deviations(points: Tensor, directions: Tensor) -> Tensor:
    """Standard deviation of points (N, D) along unit directions (K, D), float64 (K,): the unit in which edits count."""
    return (points.double() @ directions.double().T).std(0)


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors, as rows, and eigenvalues of a symmetric matrix, largest first.

    The sign of an eigenvector is arbitrary; its largest component is made positive, on every machine.
    """
    if not 1 <= count <= len(matrix):
        raise ValueError(f"{count} directions were requested; this space has 1 to {len(matrix)}")
    values, vectors = torch.linalg.eigh(matrix.cpu())
    rows = vectors.T.flip(0)[:count]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign(), values.flip(0)[:count].clamp_min(0)
