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

    loss: "AdversarialLoss" = setting(None, "the adversarial objective; non-saturating by default")
    regularizers: "list[Regularizer]" = setting(None, "penalties on the discriminator's gradient")
    augmentation: "Augmentation | None" = setting(
        None, "applied to real and generated pictures before the discriminator"
    )
    lr: "float | Schedule" = setting(2e-4, "Adam's learning rate")
    d_lr: "float | Schedule | None" = setting(None, "the discriminator's learning rate, if it differs")
    beta1: "float | Schedule" = setting(0.5, "Adam's first decay")
    beta2: "float | Schedule" = setting(0.999, "Adam's second decay")
    eps: float = setting(1e-8, "Adam's epsilon")
    d_steps: int = setting(1, "discriminator steps per generator step", least=1)
    # The gradient is that of the joint batch. Batch statistics are still those of a micro-batch, and a spectral norm's
    # power iteration advances with each, as in Brock et al.'s code.
    accumulate: int = setting(1, "micro-batches whose gradients one optimizer step adds up", least=1)
    clip_norm: float | None = setting(None, "each network's gradient norm is clipped to this")
    ema_halflife_kimg: "float | Schedule" = setting(10.0, "half-life of the generator's average, in thousand samples")
    ema_rampup: float | None = setting(
        None, "the half-life never exceeds this share of the samples seen; no such limit by default"
    )
    ema_start_kimg: float = setting(0.0, "thousand samples before the average begins; until then it is the generator")
    # As the PyTorch DCGAN example does.
    reuse_fakes: bool = setting(
        False,
        "the generator step reuses the fakes of the last discriminator step, which saves one generator pass, but keeps "
        "its activations in memory through the discriminator step",
    )
    # FreezeD (Mo, Cho & Shin 2020, arXiv:2002.10964). `GAN.discriminator_layers` counts.
    freeze_d: int = setting(
        0, "this many layers of the discriminator, from the picture on, are never updated, for small datasets", least=0
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
    weight_decay: float = setting(0.0, "AdamW's, for weights of two dimensions and more; 0 is Adam", least=0)
    warmup_kimg: float = setting(0.0, "thousand samples over which the learning rate rises linearly from 0", least=0)
    accumulate: int = setting(1, "micro-batches whose gradients one optimizer step adds up", least=1)
    clip_norm: float | None = setting(None, "the gradient's norm is clipped to this")
    ema_halflife_kimg: "float | Schedule | None" = setting(
        None, "half-life of the network's average, in thousand samples; no average by default"
    )
    ema_rampup: float | None = setting(
        None, "the half-life never exceeds this share of the samples seen; no such limit by default"
    )

    def __post_init__(self) -> None:
        check(self)
