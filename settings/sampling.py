"""How samples are drawn: the settings of every family. Flags, protocols and swept tables read them here.

A setting that is added to a class here, or a class that is added, is a flag of every verb that draws. A model in
another file may have a class of its own, derived from `SamplerSettings`: its flags are known once the model is loaded.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from settings.fields import Setting, check, neutral_values, setting, settings_in

Weights: TypeAlias = Literal["ema", "raw"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Solver: TypeAlias = Literal["euler", "heun", "rk4"]
"""Of an ordinary differential equation; of order 1, 2 and 4, with as many evaluations a step."""


@dataclass(frozen=True)
class SamplerSettings:
    """How samples are drawn; recorded beside every figure. Families add their own fields.

    Raises:
        ValueError: naming the setting, where a value is impossible; so do all classes of this file.
    """

    weights: Weights = setting("ema", "averaged weights, or those of the last step")
    precision: Precision = setting("float32", "of sampling")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class GANSettings(SamplerSettings):
    """How a GAN's samples are drawn (Brock et al. 2019, section 3.1)."""

    truncation: float | None = setting(
        None, "latent values beyond this are drawn again: fewer modes, but clean", above=0, neutral=None, swept=True
    )


@dataclass(frozen=True)
class BigGANSettings(GANSettings):
    """How BigGAN's samples are drawn (Brock et al. 2019, appendix C.1 for the standing statistics).

    Their latents are truncated as the samples' are. Their batches are never the one that is asked for, and their seed
    is not the samples', so that latents decode to the same picture under every seed.
    """

    standing_statistics: int = setting(
        0, "batches that batch norms' statistics are re-estimated from; 0 for those of training", least=0
    )
    standing_batch: int = setting(64, "samples in each of these batches", least=2)
    standing_seed: int = setting(0, "of their latents and labels")


@dataclass(frozen=True)
class StyleGAN2Settings(GANSettings):
    """How StyleGAN2's samples are drawn (Karras et al. 2019, appendix B, for the truncation)."""

    truncation_psi: float = setting(
        1.0,
        "w' = average + psi (w - average) for intermediate latents w: below 1 fewer modes, but clean",
        neutral=1.0,
        swept=True,
    )
    truncation_cutoff: int | None = setting(
        None, "number of layers, from 4 px up, that truncation_psi moves; all where left out", least=0, neutral=None
    )
    noise: Literal["random", "const", "none"] = setting(
        "random", "what layers add to pixels: each sample's own, a function of its latent; the same for all; or nothing"
    )


@dataclass(frozen=True)
class VAESettings(SamplerSettings):
    """How a VAE's samples are drawn; they are the decoder's means."""

    temperature: float = setting(
        1.0,
        "scale of the prior's noise: below 1 samples are nearer to the average picture",
        least=0,
        neutral=1.0,
        swept=True,
    )


@dataclass(frozen=True)
class FlowSettings(SamplerSettings):
    """How a normalizing flow's samples are drawn (Glow, section 6; 0.7 in its figures)."""

    temperature: float = setting(
        1.0, "the noise's standard deviation: below 1 fewer modes, but clean", least=0, neutral=1.0, swept=True
    )


@dataclass(frozen=True)
class PixelCNNSettings(SamplerSettings):
    """How pixels are drawn."""

    temperature: float = setting(
        1.0,
        "divides the logits of the mixtures' components and multiplies their scales",
        above=0,
        neutral=1.0,
        swept=True,
    )


@dataclass(frozen=True)
class TransformerSettings(SamplerSettings):
    """How tokens are drawn; see `restricted` in `models/parts/tokens.py`."""

    temperature: float = setting(
        1.0, "divides the logits: below 1 likely tokens become likelier", above=0, neutral=1.0, swept=True
    )
    top_k: int | None = setting(None, "draw among the k likeliest tokens only", least=1, neutral=None)
    top_p: float | None = setting(
        None,
        "draw among the fewest likeliest tokens only whose probabilities add up to p",
        above=0,
        most=1,
        neutral=None,
    )


@dataclass(frozen=True)
class FlowMatchingSettings(SamplerSettings):
    """How the ODE is solved when samples are drawn, or encoded (Ho & Salimans 2022 for the guidance)."""

    sampler_steps: int | None = setting(None, "steps of the ODE; the model's own where left out", least=1, swept=True)
    solver: Solver | None = setting(None, "of the ODE; the model's own where left out")
    guidance: float = setting(
        1.0,
        "velocity without label + guidance x (that with label - that without); 1 is no guidance",
        neutral=1.0,
        swept=True,
    )


def families() -> list[type[SamplerSettings]]:
    """Every class of settings in this file, in their order."""
    return [each for each in globals().values() if isinstance(each, type) and issubclass(each, SamplerSettings)]


def offered() -> list[Setting]:
    """The settings of all these classes."""
    return [setting for family in families() for setting in settings_in(family)]


def neutral() -> dict[str, object]:
    """By name, the settings that trade modes for clean samples, with the value that trades nothing."""
    return neutral_values(families())
