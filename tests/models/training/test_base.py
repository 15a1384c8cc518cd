import contextlib
from collections.abc import Callable, Iterator

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models.dcgan import DCGAN
from models.training.base import GenerativeModel, OutOfMemoryInPhaseError
from models.training.capabilities import HasCritic, HasLatents
from models.training.gan import GAN
from settings.sampling import GANSettings, SamplerSettings


@pytest.fixture(scope="module")
def dcgan() -> DCGAN:
    """A conditional DCGAN whose average differs from its generator, with batch statistics of a few batches."""
    torch.manual_seed(0)
    model = DCGAN((3, 16, 16), num_classes=10, width=8, latent_dim=16, conditional=True)
    for parameter in model.generator.parameters():
        parameter.data.mul_(8.0)  # pictures that use the whole range
    labels = torch.arange(10)
    for _ in range(3):
        model.generator(torch.randn(10, 16), labels)
    model.average.update(decay=0.5)
    return model


# Pictures lie in [-1, 1]; convolutions add up in another order for another batch size, a few units of 2^-24 each.
ROUNDING = {"rtol": 0.0, "atol": 2e-6}


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_sample_is_the_same_whatever_the_batch_size(dcgan: DCGAN, size: int) -> None:
    whole = dcgan.sample(range(24), seed=5)
    pieces = [dcgan.sample(range(start, start + size), seed=5) for start in range(0, 24, size)]
    torch.testing.assert_close(torch.cat(pieces), whole, **ROUNDING)


def test_a_sample_is_the_same_whatever_the_order(dcgan: DCGAN) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(dcgan.sample(order, seed=5), dcgan.sample(range(24), seed=5)[order], **ROUNDING)


def test_a_sample_does_not_depend_on_the_global_rng(dcgan: DCGAN) -> None:
    torch.manual_seed(1)
    first = dcgan.sample([0, 1])
    torch.manual_seed(2)
    assert torch.equal(dcgan.sample([0, 1]), first)


def test_indices_seeds_and_labels_change_the_sample(dcgan: DCGAN) -> None:
    x = dcgan.sample([0, 1], [3, 3])
    others = [x[1], dcgan.sample([0], [4])[0], dcgan.sample([0], [3], seed=1)[0]]
    assert all((x[0] - other).abs().mean() > 0.01 for other in others)


def test_samples_are_float32_pictures_without_a_graph(dcgan: DCGAN) -> None:
    x = dcgan.sample(range(5))
    assert x.shape == (5, 3, 16, 16)
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1
    assert not x.requires_grad


