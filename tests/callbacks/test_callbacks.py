"""Callbacks one by one: what they measure, against what is known."""

import itertools
import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.budget import Budget
from callbacks.checkpoints import CheckpointError, Checkpoints, WholeCheckpointIO, link, newest_whole
from callbacks.diagnosis import Diagnosis
from callbacks.guard import Guard, NonFiniteError, require_finite_weights
from callbacks.hardware import hardware, has_bf16_units, versions
from callbacks.intervals import AtIntervals
from callbacks.memory import PeakMeter, bytes_kept, count_saved_tensors
from callbacks.plan import Trial, random_batch, trial_steps
from callbacks.predictions import SampleIndices
from callbacks.run import MetricsFile, Run, run_of
from callbacks.sample_grid import sample_grid
from callbacks.stops import Stops
from callbacks.throughput import Throughput
from callbacks.wandb_run import has_wandb_key
from commands.options.command_line import quietly
from metrics.sample_statistics import share_of
from models.dcgan import DCGAN
from models.parts.regularizers import R1
from settings.training import AdversarialTraining


@pytest.fixture
def model() -> DCGAN:
    return DCGAN((1, 16, 16), num_classes=3, width=4, latent_dim=5, conditional=True)


def fitted(model: DCGAN, *callbacks: lightning.Callback, batches: int = 1, **settings: Any) -> lightning.Trainer:  # noqa: ANN401
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=batches, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks), **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    with quietly():
        trainer.fit(model, DataLoader([random_batch(model, 4)] * batches, batch_size=None))
    return trainer


# Intervals.


def trainer_with(*callbacks: lightning.Callback) -> Any:  # noqa: ANN401 - all of a trainer that intervals look at
    return SimpleNamespace(callbacks=callbacks)


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_an_interval_passes_as_often_whatever_the_batch_size(batch: int) -> None:
    callback, trainer = AtIntervals(every_kimg=0.1), trainer_with()
    due = [seen for seen in range(batch, 2101, batch) if callback.due(trainer, seen)]
    assert len(due) == len(range(batch, 2101, batch)) if batch >= 100 else len(due) == 2100 // batch * batch // 100
    assert all(seen % 100 < batch for seen in due)


def test_an_interval_that_starts_late_owes_nothing_for_what_went_before(model: DCGAN) -> None:
    callback, trainer = AtIntervals(every_kimg=0.1), trainer_with()
    model.samples_seen = 1050
    callback.on_train_start(trainer, model)
    assert not callback.due(trainer, 1090)
    assert callback.due(trainer, 1100)


@pytest.mark.parametrize(
    ("callback", "samples"), [(AtIntervals(), 3000), (Diagnosis(), math.inf), (Checkpoints(), math.inf)]
)
def test_without_an_interval_it_is_a_tenth_of_the_budget_or_never(callback: AtIntervals, samples: float) -> None:
    assert callback.interval(trainer_with(Budget(kimg=30))) == samples
    assert callback.interval(trainer_with()) == (50_000 if samples == 3000 else samples)
    with pytest.raises(ValueError, match="every_kimg must be positive, not 0"):
        type(callback)(every_kimg=0)


# The run's files.


def test_metrics_beyond_the_checkpoint_and_lines_cut_short_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"samples_seen": seen, "x": 1.0}) for seen in (10, 20, 30)]
    path.write_text("\n".join([*rows, '{"samples_seen": 1']))
    file = MetricsFile(path, samples_seen=20)
    file.log_metrics({"x": 2.0}, step=25)
    assert [json.loads(line)["samples_seen"] for line in path.read_text().splitlines()] == [10, 20, 25]


