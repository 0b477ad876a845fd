"""What DDPM and improved DDPM have in common: one denoiser of a chain's states, and sampling along the chain."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.core.checks import check_chain_steps, check_label_dropout, require_at_least, require_fraction
from methods.core.labels import classifier_free_denoiser
from methods.core.process.chains import Chain, chain_of
from methods.core.rng import ImageRng
from methods.core.sampling.ancestral import StepNet, Variance, walk
from methods.core.types import Adam, Denoiser, Ema, Nets, Player, Source, Wrap, unwrapped


class ChainModel(ABC):
    """Subclasses are frozen dataclasses that have these fields and build a `StepNet`."""

    steps: int
    schedule: Literal["linear", "cosine", "latent"]
    conditional: bool
    text: bool = False
    label_dropout: float
    width: int
    depth: int
    lr: float
    ema: float

    def __post_init__(self) -> None:
        check_chain_steps(self.steps, self.schedule)
        require_at_least(1, width=self.width, depth=self.depth)
        check_label_dropout(self.label_dropout, self.conditional or self.text)
        require_fraction(ema=self.ema)

    def players(self) -> tuple[Player, ...]:
        return (Player("denoiser", "denoiser", Adam(lambda progress: self.lr), Ema(lambda progress: self.ema)),)

    @property
    def chain(self) -> Chain:
        return chain_of(self.schedule, self.steps)

    @abstractmethod
    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser: ...

    @abstractmethod
    def spacing_and_variance(self, sampling: Any) -> tuple[str | None, Variance]:
        """The states to visit, as in `Chain.spaced`, and the variance of ancestral steps."""

    @torch.no_grad()
    def sample(
        self,
        nets: Nets,
        sampling: Any,
        labels: Tensor | None,
        rng: ImageRng,
        wrap: Wrap = unwrapped,
        source: Source | None = None,
    ) -> Tensor:
        """One network call per state visited; with classifier-free guidance two."""
        net, (spacing, variance) = nets["denoiser"], self.spacing_and_variance(sampling)
        assert isinstance(net, StepNet)
        guidance = (self.label_dropout, sampling.cfg_weight, sampling.cfg_interval, sampling.cfg_channels)
        denoise = wrap(classifier_free_denoiser(self.denoiser, net, labels, *guidance))
        x, chain = rng.normal(*net.shape), self.chain.spaced(spacing)
        clip = net.clips if sampling.clip is None else sampling.clip
        return walk(denoise, x, chain, rng, sampling.eta, variance, clip, source)