def test_labels_left_out_are_drawn_uniformly_by_index(dcgan: DCGAN) -> None:
    drawn = dcgan.sample_labels(range(4000), seed=0)
    counts = drawn.bincount(minlength=10).double()
    assert len(counts) == 10
    assert (counts - 400).square().sum() / 400 < 27.9  # chi-squared with 9 degrees: p = 0.001, for one fixed seed
    assert torch.equal(dcgan.sample_labels([7, 2], seed=0), drawn[[7, 2]])
    torch.testing.assert_close(dcgan.sample([7, 2]), dcgan.sample([7, 2], drawn[[7, 2]]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], "2 samples need as many labels"),
        ([[0, 1]], "2 samples need as many labels"),
        ([0, 10], r"labels must lie in 0\.\.9"),
        ([-1, 0], r"labels must lie in 0\.\.9"),
    ],
)
def test_labels_the_model_does_not_know_are_an_error(dcgan: DCGAN, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcgan.sample([0, 1], labels)


def test_labels_for_an_unconditional_model_are_an_error() -> None:
    with pytest.raises(ValueError, match="this DCGAN is unconditional and takes no labels"):
        DCGAN((3, 16, 16), num_classes=10, width=8).sample([0], [0])


def test_settings_of_another_family_are_an_error(dcgan: DCGAN) -> None:
    with pytest.raises(ValueError, match=r"DCGAN.sample takes GANSettings, not SamplerSettings\(weights='ema'"):
        dcgan.sample([0], settings=SamplerSettings())


def test_weights_setting_chooses_between_average_and_generator(dcgan: DCGAN) -> None:
    latents, labels = dcgan.draw_latents([0, 1], seed=2), torch.tensor([3, 4])
    with torch.no_grad(), dcgan.in_eval_mode():
        expected = {"ema": dcgan.average.module(latents, labels), "raw": dcgan.generator(latents, labels)}
    for weights, x in expected.items():
        drawn = dcgan.sample([0, 1], labels, seed=2, settings=GANSettings(weights=weights))  # type: ignore[arg-type]
        assert torch.equal(drawn, x)
    assert not torch.allclose(expected["ema"], expected["raw"], atol=0.01)


def test_sampling_decodes_the_latents_it_says(dcgan: DCGAN) -> None:
    settings, labels = GANSettings(truncation=0.7, precision="bfloat16"), torch.tensor([3, 4])
    latents = dcgan.draw_latents([8, 9], seed=2, settings=settings)
    assert torch.equal(
        dcgan.decode(latents, labels, settings=settings), dcgan.sample([8, 9], labels, seed=2, settings=settings)
    )


def test_truncation_bounds_latents_and_leaves_those_within(dcgan: DCGAN) -> None:
    free = dcgan.draw_latents(range(200))
    bounded = dcgan.draw_latents(range(200), settings=GANSettings(truncation=0.5))
    assert bounded.abs().max() <= 0.5
    inside = free.abs() <= 0.5
    assert torch.equal(bounded[inside], free[inside])
    # Within +-0.5 a normal's variance is 1 - 2 * 0.5 * phi(0.5) / (2 * Phi(0.5) - 1) = 0.0806; 3200 draws.
    assert bounded.square().mean() == pytest.approx(0.0806, rel=0.1)


@pytest.mark.parametrize("truncation", [0.0, -1.0])
def test_truncation_must_be_positive(truncation: float) -> None:
    with pytest.raises(ValueError, match="truncation must be above 0"):
        GANSettings(truncation=truncation)


def test_precision_setting_changes_digits_only(dcgan: DCGAN) -> None:
    x = dcgan.sample(range(8))
    low = dcgan.sample(range(8), settings=GANSettings(precision="bfloat16"))
    assert low.dtype == torch.float32
    assert not torch.equal(low, x)
    assert (low - x).abs().mean() < 0.02  # bfloat16 keeps 8 bits: 0.4 % a layer


def test_sampling_ignores_an_autocast_around_it(dcgan: DCGAN) -> None:
    x = dcgan.sample(range(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dcgan.sample(range(4)), x)


def test_models_of_other_precisions_can_be_sampled(toy_gan: Callable[..., GAN]) -> None:
    x = toy_gan().sample(range(4))
    double = toy_gan().double().sample(range(4))
    assert double.dtype == torch.float32
    torch.testing.assert_close(double, x, **ROUNDING)


def test_sampling_leaves_mode_and_rng_as_it_found_them(dcgan: DCGAN) -> None:
    dcgan.train()
    dcgan.generator.layers[1].eval()
    modes = [module.training for module in dcgan.modules()]
    buffers = [buffer.clone() for buffer in dcgan.buffers()]
    state = torch.get_rng_state()
    dcgan.sample(range(3), settings=GANSettings(weights="raw"))
    dcgan.decode(dcgan.draw_latents([0]), torch.tensor([0]))
    assert [module.training for module in dcgan.modules()] == modes
    assert len(set(modes)) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(buffers, dcgan.buffers(), strict=True))


def test_modes_are_restored_after_an_error(dcgan: DCGAN) -> None:
    dcgan.train()
    with contextlib.suppress(KeyError), dcgan.in_eval_mode():
        assert not dcgan.generator.training
        raise KeyError
    assert dcgan.generator.training


def test_what_a_network_draws_leaves_the_global_rng_alone(dcgan: DCGAN) -> None:
    state = torch.get_rng_state()
    with dcgan.in_eval_mode():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_predict_step_draws_the_samples_of_its_indices(dcgan: DCGAN) -> None:
    assert torch.equal(dcgan.predict_step(torch.tensor([4, 9]), 0), dcgan.sample([4, 9]))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
def test_trainer_predicts_samples_in_order(dcgan: DCGAN) -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    loader = DataLoader(range(5), batch_size=2)  # type: ignore[arg-type]
    predicted = trainer.predict(dcgan, loader)
    assert predicted is not None
    torch.testing.assert_close(torch.cat(predicted), dcgan.sample(range(5)), **ROUNDING)  # type: ignore[arg-type]


def test_gans_keep_the_protocols(dcgan: DCGAN) -> None:
    assert isinstance(dcgan, HasLatents)
    assert isinstance(dcgan, HasCritic)
    assert dcgan.logits(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])).shape == (2,)


