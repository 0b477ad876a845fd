"""The variational bound of a chain in bits per dimension, term by term (improved DDPM section 2.1)."""

import math

import torch
from torch import Tensor

from methods.core.process.chains import Chain, look_up
from methods.core.process.posterior import Posterior
from methods.core.sampling.ancestral import Reading, Variance, learned_log_variance
from methods.core.shapes import per_sample


def bound_terms(chain: Chain, reading: Reading, x0: Tensor, x_t: Tensor, index: Tensor, variance: Variance) -> Tensor:
    """[B] the term of each state's index [B]: KL of q(x_{t-1} | x_t, x_0) to the model's; at index 0 -log p(x_0 | x_1).

    x0, x_t: [B, ...]; reading: the network's at x_t; its variance is learned, or else the chain's.
    """
    back = Posterior(*(look_up(table, index) for table in chain.posterior))
    true_log_variance = _entries(chain.log_variance_small, index, x_t)
    if reading.variance_share is not None:
        log_variance = learned_log_variance(chain, reading.variance_share, index)
    else:
        log_variance = true_log_variance if variance == "small" else _entries(chain.variance_large.log(), index, x_t)
    mean = back.mean(reading.x0, x_t)
    divergence = gaussian_kl(back.mean(x0, x_t), true_log_variance, mean, log_variance)
    surprise = -discretized_log_likelihood(x0, mean, log_variance / 2)
    return _bits(torch.where(per_sample(index == 0, x0), surprise, divergence))


def prior_bits(chain: Chain, x0: Tensor) -> Tensor:
    """[B] KL from the last state's distribution given x0 [B, ...] to N(0, I), the same for every network."""
    kept = chain.alpha_bar[-1]
    zero = torch.zeros_like(x0)
    return _bits(gaussian_kl(kept.sqrt().to(x0) * x0, (1 - kept).log().to(x0) + zero, zero, zero))


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N1 || N2) in nats, elementwise."""
    difference = log_variance1 - log_variance2
    return 0.5 * (difference.exp() - difference - 1 + (mean1 - mean2).square() * (-log_variance2).exp())


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Elementwise log-probability, in nats, that a Gaussian falls in the 1/127.5-wide bin of x, one of 256 grey levels.

    x in [-1, 1], its first and last bin open to infinity. The normal distribution function is a tanh approximation, as
    in the official code: the bound's published values depend on it.
    """
    centred, inverse_std = x - mean, (-log_std).exp()
    above, below = (_normal_cdf(inverse_std * (centred + edge)) for edge in (1 / 255, -1 / 255))
    inside = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return inside.clamp(min=1e-12).log()


def _normal_cdf(y: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))


def _entries(table: Tensor, index: Tensor, like: Tensor) -> Tensor:
    return per_sample(look_up(table, index).to(like), like) + torch.zeros_like(like)


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)
