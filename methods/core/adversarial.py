"""The non-saturating adversarial game in logits, and the R1 penalty."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

T = TypeVar("T", bound=tuple)


def loss_on_real(logits: Tensor) -> Tensor:
    """-log sigmoid(D), mean over batch and logits: what a discriminator pays for reals, a generator for fakes."""
    return softplus(-logits).mean()


def loss_on_fake(logits: Tensor) -> Tensor:
    """-log(1 - sigmoid(D)), mean over batch and logits: what a discriminator pays for fakes."""
    return softplus(logits).mean()


def squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """Mean over the batch of |grad_x D|^2, summed over an image; R1 is gamma / 2 times it (Mescheder et al. 2018).

    Differentiable again, so that a discriminator can be trained on it. x must require gradients; every image's logits
    may depend on its own x only (minibatch statistics mix in the neighbours' gradients, as in the official codes).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def with_squared_gradient(judge: Callable[[Tensor], T], x: Tensor) -> tuple[T, Tensor]:
    """What `judge` says of x, a named tuple with `logits`, and their `squared_gradient`; also under torch.func.vmap."""

    def logits(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        verdict = cast(Any, judge(x))
        kinds.append(type(verdict))
        return verdict.logits.sum(), {name: said for name, said in verdict._asdict().items() if said is not None}

    kinds: list[type[T]] = []
    gradient, said = torch.func.grad(logits, has_aux=True)(x)
    return kinds[0](**said), gradient.flatten(1).square().sum(1).mean()
