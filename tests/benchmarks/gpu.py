"""Measures StyleGAN2 on one GPU: s/kimg and peak memory by model, precision and ops, checked against float32.

    python tests/benchmarks/gpu.py [--minutes 7.5] [--models cifar10 paper256 ffhq1024]

It needs torch, lightning and this checkout, but no data and no network. The models are those of
configs/stylegan2_<model>.yaml, with the batch that one of the authors' devices had. Before training, pictures and
logits for the same weights, latents and noise are compared with float32 and the reference ops. Cases for which no time
is left are listed. `--device cpu` tries the program itself, and `--batch` and `--steps` make it small.
"""

import argparse
import itertools
import logging
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from phases import Clock, SameBatch

from models.stylegan2 import StyleGAN2
from models.training.base import Batch
from settings.configurable import build

CHECKOUT = Path(__file__).resolve().parents[2]
DEVICES_OF_AUTHORS = {"cifar10": 2, "paper256": 8, "ffhq1024": 8}
"""The devices that share a batch in stylegan2-ada-pytorch's presets."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 0.1, "16-mixed": 0.03}
"""Largest relative error, in norm, of pictures and logits: bf16 keeps 8 binary digits per layer, fp16 11."""
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """What one line of the table measures."""

    model: str
    precision: str
    ops: str


@dataclass(frozen=True)
class Result:
    """The measurements of a case.

    Attributes:
        s_per_kimg: seconds per thousand samples, including the lazy penalties' share.
        phases: the same by phase; the device is synchronised at both ends of each.
        peak_gib: peak memory of tensors; 0 if the device does not report it.
        errors: relative errors of pictures and logits.
        first_s: seconds of the first steps, including compilation.
    """

    s_per_kimg: float
    phases: dict[str, float]
    peak_gib: float
    errors: tuple[float, float]
    first_s: float


class Timed(lightning.Callback):
    """Times one period of steps, then another one by phase, then stops the fit."""

    def __init__(self, clock: Clock, warm_up: int, steps: int) -> None:
        self.clock, self.warm_up, self.steps = clock, warm_up, steps
        self.start = clock.now()
        self.first = self.seconds = 0.0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, StyleGAN2)
        done = batch_idx + 1
        if done == self.warm_up:
            self.first = self.clock.now() - self.start
            if self.clock.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.clock.device)
            self.start = self.clock.now()
        elif done == self.warm_up + self.steps:
            self.seconds = self.clock.now() - self.start
            pl_module.phase_observers.append(self.clock)
        elif done == self.warm_up + 2 * self.steps:
            trainer.should_stop = True


def make(name: str, ops: str) -> tuple[StyleGAN2, int]:
    """The model of a config, and the batch size of one of the authors' devices."""
    config = yaml.safe_load((CHECKOUT / "configs" / f"stylegan2_{name}.yaml").read_text())
    section, data = config["model"], config["data"]["init_args"]
    side = data["resolution"]
    arguments = section["init_args"]
    adversarial = {"class_path": "models.training.gan.AdversarialTraining", "init_args": arguments.pop("adversarial")}
    shapes = {"data_shape": [3, side, side], "num_classes": 0, "ops": ops, "adversarial": adversarial}
    torch.manual_seed(0)
    model: StyleGAN2 = build({"class_path": section["class_path"], "init_args": arguments | shapes})
    return model, data["batch_size"] // DEVICES_OF_AUTHORS[name]


