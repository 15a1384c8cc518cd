"""Settings of samplers, for every family. Flags, protocols and sweeps read them here.

A setting added to a class here becomes a flag of every verb that draws samples. So does a setting of a new class. A
model in another file may declare its own subclass of `SamplerSettings`; its flags are known once the model is loaded.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from settings.fields import Setting, check, neutral_values, setting, settings_in

Weights: TypeAlias = Literal["ema", "raw"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Solver: TypeAlias = Literal["euler", "heun", "rk4"]
"""Solvers of an ordinary differential equation, of order 1, 2 and 4, with as many evaluations a step."""


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of a sampler, recorded with every figure. Families add their own fields.

    Raises ValueError, naming the setting, if a value is out of its limits. This holds for every class of this file.
    """

    weights: Weights = setting("ema", "averaged weights, or those of the last step")
    precision: Precision = setting("float32", "of sampling")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class GANSettings(SamplerSettings):
    """Settings of GANs (Brock et al. 2019, section 3.1)."""

    truncation: float | None = setting(
        None, "latent values beyond this are drawn again: less diverse, but cleaner", above=0, neutral=None, swept=True
    )


@dataclass(frozen=True)
class BigGANSettings(GANSettings):
    """Settings of BigGAN (Brock et al. 2019, appendix C.1 for the standing statistics).

    The batches of standing statistics are truncated as the samples are. They have a seed of their own, so that a latent
    decodes to the same picture under every sampling seed.
    """

    standing_statistics: int = setting(
        0, "batches from which batch norm statistics are re-estimated; 0 keeps those of training", least=0
    )
    standing_batch: int = setting(64, "samples in each of these batches", least=2)
    standing_seed: int = setting(0, "seed of their latents and labels")


@dataclass(frozen=True)
class StyleGAN2Settings(GANSettings):
    """Settings of StyleGAN2 (Karras et al. 2019, appendix B, for the truncation)."""

    truncation_psi: float = setting(
        1.0, "w' = average + psi (w - average): below 1 less diverse, but cleaner", neutral=1.0, swept=True
    )
    truncation_cutoff: int | None = setting(
        None, "layers, from 4 px up, that truncation_psi applies to; all if left out", least=0, neutral=None
    )
    noise: Literal["random", "const", "none"] = setting(
        "random", "noise of the layers: each sample's own, the same for all samples, or none"
    )


@dataclass(frozen=True)
class VAESettings(SamplerSettings):
    """Settings of VAEs. Samples are the decoder's means."""

    temperature: float = setting(
        1.0, "scale of the prior's noise: below 1 samples are closer to the mean", least=0, neutral=1.0, swept=True
    )


@dataclass(frozen=True)
class FlowSettings(SamplerSettings):
    """Settings of normalizing flows (Glow, section 6, whose figures use 0.7)."""

    temperature: float = setting(
        1.0, "standard deviation of the noise: below 1 less diverse, but cleaner", least=0, neutral=1.0, swept=True
    )


@dataclass(frozen=True)
class PixelCNNSettings(SamplerSettings):
    """Settings of PixelCNN."""

    temperature: float = setting(
        1.0, "divides the mixture logits and multiplies the scales", above=0, neutral=1.0, swept=True
    )


@dataclass(frozen=True)
class TransformerSettings(SamplerSettings):
    """Settings of transformers; see `restricted` in `models/parts/tokens.py`."""

    temperature: float = setting(
        1.0, "divides the logits: below 1 likely tokens become likelier", above=0, neutral=1.0, swept=True
    )
    top_k: int | None = setting(None, "draw from the k most likely tokens only", least=1, neutral=None)
    top_p: float | None = setting(
        None, "draw from the fewest most likely tokens whose probabilities sum to p", above=0, most=1, neutral=None
    )


@dataclass(frozen=True)
class FlowMatchingSettings(SamplerSettings):
    """Settings of flow matching, for sampling and encoding (Ho & Salimans 2022 for the guidance)."""

    sampler_steps: int | None = setting(None, "steps of the ODE; the model's own if left out", least=1, swept=True)
    solver: Solver | None = setting(None, "solver of the ODE; the model's own if left out")
    guidance: float = setting(
        1.0, "v without label + guidance x (v with label - v without); 1 is none", neutral=1.0, swept=True
    )


def families() -> list[type[SamplerSettings]]:
    """Every settings class of this file, in order."""
    return [each for each in globals().values() if isinstance(each, type) and issubclass(each, SamplerSettings)]


def offered() -> list[Setting]:
    """The settings of all these classes."""
    return [setting for family in families() for setting in settings_in(family)]


def neutral() -> dict[str, object]:
    """Neutral values, by setting name; see `settings.fields.setting`."""
    return neutral_values(families())