@pytest.mark.parametrize(("data_shape", "num_classes"), [(None, 0), ((1, 4, 4), None)])
def test_unknown_data_is_an_error(data_shape: tuple[int, ...] | None, num_classes: int | None) -> None:
    class Model(GenerativeModel):
        def networks(self) -> dict[str, torch.nn.Module]:
            return {}

        def generate(self, generators: object, labels: Tensor, settings: object) -> Tensor:
            return labels

    with pytest.raises(ValueError, match="data_shape and num_classes must be known"):
        Model(data_shape, num_classes)  # type: ignore[arg-type]


# Phases


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    ],
    ids=["cuda", "python", "linux", "windows"],
)
@pytest.mark.parametrize(("phase", "remedy"), [("G step", "--data.batch_size"), ("sampling", "--quality.batch_size")])
def test_running_out_of_memory_names_phase_and_remedy(dcgan: DCGAN, error: Exception, phase: str, remedy: str) -> None:
    message = f"^out of memory in the {phase} on cpu: lower .*{remedy}"
    with pytest.raises(OutOfMemoryInPhaseError, match=message) as caught, dcgan.phase(phase):
        raise error
    assert caught.value.__cause__ is error


def test_torchs_own_allocator_runs_out_in_its_phase(dcgan: DCGAN) -> None:
    with pytest.raises(OutOfMemoryInPhaseError, match="in the D step"), dcgan.phase("D step"):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x"), KeyError("y")]
)
def test_other_errors_pass_through_a_phase(dcgan: DCGAN, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, dcgan.phase("D step"):
        raise error
    assert caught.value is error


def test_the_innermost_phase_is_named(dcgan: DCGAN) -> None:
    message = "in the regularizer on"
    with pytest.raises(OutOfMemoryInPhaseError, match=message), dcgan.phase("D step"), dcgan.phase("regularizer"):
        raise MemoryError


def test_observers_see_every_phase_begin_and_end(toy_gan: Callable[..., GAN]) -> None:
    seen: list[str] = []

    @contextlib.contextmanager
    def observer(name: str) -> Iterator[None]:
        seen.append(f"begin {name}")
        try:
            yield
        finally:
            seen.append(f"end {name}")

    model = toy_gan()
    model.phase_observers.append(observer)
    model.sample([0])
    with pytest.raises(OutOfMemoryInPhaseError), model.phase("G step"):
        raise MemoryError
    assert seen == ["begin sampling", "end sampling", "begin G step", "end G step"]


# Reported values


def test_reported_values_are_means_since_the_last_report(toy_gan: Callable[..., GAN]) -> None:
    model = toy_gan()
    model.observe("loss", torch.tensor([1.0, 3.0]))
    model.observe("loss", torch.tensor(5.0))
    model.observe("other", torch.tensor(-1.0, dtype=torch.float64))
    assert model.reported() == {"loss": 3.5, "other": -1.0}
    assert model.reported() == {}
    model.observe("loss", torch.tensor(7.0))
    assert model.reported() == {"loss": 7.0}


def test_observed_values_hold_no_graph(toy_gan: Callable[..., GAN]) -> None:
    model = toy_gan()
    model.observe("loss", torch.ones(2, requires_grad=True) * 2)
    assert not any(total.requires_grad for total, _ in model._observed.values())
