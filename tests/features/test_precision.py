from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from features.precision import exact_arithmetic

CPU = torch.device("cpu")


@pytest.fixture
def coarse() -> Iterator[list[str]]:
    """Every setting at its coarsest, as a trainer may leave them."""
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.conv.fp32_precision
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield settings()
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.conv.fp32_precision = convolutions


def settings() -> list[str]:
    backends = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [place.fp32_precision for place in places]


def product() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 512, generator=generator) @ torch.randn(512, 64, generator=generator)


def test_everything_is_float32_inside_and_as_before_outside(coarse: list[str]) -> None:
    assert "tf32" in coarse
    with torch.autocast("cpu", torch.bfloat16):
        with exact_arithmetic(CPU):
            assert settings() == ["ieee"] * 4
            assert product().dtype == torch.float32
            assert not torch.is_grad_enabled()
        assert product().dtype == torch.bfloat16
    assert settings() == coarse
    assert torch.is_grad_enabled()


def test_settings_come_back_after_an_error(coarse: list[str]) -> None:
    with pytest.raises(RuntimeError, match="on the way"), exact_arithmetic(CPU):
        raise RuntimeError("on the way")
    assert settings() == coarse
    assert torch.is_grad_enabled()
