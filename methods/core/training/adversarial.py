"""Adversarial games in logits, their gradient penalties R1 and R2, and statistics that show collapse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

from methods.core.checks import require, require_at_least, require_choice
from methods.core.types import Metrics

GameName = Literal["non-saturating", "relativistic"]
T = TypeVar("T", bound=tuple)


def loss_on_real(logits: Tensor) -> Tensor:
    """-log sigmoid(D), mean over batch and logits: a discriminator's loss on reals, a generator's on fakes."""
    return softplus(-logits).mean()


def loss_on_fake(logits: Tensor) -> Tensor:
    """-log(1 - sigmoid(D)), mean over batch and logits: a discriminator's loss on fakes."""
    return softplus(logits).mean()


@dataclass(frozen=True)
class Game:
    """What the players minimise, and the discriminator's gradient penalties. Logits [B, ...], any number per image.

    non-saturating: each image by its own logits. relativistic: each fake against the real of its row, whose difference
    of logits decides, with R1 and R2 in every step (R3GAN, Huang et al. 2024, arXiv:2501.05441). Such logits are
    defined up to a constant, so they are no density ratio.
    """

    name: GameName
    r1_gamma: float  # of the penalty on reals
    r2_gamma: float | None = None  # of the penalty on fakes, in the relativistic game alone; None: r1_gamma
    r1_every: int = 1  # steps, in the non-saturating game alone

    def __post_init__(self) -> None:
        require_choice("game", self.name, GameName)
        require_at_least(0, r1_gamma=self.r1_gamma, r2_gamma=self.r2_gamma)
        require_at_least(1, r1_every=self.r1_every)
        allowed = self.is_relativistic or self.r2_gamma is None
        require(allowed, "r2_gamma", self.r2_gamma, f"none beside game {self.name!r}")

    @property
    def is_relativistic(self) -> bool:
        return self.name == "relativistic"

    def penalties(self, step: int) -> dict[str, float]:
        """gamma / 2 of "r1" and "r2", where they are above 0 and due at this step."""
        if self.is_relativistic:
            gammas = {"r1": self.r1_gamma, "r2": self.r1_gamma if self.r2_gamma is None else self.r2_gamma}
        else:
            gammas = {"r1": self.r1_gamma} if step % self.r1_every == 0 else {}
        return {name: gamma / 2 for name, gamma in gammas.items() if gamma > 0}

    def generator_loss(self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
        """discriminate: images [B, *shape] -> logits."""
        return loss_on_real(self.compared(discriminate(fake), discriminate, real))

    def compared(self, on_fake: Tensor, discriminate: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
        """What a generator raises: the logits of its fakes, less those of their reals in the relativistic game."""
        if not self.is_relativistic:
            return on_fake
        with torch.no_grad():
            on_real = discriminate(real)
        return on_fake - on_real

    def adversarial_loss(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The discriminator's loss without penalties."""
        if self.is_relativistic:
            return loss_on_real(on_real - on_fake)
        return loss_on_real(on_real) + loss_on_fake(on_fake)

    def discriminator_loss(
        self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, step: int
    ) -> tuple[Tensor, Metrics]:
        """With the penalties of this step. discriminate: images [B, *shape] -> logits."""
        weights = self.penalties(step)
        fake, real = fake.detach().requires_grad_("r2" in weights), real.detach().requires_grad_("r1" in weights)
        on_fake, on_real = discriminate(fake), discriminate(real)
        loss = self.adversarial_loss(on_real, on_fake)
        metrics = {"discriminator_loss": loss.detach()}
        for name, logits, x in (("r1", on_real, real), ("r2", on_fake, fake)):
            if name in weights:
                penalty = weights[name] * squared_gradient(logits, x)
                loss, metrics[name] = loss + penalty, penalty.detach()
        return loss, metrics | self.logit_statistics(on_real, on_fake)

    def logit_statistics(self, on_real: Tensor, on_fake: Tensor) -> Metrics:
        """Metrics to log, not trained on: mean logits, or their mean difference where nothing else is defined."""
        if self.is_relativistic:
            return {"logit_difference": (on_real - on_fake).detach().mean()}
        return {"real_logit": on_real.detach().mean(), "fake_logit": on_fake.detach().mean()}


def squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of |grad_x D|^2, summed over an image; R1 (x real) and R2 (x fake) are gamma / 2 times
    it (Mescheder et al. 2018).

    Differentiable again, so that a discriminator can be trained on it. x must require gradients; every image's logits
    may depend on its own x only (minibatch statistics mix in the neighbours' gradients, as in the official codes).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def with_squared_gradient(discriminate: Callable[[Tensor], T], x: Tensor) -> tuple[T, Tensor]:
    """discriminate(x), a named tuple with `logits`, and the logits' `squared_gradient`; also under torch.func.vmap."""

    def logits(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = cast(Any, discriminate(x))
        kinds.append(type(output))
        return output.logits.sum(), {name: part for name, part in output._asdict().items() if part is not None}

    kinds: list[type[T]] = []
    gradient, parts = torch.func.grad(logits, has_aux=True)(x)
    return kinds[0](**parts), gradient.flatten(1).square().sum(1).mean()


def spreads(real: Tensor, fake: Tensor, labels: Tensor | None = None, *, counted: Tensor | None = None) -> Metrics:
    """Metrics to log, not trained on: the `spread` of generated images next to that of real ones.

    counted: [B] bool, rows whose images are generated from noise alone; from a less noisy input, even a collapsed
    generator gives diverse images, because it copies the input.
    """
    return {"real_spread": spread(real, labels, counted), "fake_spread": spread(fake, labels, counted)}


@torch.no_grad()
def spread(x: Tensor, labels: Tensor | None = None, counted: Tensor | None = None) -> Tensor:
    """Root mean square difference per value of neighbours in the batch x [B, *shape], of one class where there are
    labels [B]; 0 if there is no such pair."""
    group = torch.zeros(len(x), dtype=torch.int64, device=x.device) if labels is None else labels
    group = group if counted is None else group.masked_fill(~counted, -1)
    group, order = group.sort(stable=True)
    rows = x.flatten(1)[order]
    paired = (group[1:] == group[:-1]) & (group[1:] >= 0)
    squares = (rows[1:] - rows[:-1]).square().mean(1)
    return ((squares * paired).sum() / paired.sum().clamp(min=1)).sqrt()
