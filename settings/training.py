"""How models are trained: the settings of the two loops."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from settings.configurable import Configurable
from settings.fields import check, documented, setting

if TYPE_CHECKING:  # jsonargparse reads these, too, when it builds what a config names
    from models.parts.augment import Augmentation
    from models.parts.losses import AdversarialLoss
    from models.parts.regularizers import Regularizer
    from models.parts.schedules import Schedule


@documented
@dataclass(eq=False)
class AdversarialTraining(Configurable):
    """How the two players are trained."""

    loss: "AdversarialLoss" = setting(None, "the adversarial objective; non-saturating where left out")
    regularizers: "list[Regularizer]" = setting(None, "penalties on the discriminator's gradient")
    augmentation: "Augmentation | None" = setting(
        None, "what both players' pictures pass through before the discriminator sees them"
    )
    lr: "float | Schedule" = setting(2e-4, "Adam's learning rate")
    d_lr: "float | Schedule | None" = setting(None, "the discriminator's own, where it differs")
    beta1: "float | Schedule" = setting(0.5, "Adam's first decay")
    beta2: "float | Schedule" = setting(0.999, "Adam's second decay")
    eps: float = setting(1e-8, "Adam's epsilon")
    d_steps: int = setting(1, "discriminator steps a generator step", least=1)
    # The step is that of the joint batch, but batch statistics, where a network has them, remain those of a
    # micro-batch, and a spectral norm's power iteration advances with each, as in Brock et al.'s code.
    accumulate: int = setting(1, "micro-batches whose gradients one optimizer step adds up", least=1)
    clip_norm: float | None = setting(None, "each network's gradient norm is clipped to this")
    ema_halflife_kimg: "float | Schedule" = setting(10.0, "half-life of the generator's average, in thousand samples")
    ema_rampup: float | None = setting(
        None, "the half-life never exceeds this share of the samples seen; no such limit where left out"
    )
    ema_start_kimg: float = setting(0.0, "the average is the generator itself until so many thousand samples were seen")
    # As the PyTorch DCGAN example does.
    reuse_fakes: bool = setting(
        False,
        "the generator step reuses the fakes of the last discriminator step: one generator pass less, at the memory of "
        "holding its activations through the discriminator step",
    )
    # FreezeD (Mo, Cho & Shin 2020, arXiv:2002.10964). `GAN.discriminator_layers` counts.
    freeze_d: int = setting(
        0, "so many layers of the discriminator, from the picture on, are never updated, for few pictures", least=0
    )

    def __post_init__(self) -> None:
        check(self)
        self.regularizers = list(self.regularizers or [])


@documented
@dataclass(eq=False)
class Optimization(Configurable):
    """How the network is trained."""

    lr: "float | Schedule" = setting(1e-3, "Adam's learning rate")
    beta1: float = setting(0.9, "Adam's first decay")
    beta2: float = setting(0.999, "Adam's second decay")
    eps: float = setting(1e-8, "Adam's epsilon")
    weight_decay: float = setting(0.0, "AdamW's, of weights of two dimensions and more; 0 is Adam", least=0)
    warmup_kimg: float = setting(
        0.0, "the learning rate rises in a straight line from 0 over so many thousand samples", least=0
    )
    accumulate: int = setting(1, "micro-batches whose gradients one optimizer step adds up", least=1)
    clip_norm: float | None = setting(None, "the gradient's norm is clipped to this")
    ema_halflife_kimg: "float | Schedule | None" = setting(
        None, "half-life of the network's average, in thousand samples; no average where left out"
    )
    ema_rampup: float | None = setting(
        None, "the half-life never exceeds this share of the samples seen; no such limit where left out"
    )

    def __post_init__(self) -> None:
        check(self)