def random_batch(model: StyleGAN2, size: int, device: torch.device) -> Batch:
    """Noise in [-1, 1]."""
    x = torch.rand(size, *model.data_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = x.contiguous(memory_format=torch.channels_last)
    return x.to(device), torch.zeros(size, dtype=torch.int64, device=device)


@torch.no_grad()
def outputs(model: StyleGAN2, batch: Batch, precision: str, compiled: bool) -> tuple[Tensor, Tensor]:
    """Pictures and logits for a few fixed inputs, in float32 on the CPU."""
    x, labels = (part[:4] for part in batch)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    z = torch.randn(len(x), model.latent_dim, generator=torch.Generator().manual_seed(2)).to(x.device)
    ws = model.generator.ws(z, labels)
    # New weights scale the noise by zero, so random noise changes nothing.
    synthesize, judge = (
        (model._synthesize, model.discriminate) if compiled else (model.generator.synthesis, model.discriminator)
    )
    with torch.autocast(x.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        pictures, logits = synthesize(ws), judge(x, labels)
    return pictures.float().cpu(), logits.float().cpu()


def error(value: Tensor, expected: Tensor) -> float:
    """|value - expected| / |expected|, in norm."""
    return float((value - expected).norm() / expected.norm())


def measure(case: Case, device: torch.device, batch_size: int | None, steps: int | None) -> Result:
    """Compares with float32, then trains.

    Raises:
        torch.OutOfMemoryError, models.training.base.OutOfMemoryInPhaseError: memory ran out.
    """
    torch._dynamo.reset()
    clock = Clock(device)
    model, own = make(case.model, case.ops)
    model.to(device)
    batch = random_batch(model, batch_size or own, device)
    compiled, reference = outputs(model, batch, case.precision, True), outputs(model, batch, "32-true", False)
    errors = error(compiled[0], reference[0]), error(compiled[1], reference[1])
    period = steps or len(model.work_cycle())
    timed = Timed(clock, min(3, period), period)
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=1,
        precision=case.precision,  # type: ignore[arg-type]
        max_steps=10**9,
        logger=False,
        callbacks=[timed],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(SameBatch(batch), batch_size=None))
    kimg = period * len(batch[0]) / 1000
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else 0.0
    phases = {name: seconds / kimg for name, seconds in clock.read().items()}
    return Result(timed.seconds / kimg, phases, peak, errors, timed.first)


def main() -> int:
    """Measures until the time is up, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=DEVICES_OF_AUTHORS, default=list(DEVICES_OF_AUTHORS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--ops", nargs="+", choices=("reference", "compiled"), default=["reference", "compiled"])
    parser.add_argument("--minutes", type=float, default=7.5, help="no case begins after this (7.5)")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the program (cuda)")
    parser.add_argument("--batch", type=int, help="samples per step, instead of the authors' batch on one device")
    parser.add_argument("--steps", type=int, help="steps to time, instead of one period of the lazy penalties")
    arguments = parser.parse_args()
    began, device = time.monotonic(), torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu tries the program", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, lightning {lightning.__version__}\n")
    head = f"{'model':<10}{'precision':<12}{'ops':<11}{'s/kimg':>8}{'peak GiB':>10}{'error G':>10}{'error D':>10}"
    print(f"{head}{'first s':>9}  s/kimg by phase")
    bad, left = 0, []
    # Compiled ops come last: they take the longest, and matter least if time runs out.
    for ops, model, precision in itertools.product(arguments.ops, arguments.models, arguments.precisions):
        case = Case(model, precision, ops)
        label = f"{model:<10}{precision:<12}{ops:<11}"
        if time.monotonic() - began > 60 * arguments.minutes:
            left.append(" ".join((model, precision, ops)))
            continue
        try:
            result = measure(case, device, arguments.batch, arguments.steps)
        except (RuntimeError, ValueError) as failure:  # out of memory, or the compiler failed: continue with the others
            bad += 1
            print(f"{label}  failed: {' '.join(str(failure).split())[:150]}", flush=True)
            continue
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        wrong = max(result.errors) > TOLERANCE[precision]
        bad += wrong
        numbers = f"{result.s_per_kimg:>8.2f}{result.peak_gib:>10.2f}{result.errors[0]:>10.1e}{result.errors[1]:>10.1e}"
        phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in result.phases.items())
        mark = f"  beyond {TOLERANCE[precision]}" if wrong else ""
        print(f"{label}{numbers}{result.first_s:>9.1f}  {phases}{mark}", flush=True)
    if left:
        print(f"\nno time left for: {', '.join(left)}")
    print(f"\n{(time.monotonic() - began) / 60:.1f} min")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
