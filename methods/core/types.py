"""Types that every method shares. Where two papers disagree, the meaning of a quantity is fixed here.

Images are float tensors [B, *shape] in [-1, 1] (points of a mixture: any range, shape [2]). `sigma` is always the
standard deviation of the noise in image units, in variance-exploding coordinates x = x0 + sigma * noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from methods.core.rng import ImageRng, StepRng


class At(NamedTuple):
    """The state of a sampler at one evaluation."""

    sigma: Tensor  # [B] noise standard deviation in image units
    step: int  # 0, 1, ... along the chain
    order: int = 1  # 2 in the corrector of a second-order solver
    begins: float | None = None  # noise level at which the solver's step begins; None where there are no steps
    until: Tensor | None = None  # [B] noise level that the step leads to, for networks that see a pair of times


class Prediction(NamedTuple):
    """A denoiser's output for x, in variance-exploding coordinates."""

    x0: Tensor  # E[x0 | x], classifier-free guidance included, guidance_score not; not clipped
    guidance_score: Tensor | None = None  # weighted grad_x log w(x), summed over guides; belongs to the score
    variance_share: Tensor | None = None  # learned reverse variance: 0 the chain's small, 1 its large, in logs
    log_ratio: Tensor | None = None  # [B] log density ratio of a discriminator: used by adaptive weights and churn


Denoiser: TypeAlias = Callable[[Tensor, At], Prediction]  # the label is already bound
LogWeight: TypeAlias = Callable[[Tensor, At], Tensor]  # one guide: [B] log-weights, differentiable in x
Wrap: TypeAlias = Callable[[Denoiser], Denoiser]  # guidance, recording and checking compose as wrappers


def unwrapped(denoise: Denoiser) -> Denoiser:
    """The wrap that changes nothing."""
    return denoise


class Latents(NamedTuple):
    """The data are latents of images: as encoded, with `mean` subtracted and divided by `std`."""

    encoder: str  # SHA-256 of the autoencoder's weights
    mean: tuple[float, ...]  # by channel
    std: tuple[float, ...]


class DataSpec(NamedTuple):
    """Facts about the data from which a method builds its networks."""

    shape: tuple[int, ...]  # of one image (C, H, W) or point (D,)
    classes: int  # 0 if unlabelled
    std: float  # measured over the training set; the default of sigma_data
    attributes: tuple[int, ...] = ()  # the number of values of each attribute
    vocabulary: int = 0  # words; 0 without captions
    tokens: int = 0  # length of a caption, padded with token 0
    latents: Latents | None = None  # None: images or points


class Batch(NamedTuple):
    """One step's data. `fakes` only for guides that train against a generator's samples."""

    images: Tensor  # [B, *shape]
    labels: Tensor | None = None  # [B] int64 classes; [B, L] int64 tokens where a run is conditioned on captions
    fakes: Tensor | None = None  # [B, *shape]
    fake_labels: Tensor | None = None  # as labels
    attributes: Tensor | None = None  # [B, A] int64: the number of each attribute's value

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply `change` to every tensor that is not None."""
        return Batch(change(self.images), *(None if part is None else change(part) for part in self[1:]))


class Source(NamedTuple):
    """Images to start sampling from instead of noise alone (SDEdit): x0 + sigma noise."""

    images: Tensor  # [B, *shape]
    sigma: float  # in image units, within the sampler's levels


class Progress(NamedTuple):
    """How far training is, before the present step."""

    step: int
    batch: int  # images per step, over all workers
    steps: int  # in the whole training

    @property
    def images(self) -> int:
        """Images seen before this step."""
        return self.step * self.batch


Betas: TypeAlias = tuple[float, float]  # decays of Adam's averages of the gradient and of its square


@dataclass(frozen=True)
class Adam:
    """One player's optimiser."""

    lr: Callable[[Progress], float]
    betas: Betas | Callable[[Progress], Betas] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False  # True: AdamW
    rectified: bool = False  # True: RAdam, whose first steps are smaller (Liu et al. 2020, arXiv:1908.03265)
    clip_norm: float | None = None  # of the gradient over all of the player's parameters
    replace_nonfinite: float | None = None  # gradients: NaN becomes 0, +-inf this bound (EDM)


