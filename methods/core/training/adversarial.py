"""The non-saturating adversarial game in logits, the R1 penalty, and statistics that show collapse."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

from methods.core.types import Metrics

T = TypeVar("T", bound=tuple)


def loss_on_real(logits: Tensor) -> Tensor:
    """-log sigmoid(D), mean over batch and logits: a discriminator's loss on reals, a generator's on fakes."""
    return softplus(-logits).mean()


def loss_on_fake(logits: Tensor) -> Tensor:
    """-log(1 - sigmoid(D)), mean over batch and logits: a discriminator's loss on fakes."""
    return softplus(logits).mean()


def discriminator_loss(
    on_real: Tensor, on_fake: Tensor, r1_gamma: float, real: Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """The loss for logits of reals and fakes. real: the reals, where R1 is to be added (see `squared_gradient`)."""
    loss = loss_on_real(on_real) + loss_on_fake(on_fake)
    metrics = {"discriminator_loss": loss.detach()}
    if real is not None:
        r1 = r1_gamma / 2 * squared_gradient(on_real, real)
        loss, metrics["r1"] = loss + r1, r1.detach()
    return loss, metrics


def squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of |grad_x D|^2, summed over an image; R1 is gamma / 2 times it (Mescheder et al. 2018).

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


def collapse_statistics(
    on_real: Tensor,
    on_fake: Tensor,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None = None,
    *,
    counted: Tensor | None = None,
) -> Metrics:
    """Metrics to log, not trained on: mean logits, and the `spread` of generated images next to that of real ones.

    counted: [B] bool, rows whose images are generated from noise alone; from a less noisy input, even a collapsed
    generator gives diverse images, because it copies the input.
    """
    return {
        "real_logit": on_real.detach().mean(),
        "fake_logit": on_fake.detach().mean(),
        "real_spread": spread(real, labels, counted),
        "fake_spread": spread(fake, labels, counted),
    }


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