def test_run_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(root=str(tmp_path))
    run.folder = tmp_path
    run.record.status = "running"
    run.record.write(tmp_path / "run.json")
    run.record.status = "done"
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.record.write(tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_callbacks_that_log_ask_for_a_run(model: DCGAN) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.run\.Run"):
        run_of(SimpleNamespace(callbacks=[]))  # type: ignore[arg-type]


def test_wandb_is_online_only_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_wandb_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_wandb_key()


# Checkpoints.


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint({"a": torch.ones(2)}, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        io.save_checkpoint({"a": Unwritable()}, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["x.ckpt"]


class Unwritable:
    """Fails in the middle of a save, as a full disk does."""

    def __reduce__(self) -> str:
        raise OSError(28, "No space left on device")


def test_the_newest_checkpoint_that_is_whole_is_found(model: DCGAN, tmp_path: Path) -> None:
    trainer = fitted(model)
    for seen in (4, 8, 12):
        trainer.save_checkpoint(tmp_path / f"kimg{seen / 1000:010.3f}.ckpt")
    newest = tmp_path / "kimg000000.012.ckpt"
    assert newest_whole(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-200])
    assert newest_whole(tmp_path) == tmp_path / "kimg000000.008.ckpt"
    assert newest_whole(tmp_path / "nothing") is None


def test_a_link_is_replaced_and_survives_its_target(tmp_path: Path) -> None:
    for content in ("old", "new"):
        (tmp_path / content).write_text(content)
        link(tmp_path / content, tmp_path / "last")
    (tmp_path / "new").unlink()
    assert (tmp_path / "last").read_text() == "new"


def test_weights_that_are_no_numbers_are_named(model: DCGAN) -> None:
    require_finite_weights(model)
    with torch.no_grad():
        next(model.discriminator.parameters())[0] = float("inf")
    with pytest.raises(NonFiniteError, match="weights of the discriminator"):
        require_finite_weights(model)


# Memory.


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_of_a_phase_is_its_own() -> None:
    meter = PeakMeter(torch.device("cpu"))
    meter.start()
    before = meter.read()
    block = torch.ones(50_000_000)  # 200 MB
    during = meter.read()
    del block
    assert during - before > 190e6
    meter.start()
    assert meter.read() < during - 150e6


def test_saved_activations_are_counted_once_each() -> None:
    layer = nn.Linear(10, 20, bias=False)
    x = torch.randn(7, 10)
    with count_saved_tensors() as saved:
        hidden = layer(x).square()  # keeps x for the weight's gradient, and the product for the square's
        _ = hidden + layer(x)  # x again
    assert sum(saved.values()) == 4 * (7 * 10 + 7 * 20)


def test_kept_bytes_are_those_of_adam_and_the_average(model: DCGAN) -> None:
    trainer = fitted(model)
    kept = bytes_kept(model, list(trainer.optimizers))
    weights = [p for network in model.networks().values() for p in network.parameters()]
    count = sum(p.numel() for p in weights)
    assert kept["gradients"] == 4 * count
    assert kept["optimizer state"] == 2 * 4 * count + 4 * len(weights)  # two moments, and a step counter each
    generator = [*model.generator.parameters(), *model.generator.buffers()]
    assert kept["averages"] == sum(t.numel() * t.element_size() for t in generator)


# The plan.


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trial_steps_leave_no_trace(precision: str) -> None:
    adversarial = AdversarialTraining(regularizers=[R1(1.0, every=4)])
    model = DCGAN((1, 16, 16), width=4, latent_dim=5, adversarial=adversarial)

    class Compare(lightning.Callback):
        def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            before = {name: value.clone() for name, value in model.state_dict().items()}
            cost = trial_steps(trainer, model, random_batch(model, 4))
            assert cost.seconds_per_kimg > 0
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert all(not optimizer.state for optimizer in trainer.optimizers)
            assert (model.samples_seen, model.steps, trainer.global_step) == (0, 0, 0)
            assert model.reported() == {}

    fitted(model, Compare(), precision=precision)
    plain = DCGAN((1, 16, 16), width=4, latent_dim=5, adversarial=adversarial)
    assert model.samples_seen == 4
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_trial_ends_the_fit_before_its_first_batch(model: DCGAN) -> None:
    trial = Trial(batch_size=4)
    trainer = fitted(model, trial, batches=3)
    assert trainer.global_step == 0
    assert trial.cost is not None
    assert trial.cost.checkpoint_bytes > 0


# Throughput.


def test_throughput_leaves_out_evaluations_and_finds_the_wait(model: DCGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted clock: each batch takes 2 s, its loading 1 s, and after each second batch 10 s go to sampling."""
    now = itertools.count()
    clock = SimpleNamespace(at=0.0)
    monkeypatch.setattr("callbacks.throughput.time.perf_counter", lambda: clock.at)
    logged: list[dict[str, float]] = []
    run = Run()
    monkeypatch.setattr(Run, "write", lambda self, trainer, values: logged.append(values))
    monkeypatch.setattr(Run, "save", lambda self, trainer: None)
    throughput = Throughput(every_s=1e9, warmup_batches=1)
    trainer: Any = SimpleNamespace(callbacks=[run])
    throughput.on_fit_start(trainer, model)
    throughput.on_train_start(trainer, model)
    for batch in range(5):
        clock.at += 1.0
        throughput.on_train_batch_start(trainer, model, None, batch)
        clock.at += 2.0
        model.count(6)
        throughput.on_train_batch_end(trainer, model, None, None, batch)
        if batch % 2:
            with model.phase("metrics"), model.phase("sampling"):
                clock.at += 10.0
            with model.phase("likelihood"):
                clock.at += 10.0
    throughput.on_train_end(trainer, model)
    assert next(now) == 0
    assert logged[0]["samples_per_s"] == pytest.approx(24 / 12)
    assert logged[0]["data_wait"] == pytest.approx(1 / 3)
    assert run.record.throughput.s_per_kimg == pytest.approx(500)


# Stops.


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("callbacks.stops.os._exit", ended.append)
    stops = Stops()
    stops._handle(signal.SIGINT, None)
    assert (ended, stops.exit_code) == ([], 130)
    stops._handle(signal.SIGINT, None)
    assert ended == [130]


# Guard, over ranks.


def test_ranks_stop_together_when_one_sees_a_loss_that_is_no_number(
    model: DCGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def reduce(wish: bool, all: bool) -> bool:
        asked.append(wish)
        return True  # the other rank has seen one

    run = Run()
    run.latest = {"d_loss": 1.0}
    strategy = SimpleNamespace(reduce_boolean_decision=reduce)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy, callbacks=[run])
    guard = Guard()
    guard.on_train_batch_end(trainer, model, None, None, 5)
    assert asked == []  # the ranks ask at the same batches only
    with pytest.raises(NonFiniteError, match="a loss on another device is not finite"):
        guard.on_train_batch_end(trainer, model, None, None, 16)
    run.latest = {"d_loss": float("nan")}
    with pytest.raises(NonFiniteError, match="d_loss is nan"):
        guard.on_train_batch_end(trainer, model, None, None, 32)
    assert asked == [False, True]


# Samples, over ranks.


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_samples_without_a_gap_or_a_double(world: int) -> None:
    shares = [share_of(37, rank, world) for rank in range(world)]
    assert list(itertools.chain(*shares)) == list(range(37))
    assert all(share.start % 2 == 0 for share in shares)  # pairs stay together
    drawn = []
    for rank in range(world):
        trainer: Any = SimpleNamespace(global_rank=rank, world_size=world)
        drawn += list(itertools.chain(*SampleIndices(trainer, 37, 5)))
    assert sorted(drawn) == list(range(37))


def test_a_conditional_grid_has_one_row_a_class_from_the_same_latents(model: DCGAN) -> None:
    pictures = sample_grid(model, rows=9, columns=4, batch_size=5)
    assert pictures.shape == (3 * 4, 1, 16, 16)
    alone = model.sample(range(4), [2] * 4)
    torch.testing.assert_close(pictures[8:].float(), ((alone + 1) * 127.5).round(), rtol=0, atol=1)


# Hardware.


def test_hardware_and_versions_are_plain_and_say_what_there_is() -> None:
    found = hardware(torch.device("cpu"))
    assert found.device == "cpu"
    assert found.threads == torch.get_num_threads()
    assert versions()["torch"] == torch.__version__.split("+")[0] or versions()["torch"] == torch.__version__
    json.dumps([found.to_json(), versions()])
    assert isinstance(has_bf16_units(torch.device("cpu")), bool)