@dataclass(frozen=True)
class Ema:
    """Moving average of a player's parameters (not its buffers): ema = decay * ema + (1 - decay) * parameter."""

    decay: Callable[[Progress], float]


@dataclass(frozen=True)
class Player:
    """One optimiser's update of one network; several players may train the same network (TDPM)."""

    name: str
    net: str
    optimiser: Adam
    ema: Ema | None = None
    every: int = 1  # steps whenever step % every == 0
    trains: Callable[[str], bool] | None = None  # of a parameter's name: whether it is trained; None: all are


Nets: TypeAlias = Mapping[str, nn.Module]
Draws: TypeAlias = dict[str, Tensor]  # all randomness of one loss but dropout's masks; first dimension: the batch
Metrics: TypeAlias = dict[str, Tensor]  # detached scalars


class Parent(NamedTuple):
    """The run that a derived run needs (`from` in its entry)."""

    method: Any  # a Generator, with its settings
    nets: Nets  # with the weights that it samples with


class Trainable(Protocol):
    """Generators, classifiers and discriminators alike: a frozen dataclass whose fields are the hyper-parameters."""

    def players(self) -> tuple[Player, ...]:
        """Stepped in this order; each has its own forward and optimiser, all else frozen."""
        ...

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        """Fresh networks (frozen ones too) from torch's global generator; buffers carry state between steps.

        The network that samples stores the `shape` of an image for `sample`.
        """
        ...

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        """All randomness of one loss, for a worker's rows; `rng.row_numbers` has their numbers in the global batch.

        Layers draw masks of dropout from the same generators later, in `loss` (`core/dropout`).
        """
        ...

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Scalar to minimise over `player`'s network, and the metrics to log. Pure: no I/O; random: dropout only."""
        ...


@runtime_checkable
class Remembering(Trainable, Protocol):
    """A method whose networks' buffers are updated from every step's samples."""

    def remember(self, player: str, nets: Nets, notes: Tensor) -> None:
        """After a step, the same on every worker. notes: [global batch, ...], from `loss`'s metric "notes"."""
        ...


@runtime_checkable
class Starting(Trainable, Protocol):
    """A method with a rule of its own for starting from another run; others start from networks of equal names.

    `roles` of a method (default: {"start": False}) has the roles of another run that it has a use for, and whether it
    needs them. With "teacher" the run is frozen in nets["teacher"] (`core.training.derived.Teacher`).
    """

    roles: ClassVar[Mapping[str, bool]]

    def start(self, nets: Nets, parent: Parent) -> None:
        """Set the weights of fresh `nets`. ValueError, with what to do, if the other run does not fit."""
        ...


class Autoencoder(Trainable, Protocol):
    """A method that turns images into latents and back, trained by itself before the runs on its latents."""

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of images of this shape."""
        ...

    def encode(self, nets: Nets, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, C, H, W] in [-1, 1] -> mean and standard deviation of their latents, [B, *latent_shape] each."""
        ...

    def decode(self, nets: Nets, latents: Tensor) -> Tensor:
        """latents [B, *latent_shape], as encoded -> images, about in [-1, 1]."""
        ...


class Generator(Trainable, Protocol):
    """A method that makes samples. `Sampling` is the dataclass of an entry's `sample` block."""

    Sampling: ClassVar[type]

    def sample(self, nets: Nets, sampling: Any, labels: Tensor | None, rng: ImageRng) -> Tensor:
        """[B, *shape] float32 samples, row i from rng's seed i alone."""
        ...


@runtime_checkable
class Diffusion(Generator, Protocol):
    """A generator that samples through a `Denoiser`, so that guides can steer it."""

    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser: ...

    def sample(
        self,
        nets: Nets,
        sampling: Any,
        labels: Tensor | None,
        rng: ImageRng,
        wrap: Wrap = unwrapped,
        source: Source | None = None,
    ) -> Tensor: ...
