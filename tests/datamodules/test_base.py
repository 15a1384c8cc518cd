"""The contract of data modules, on pictures made up here."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from datamodules.base import Batch, PictureDataModule, Pictures, Split, resized, to_float
from datamodules.order import positions


class Numbered(PictureDataModule):
    """Picture i has i in its top left pixel and in its label, so that a batch shows what it holds."""

    def __init__(
        self,
        batch_size: int = 4,
        seed: int = 0,
        num_workers: int = 0,
        flip: bool = True,
        test: bool = True,
        train_limit: int | None = None,
    ) -> None:
        super().__init__(2, 3, 25, (), flip, batch_size, seed, num_workers, train_limit)
        self.test = test

    def stored_splits(self) -> tuple[Split, ...]:
        return ("train", "test") if self.test else ("train",)

    def identity(self) -> tuple[object, ...]:
        return (self.test,)

    def load(self, split: Split) -> Pictures:
        labels = torch.arange(25 if split == "train" else 11)
        images = torch.zeros(len(labels), 2, 2, 3, dtype=torch.uint8)
        images[:, 0, 0] = labels[:, None]
        return Pictures(images, labels)


class Recorder(LightningModule):
    """A model that only records what reaches it."""

    def __init__(self, samples_seen: int = 0, micro_batches: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.samples_seen = samples_seen
        self.micro_batches = micro_batches
        self.batches: list[Batch] = []
        self.seen_in_validation: list[int] = []

    def samples_per_step(self, samples_seen: int, least: int) -> int:
        return least

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch)
        self.samples_seen += len(batch[1]) * self.trainer.world_size
        self.optimizers().step()  # type: ignore[union-attr]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        assert torch.equal(((x[:, 0, 0, 0] + 1) * 127.5).round(), y.float())  # nothing is mirrored
        self.seen_in_validation += y.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])


def trainer(steps: int, **settings: Any) -> Trainer:  # noqa: ANN401  # whatever Trainer takes
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def test_uint8_survives_the_way_to_float_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    x = to_float(values)
    assert x.dtype == torch.float32
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_channels_last(channels: int) -> None:
    x = to_float(torch.zeros(2, 4, 4, channels, dtype=torch.uint8))
    assert x.shape == (2, channels, 4, 4)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_resized_keeps_a_constant_and_averages_a_checkerboard() -> None:
    grey = torch.full((2, 28, 28, 1), 77, dtype=torch.uint8)
    assert resized(grey, 28) is grey
    for resolution in (14, 40):
        assert torch.equal(resized(grey, resolution), grey.new_full((2, resolution, resolution, 1), 77))
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).to(torch.uint8)[None, :, :, None]
    inner = resized(board, 8)[:, 1:-1, 1:-1].float()
    assert (inner - 127.5).abs().max() <= 1


@pytest.mark.parametrize(
    ("settings", "line"),
    [({"batch_size": 0}, "batch_size: must be at least 1, got 0"), ({"num_workers": -1}, "num_workers: .* at least 0")],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Numbered(**settings)


def test_attributes_and_sizes() -> None:
    data = Numbered()
    assert (data.data_shape, data.num_classes, data.class_names) == ((3, 2, 2), 25, ())
    data.setup("fit")
    assert (data.train_size, data.size("train"), data.size("test")) == (25, 25, 11)


def test_the_fingerprint_is_of_the_data_alone() -> None:
    def fingerprint(**settings: Any) -> str:  # noqa: ANN401  # whatever Numbered takes
        data = Numbered(**settings)
        data.setup("fit")
        return data.fingerprint

    same = fingerprint()
    assert int(same, 16) >= 0
    assert fingerprint(batch_size=8, seed=1, num_workers=2, flip=False) == same
    assert fingerprint(test=False) != same


def test_examples_come_as_asked() -> None:
    x, y = Numbered().examples("test", [3, 0, 3])
    assert x.shape == (3, 3, 2, 2)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert y.tolist() == [3, 0, 3]
    assert torch.equal(((x[:, 0, 0, 0] + 1) * 127.5).round(), y.float())
    assert Numbered().examples("test", [])[0].shape == (0, 3, 2, 2)
    for index in (-1, 11):
        with pytest.raises(ValueError, match="indices 0 to 10"):
            Numbered().examples("test", [index])


def test_a_split_that_is_not_there_is_named_with_a_remedy() -> None:
    data = Numbered(test=False)
    for ask in (data.size, data.dataset, lambda split: data.examples(split, [0])):
        with pytest.raises(ValueError, match="no split 'test' here: use split 'train'"):
            ask("test")


def test_train_batches_follow_the_order_from_samples_seen(stub_trainer: Callable[..., Any]) -> None:
    data = Numbered(batch_size=4, seed=9)
    assert next(iter(data.train_dataloader()))[1].tolist() == positions(9, 0, 4, 25).tolist()
    data.trainer = stub_trainer(samples_seen=24, micro_batches=3)
    images, labels = next(iter(data.train_dataloader()))
    assert labels.tolist() == positions(9, 24, 36, 25).tolist()
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0, 0, 0].long(), labels)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_model_may_ask_for_larger_steps_by_their_place(world_size: int, stub_trainer: Callable[..., Any]) -> None:
    asked: list[tuple[int, int]] = []

    def samples_per_step(samples_seen: int, least: int) -> int:
        asked.append((samples_seen, least))
        return least * (3 if samples_seen < 24 else 1)

    shares = []
    for rank in range(world_size):
        data = Numbered(batch_size=4, seed=9)
        data.trainer = stub_trainer(
            micro_batches=2, samples_per_step=samples_per_step, rank=rank, world_size=world_size
        )
        shares.append([labels for _, labels in itertools.islice(data.train_dataloader(), 3)])
    steps = [torch.stack(parts, 1).flatten() for parts in zip(*shares, strict=True)]
    assert [len(step) for step in steps] == [24, 8, 8]
    assert torch.cat(steps).tolist() == positions(9, 0, 40, 25).tolist()
    assert asked[:3] == [(0, 8), (24, 8), (32, 8)]


def test_the_loader_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    next(iter(Numbered().train_dataloader()))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_give_the_same_batches() -> None:
    alone, helped = (Numbered(num_workers=n).train_dataloader() for n in (0, 2))
    for (x, y), (same_x, same_y) in itertools.islice(zip(alone, helped, strict=False), 5):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("test", [True, False])
def test_evaluation_batches_hold_every_example_once(
    world_size: int, test: bool, stub_trainer: Callable[..., Any]
) -> None:
    ranks = []
    for rank in range(world_size):
        data = Numbered(batch_size=6, test=test)
        data.trainer = stub_trainer(rank=rank, world_size=world_size, training=False)
        loaded = [labels for _, labels in data.val_dataloader()]
        assert max(len(labels) for labels in loaded) == 6 // world_size
        ranks.append(torch.cat(loaded))
        assert ranks[-1].tolist() == list(range(rank, 11 if test else 25, world_size))
        assert torch.equal(ranks[-1], torch.cat([labels for _, labels in data.test_dataloader()]))
    assert torch.equal(torch.cat(ranks).sort().values, torch.arange(11 if test else 25))


def test_trainer_settings_that_cannot_work_are_named(stub_trainer: Callable[..., Any]) -> None:
    for settings, line in [
        ({"world_size": 3}, "batch_size: 64 is not divisible by 3 devices; use 63 or 66"),
        ({"world_size": 128}, "batch_size: 64 is not divisible by 128 devices; use 128"),
        ({"world_size": 2, "use_distributed_sampler": True}, "trainer.use_distributed_sampler: must be false"),
        ({"overfit_batches": 1}, "trainer.overfit_batches: "),
    ]:
        data = Numbered(batch_size=64)
        data.trainer = stub_trainer(**settings)
        for loader in (data.train_dataloader, data.val_dataloader):
            with pytest.raises(ValueError, match=line):
                loader()


def after_transfer(data: Numbered, images: Tensor, trainer: Any) -> Tensor:  # noqa: ANN401  # stands for a Trainer
    data.trainer = trainer
    x, y = data.on_after_batch_transfer((images, torch.arange(len(images))), 0)
    assert torch.equal(y, torch.arange(len(images)))
    return x


def test_flips_are_a_function_of_the_position(stub_trainer: Callable[..., Any]) -> None:
    images = torch.randint(256, (64, 2, 2, 3)).to(torch.uint8)
    plain, mirrored = to_float(images), to_float(images.flip(2))
    x = after_transfer(Numbered(), images, stub_trainer(samples_seen=640))
    is_mirrored = (x == mirrored).all((1, 2, 3))
    assert torch.equal(x, torch.where(is_mirrored[:, None, None, None], mirrored, plain))
    assert 16 <= is_mirrored.sum() <= 48
    assert x.is_contiguous(memory_format=torch.channels_last)

    torch.manual_seed(1)  # the global generator plays no part
    assert torch.equal(after_transfer(Numbered(), images, stub_trainer(samples_seen=640)), x)
    assert not torch.equal(after_transfer(Numbered(), images, stub_trainer(samples_seen=704)), x)
    assert not torch.equal(after_transfer(Numbered(seed=1), images, stub_trainer(samples_seen=640)), x)
    for world_size in (2, 4):
        parts = [
            after_transfer(
                Numbered(), images[rank::world_size], stub_trainer(samples_seen=640, rank=rank, world_size=world_size)
            )
            for rank in range(world_size)
        ]
        assert torch.equal(torch.stack(parts, 1).flatten(0, 1), x)


def test_only_training_pictures_are_mirrored(stub_trainer: Callable[..., Any]) -> None:
    images = torch.randint(256, (64, 2, 2, 3)).to(torch.uint8)
    for data, attached in [
        (Numbered(), stub_trainer(training=False)),
        (Numbered(flip=False), stub_trainer()),
        (Numbered(), None),
    ]:
        assert torch.equal(after_transfer(data, images, attached), to_float(images))


def test_floats_pass_as_they_are(stub_trainer: Callable[..., Any]) -> None:
    x = torch.randn(8, 3, 2, 2)
    assert after_transfer(Numbered(), x, stub_trainer()) is x


def test_a_fit_gets_the_contracts_batches_and_resumes_within_an_epoch() -> None:
    whole, head = Recorder(micro_batches=2), Recorder(micro_batches=2)
    trainer(6, limit_val_batches=0).fit(whole, datamodule=Numbered())
    trainer(2, limit_val_batches=0).fit(head, datamodule=Numbered())
    tail = Recorder(samples_seen=head.samples_seen, micro_batches=2)
    trainer(4, limit_val_batches=0).fit(tail, datamodule=Numbered())

    assert whole.samples_seen == 48
    x, y = whole.batches[0]
    assert x.shape == (8, 3, 2, 2)
    assert x.dtype == torch.float32
    assert torch.cat([y for _, y in whole.batches]).tolist() == positions(0, 0, 48, 25).tolist()
    for (x, y), (same_x, same_y) in zip(whole.batches, head.batches + tail.batches, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)


def test_lightnings_epochs_go_on_in_the_order_and_validate_on_all_of_test() -> None:
    model = Recorder()
    trainer(6, limit_train_batches=3).fit(model, datamodule=Numbered())
    assert torch.cat([y for _, y in model.batches]).tolist() == positions(0, 0, 24, 25).tolist()
    assert model.seen_in_validation == 2 * list(range(11))


# Fewer training pictures.


def labels_of(data: Numbered, split: Split) -> list[int]:
    data.prepare_data()
    data.setup()
    return data.examples(split, range(data.size(split)))[1].tolist()


def test_a_limit_keeps_some_training_pictures_the_same_for_every_seed_and_smaller_ones_within_larger() -> None:
    five, nine = (labels_of(Numbered(train_limit=limit, seed=limit), "train") for limit in (5, 9))
    assert len(set(nine)) == 9
    assert nine[:5] == five == labels_of(Numbered(train_limit=5, seed=1), "train")
    assert five != sorted(five)
    assert labels_of(Numbered(train_limit=5), "test") == list(range(11))


def test_where_there_is_no_test_split_what_a_limit_leaves_over_becomes_it() -> None:
    data = Numbered(train_limit=5, test=False)
    assert data.splits() == ("train", "test")
    assert sorted(labels_of(data, "train") + labels_of(data, "test")) == list(range(25))
    assert data.train_size == 5
    assert Numbered(test=False).splits() == ("train",)


def test_a_limit_is_other_data_and_must_leave_something_out() -> None:
    fingerprints = set()
    for limit in (None, 5, 9):
        data = Numbered(train_limit=limit)
        data.setup()
        fingerprints.add(data.fingerprint)
        assert data.settings()["init_args"]["train_limit"] == limit
    assert len(fingerprints) == 3
    with pytest.raises(ValueError, match=r"train_limit: must be below the 25 training pictures there are, got 25"):
        labels_of(Numbered(train_limit=25), "train")
    with pytest.raises(ValueError, match="train_limit: must be at least 1, got 0"):
        Numbered(train_limit=0)


def test_settings_are_the_arguments_that_decide_what_the_examples_are() -> None:
    data = Numbered(batch_size=8, seed=3, flip=False)
    assert data.settings() == {
        "class_path": f"{__name__}.Numbered",
        "init_args": {"flip": False, "test": True, "train_limit": None},
    }
    del data.test
    with pytest.raises(TypeError, match="Numbered must keep its argument 'test' as an attribute of that name"):
        data.settings()
