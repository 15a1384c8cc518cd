"""Settings of likelihoods, for every family. `evaluate` has a flag `--likelihood_<name>` for each."""

from dataclasses import dataclass
from typing import Literal

from settings.fields import Setting, check, setting, settings_in
from settings.sampling import Precision, SamplerSettings, Solver, Weights


@dataclass(frozen=True)
class LikelihoodSettings:
    """Settings of a likelihood, recorded with every figure. Families add their own fields."""

    weights: Weights = setting("ema", "averaged weights, or those of the last step")
    precision: Precision = setting("float32", "of the network")
    draws: int = setting(1, "random draws of the latent or of dequantisation; more give a tighter bound", least=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FlowMatchingLikelihood(LikelihoodSettings):
    """Settings of the ODE. `draws` averages log-probabilities over several noises; the result is still a bound."""

    steps: int = setting(50, "steps of the ODE, from data to noise", least=1)
    solver: Solver = setting("heun", "of the ODE")
    divergence: Literal["auto", "exact", "hutchinson"] = setting(
        "auto", "exact, or Hutchinson's estimate with one probe a draw; auto is exact for samples of at most 3 values"
    )


def offered() -> list[Setting]:
    """The settings of all these classes, without those that samplers have too."""
    classes = [each for each in globals().values() if isinstance(each, type) and issubclass(each, LikelihoodSettings)]
    of_samplers = {setting.name for setting in settings_in(SamplerSettings)}
    return [setting for each in classes for setting in settings_in(each) if setting.name not in of_samplers]
