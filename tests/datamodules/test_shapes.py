"""Shapes: the drawing, and the classifier that undoes it."""

import pytest
import torch

from datamodules.shapes import AREA, MODES, SHAPES, Shapes, coverage, modes_of


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_has_the_area_and_centroid_of_the_formula(shape: str) -> None:
    centres, radii = torch.tensor([[60.3, 70.8], [64.0, 64.0]]), torch.tensor([40.0, 33.3])
    covered = coverage(shape, centres, radii, 128)
    assert covered.min() >= 0
    assert covered.max() <= 1
    torch.testing.assert_close(covered.sum((1, 2)), AREA[shape] * radii**2, rtol=2e-3, atol=0)
    pixels = torch.arange(128) + 0.5
    centroid = torch.stack([(covered.sum(dim) * pixels).sum(1) / covered.sum((1, 2)) for dim in (1, 2)], 1)
    torch.testing.assert_close(centroid, centres, rtol=0, atol=0.05)


@pytest.mark.parametrize("resolution", [16, 17, 24, 32, 64])
def test_the_classifier_is_always_right_on_clean_pictures(resolution: int) -> None:
    pictures = Shapes(resolution, train_size=1600, test_size=1).dataset("train")
    images, labels = pictures[torch.arange(1600)]
    assert images.shape == (1600, resolution, resolution, 3)
    assert images.dtype == torch.uint8
    assert torch.equal(modes_of(images), labels)


def test_the_classifier_bears_noise_and_rejects_what_shows_nothing() -> None:
    images, labels = Shapes(32, train_size=320).dataset("train")[torch.arange(320)]
    noisy = (images + 8 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    assert (modes_of(noisy.to(torch.uint8)) == labels).float().mean() > 0.99
    blank = torch.full((1, 32, 32, 3), 30, dtype=torch.uint8)
    noise = torch.randint(256, (7, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert modes_of(torch.cat([blank, noise])).tolist() == [-1] * 8
    assert modes_of(images[:0]).shape == (0,)


def test_modes_are_equally_frequent_and_named() -> None:
    data = Shapes(16, train_size=1600, test_size=160)
    assert data.num_classes == 16
    assert data.class_names == MODES
    assert data.class_names[0] == "red circle"
    for split in ("train", "test"):
        _, y = data.examples(split, range(data.size(split)))
        assert torch.bincount(y).tolist() == [data.size(split) // 16] * 16


def test_pictures_are_the_same_for_every_seed_and_any_number_of_them() -> None:
    few, many = Shapes(16, train_size=20, seed=1), Shapes(16, train_size=700, seed=2)
    assert torch.equal(few.examples("train", range(20))[0], many.examples("train", range(20))[0])
    test = Shapes(16, test_size=20).examples("test", range(20))[0]
    assert not torch.equal(few.examples("train", range(20))[0], test)


def test_the_outermost_pixels_are_background() -> None:
    images, _ = Shapes(16, train_size=800).dataset("train")[torch.arange(800)]
    for ring in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        assert torch.equal(ring, images[:, :1, 0].expand_as(ring))


def test_the_fingerprint_is_of_sizes_and_resolution() -> None:
    def fingerprint(data: Shapes) -> str:
        data.setup("validate")
        return data.fingerprint

    same = fingerprint(Shapes(16))
    assert fingerprint(Shapes(16, batch_size=3, seed=4, num_workers=1)) == same
    others = {fingerprint(data) for data in (Shapes(32), Shapes(16, train_size=5), Shapes(16, test_size=5))}
    assert len(others | {same}) == 4


@pytest.mark.parametrize(
    ("settings", "line"),
    [({"resolution": 15}, "resolution: must be at least 16"), ({"train_size": 0}, "train_size: must be at least 1")],
)
def test_settings_out_of_range_are_named(settings: dict[str, int], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Shapes(**settings)
