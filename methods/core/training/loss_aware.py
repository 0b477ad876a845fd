"""Training times drawn by their losses so far: loss-second-moment sampling (improved DDPM, section 3.3)."""

import torch
from torch import Tensor, nn

LOSSES_PER_TIME = 10  # that the history keeps
UNIFORM_SHARE = 0.001  # of the uniform distribution in the mixture


class LossHistory(nn.Module):
    """The last losses of each of `times` times: a network without parameters, saved and resumed as the others are."""

    losses: Tensor  # [times, LOSSES_PER_TIME], in any order
    seen: Tensor  # [times] how often each time was drawn

    def __init__(self, times: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(times, LOSSES_PER_TIME))
        self.register_buffer("seen", torch.zeros(times, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """[times] float64: the root mean square of the losses, normalised; uniform until every time has enough."""
        weights = self.losses.double().square().mean(1).sqrt()
        uniform = torch.full_like(weights, 1 / len(weights))
        learned = (1 - UNIFORM_SHARE) * weights / weights.sum() + UNIFORM_SHARE * uniform
        return torch.where((self.seen < LOSSES_PER_TIME).any(), uniform, learned)

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """uniform [B] in [0, 1) -> times [B] int64, and weights of their losses [B]: 1 / (times * probability)."""
        probabilities = self.probabilities()
        edges = probabilities.cumsum(0)
        index = torch.searchsorted(edges, uniform.double(), right=True).clamp(max=len(edges) - 1)
        weights = 1 / (len(edges) * probabilities[index])
        return index, weights

    @torch.no_grad()
    def remember(self, index: Tensor, losses: Tensor) -> None:
        """Record the losses [B] of one step's samples at times index [B], in their order."""
        order = index.argsort(stable=True)
        index, losses = index[order], losses[order]
        count = index.bincount(minlength=len(self.seen))
        rank = torch.arange(len(index), device=index.device) - (count.cumsum(0) - count)[index]
        last = rank >= count[index] - LOSSES_PER_TIME
        place = (self.seen[index] + rank) % LOSSES_PER_TIME
        self.losses[index[last], place[last]] = losses[last].to(self.losses)
        self.seen += count


def history_of(net: nn.Module) -> LossHistory:
    assert isinstance(net, LossHistory)
    return net
