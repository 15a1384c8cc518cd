"""Compiled functions: when they compile, and what happens where that fails."""

import logging
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.parts import compiling
from models.parts.compiling import Compiled, Ops
from models.stylegan2 import StyleGAN2


def double(x: Tensor) -> Tensor:
    return 2 * x


@pytest.fixture(autouse=True)
def not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_logged", False)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(function: Callable[..., Tensor], **settings: Any) -> Callable[..., Tensor]:  # noqa: ANN401
        def fail(*inputs: Tensor) -> Tensor:
            raise RuntimeError("no compiler found\nand many more lines")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)


def on_a_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Tensors say that they are there."""
    monkeypatch.setattr(Tensor, "device", property(lambda _: torch.device(name)))


@pytest.mark.parametrize(("ops", "device", "compiles"), [
    ("reference", "cuda", False), ("auto", "cpu", False), ("auto", "cuda", True), ("compiled", "cpu", True),
])  # fmt: skip
def test_what_is_compiled(ops: Ops, device: str, compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compile_(function: Callable[..., Tensor], **settings: Any) -> Callable[..., Tensor]:  # noqa: ANN401
        seen.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    x, function = torch.ones(3), Compiled(double, ops)
    assert not seen  # nothing is compiled before the first call
    on_a_device(monkeypatch, device)
    values = [function(x) for _ in range(2)]
    monkeypatch.undo()
    assert seen == [double] * compiles
    assert all(torch.equal(value, torch.full((3,), 2.0)) for value in values)


def test_auto_goes_on_without_a_compiler_and_says_so_once(
    no_compiler: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_device(monkeypatch, "cuda")
    functions = [Compiled(double, "auto") for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        values = [function(torch.ones(2)) for function in functions for _ in range(2)]
    assert [float(value.sum()) for value in values] == [4.0] * 4
    assert [record.getMessage() for record in caplog.records if record.name.startswith("models.")] == [
        "torch.compile failed; ops: auto continues without it: RuntimeError: no compiler found"
    ]


def test_compiled_refuses_where_compiling_fails_and_a_functions_own_fault_is_its_own(
    no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="ops: compiled fails here, set auto or reference: RuntimeError: no compiler"):
        Compiled(double, "compiled")(torch.ones(2))
    with pytest.raises(ValueError, match="ops must be auto, reference or compiled, not 'fast'"):
        Compiled(double, "fast")  # type: ignore[arg-type]

    def wrong(x: Tensor) -> Tensor:
        raise KeyError("of the function")

    on_a_device(monkeypatch, "cuda")
    function = Compiled(wrong, "auto")
    with pytest.raises(KeyError, match="of the function"):
        function(torch.ones(2))
    assert function.ops == "auto"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_give_the_pictures_logits_and_gradients_of_the_reference() -> None:
    torch.manual_seed(0)
    small = {"channel_base": 64, "channel_max": 8, "latent_dim": 6, "w_dim": 5, "mapping_layers": 2}
    model = StyleGAN2((3, 16, 16), 0, minibatch_group=2, ops="compiled", **small)
    labels = torch.zeros(4, dtype=torch.int64)
    ws = model.generator.ws(torch.randn(4, 6), labels).detach()  # new weights give no noise
    found = []
    for synthesize, judge in (
        (model.generator.synthesis, model.discriminator),
        (model._synthesize, model.discriminate),
    ):
        model.zero_grad()
        pictures = synthesize(ws)
        logits = judge(pictures, labels)
        logits.sum().backward()
        # What the noise gives depends on its draws, which are other ones in compiled code.
        named = [pair for pair in model.named_parameters() if not pair[0].endswith("noise_strength")]
        gradients = [p.grad.clone() for _, p in named if p.grad is not None]
        found.append([pictures.detach(), logits.detach(), *gradients])
    reference, compiled = found
    for mine, theirs in zip(compiled, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
