"""Sampling along a chain from noise to an image: DDPM's ancestral steps and DDIM's.

States are in variance-preserving coordinates here; a denoiser takes variance-exploding ones,
x_ve = x_vp / sqrt(alpha_bar) = x_vp sqrt(1 + sigma^2).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from methods.core.checks import check_source, require
from methods.core.process.chains import Chain, look_up
from methods.core.process.posterior import diffuse
from methods.core.rng import ImageRng
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser, Prediction, Source

Variance: TypeAlias = Literal["small", "large", "learned"]  # of a step back: the posterior's, beta, or between the two
Predicts: TypeAlias = Literal["noise", "image"]
Net: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # x_vp [B, ...], step [B] int64 of the training chain -> output


def check_steps_back(eta: float | None, variance: Variance = "large") -> None:
    """Of a `Sampling`: eta in [0, 1] chooses DDIM's steps, whose variance it fixes; None ancestral ones."""
    require(eta is None or 0 <= eta <= 1, "eta", eta, "between 0 and 1, or none")
    require(eta is None or variance == "large", "variance", variance, "none beside eta (leave it out)")


class StepNet(nn.Module):
    """A network conditioned on the step of the chain it was trained on.

    body(x_vp [B, *shape], time [B] = time_scale * step, labels [B] int64 or None); classes 0 if it is unconditional.
    has_null: the body has one class more, for no class. has_text: captions take the place of labels, [B, L] tokens or
    encoded, and the body's `text` encodes them. clips: samplers keep predicted images in [-1, 1].
    """

    def __init__(
        self,
        body: nn.Module,
        shape: tuple[int, ...],
        classes: int = 0,
        time_scale: float = 1.0,
        has_null: bool = False,
        has_text: bool = False,
        clips: bool = True,
    ) -> None:
        super().__init__()
        self.body, self.shape, self.classes, self.time_scale = body, shape, classes, time_scale
        self.has_null, self.has_text, self.clips = has_null, has_text, clips

    @property
    def is_conditional(self) -> bool:
        return self.has_text or self.classes > 0

    def forward(self, x: Tensor, step: Tensor, labels: Tensor | None = None) -> Tensor:
        """x: [B, *shape] any float; step: [B] int64; labels: [B], -1 or None for no class, unused without classes."""
        if self.has_null:
            labels = torch.full_like(step, -1) if labels is None else labels
            labels = torch.where(labels < 0, self.classes, labels)
        if self.classes and labels is None:
            raise ValueError("a conditional network needs the images' classes: pass their labels")
        dtype = next(self.body.parameters()).dtype
        time = step.to(dtype) * self.time_scale
        return self.body(x.to(dtype), time, labels if self.is_conditional else None)


class Reading(NamedTuple):
    """The image and the variance that a network's output encodes."""

    x0: Tensor
    variance_share: Tensor | None  # of the state before, as in `Prediction`; None unless it is learned


def read_output(
    chain: Chain, output: Tensor, x_t: Tensor, index: Tensor, predicts: Predicts, variance: Variance
) -> Reading:
    """x_t: [B, C, ...] states at `index` [B]; output: [B, C, ...], or [B, 2 C, ...] if it holds the variance as well.

    A learned variance lies between the chain's small and large one (improved DDPM eq. 15).
    """

    def entries(table: Tensor) -> Tensor:
        return per_sample(look_up(table, index).to(x_t), x_t)

    share = None
    if variance == "learned":
        output, v = output.chunk(2, 1)
        share = (v + 1) / 2
    if predicts == "image":
        return Reading(output, share)
    return Reading(entries(1 / chain.alpha_bar.sqrt()) * x_t - entries(chain.sigma) * output, share)


def learned_log_variance(chain: Chain, share: Tensor, index: Tensor) -> Tensor:
    """share [B, ...] of the way from the small to the large variance of states `index` [B], in logarithms."""
    low, high = (
        per_sample(look_up(table, index).to(share), share) for table in (chain.log_variance_small, chain.betas.log())
    )
    return low + share * (high - low)


def chain_denoiser(net: Net, chain: Chain, predicts: Predicts = "noise", variance: Variance = "large") -> Denoiser:
    """A network as a denoiser for the noise levels of `chain`."""

    def denoise(x: Tensor, at: At) -> Prediction:
        index = chain.index_of(at.sigma)
        x_t = x / per_sample((1 + at.sigma**2).sqrt(), x)
        output = net(x_t, look_up(chain.steps, index))
        x0, share = read_output(chain, output, x_t, index, predicts, variance)
        return Prediction(x0, variance_share=share)

    return denoise


class Step(NamedTuple):
    x: Tensor  # the state before, variance-preserving
    x0: Tensor  # the clean image it was aimed at


def predict(denoise: Denoiser, x: Tensor, chain: Chain, index: int) -> tuple[Prediction, float]:
    """The denoiser's prediction for state x [B, ...] of the chain, and the state's alpha_bar."""
    alpha_bar, sigma = float(chain.alpha_bar[index]), float(chain.sigma[index])
    at = At(x.new_full((len(x),), sigma), step=len(chain) - 1 - index, begins=sigma)
    return denoise(x / alpha_bar**0.5, at), alpha_bar


def clipped(denoise: Denoiser) -> Denoiser:
    """The predicted image clamped to [-1, 1]; the guidance score is unchanged."""

    def clipped_denoise(x: Tensor, at: At) -> Prediction:
        prediction = denoise(x, at)
        return prediction._replace(x0=prediction.x0.clamp(-1, 1))

    return clipped_denoise


def ancestral_step(denoise: Denoiser, x: Tensor, chain: Chain, index: int, rng: ImageRng, variance: Variance) -> Step:
    """Draw the state before x from N(posterior mean + variance * guidance score, variance). DDPM alg. 2; ADM alg. 1."""
    prediction, alpha_bar = predict(denoise, x, chain, index)
    coef_x0, coef_xt, _ = (float(table[index]) for table in chain.posterior)
    mean, spread = coef_x0 * prediction.x0 + coef_xt * x, _variance(prediction, chain, index, variance)
    if prediction.guidance_score is not None:
        mean = mean + spread * prediction.guidance_score / alpha_bar**0.5  # the gradient by x_vp
    return Step(mean + spread**0.5 * rng.normal(*x.shape[1:]).to(x) if index else mean, prediction.x0)


def ddim_step(denoise: Denoiser, x: Tensor, chain: Chain, index: int, rng: ImageRng, eta: float) -> Step:
    """DDIM eq. 12, eta = 0 deterministic; guidance moves the predicted noise (ADM alg. 2)."""
    prediction, alpha_bar = predict(denoise, x, chain, index)
    before, sigma = float(chain.alpha_bar_before[index]), float(chain.sigma[index])
    x0, score = prediction.x0, prediction.guidance_score
    x0 = x0 if score is None else x0 + sigma**2 * score
    noise = (x / alpha_bar**0.5 - x0) / sigma
    std = eta * float(chain.variance_small[index]) ** 0.5
    mean = before**0.5 * x0 + (1 - before - std**2) ** 0.5 * noise
    return Step(mean + std * rng.normal(*x.shape[1:]).to(x) if std else mean, x0)


@torch.no_grad()
def ancestral(denoise: Denoiser, x: Tensor, chain: Chain, rng: ImageRng, variance: Variance) -> Tensor:
    """From the noisiest state x [B, ...] to an image, one call and one draw per state."""
    for index in reversed(range(len(chain))):
        x = ancestral_step(denoise, x, chain, index, rng, variance).x
    return x


@torch.no_grad()
def ddim(denoise: Denoiser, x: Tensor, chain: Chain, rng: ImageRng, eta: float = 0.0) -> Tensor:
    """From the noisiest state x [B, ...] to an image, one call per state; eta = 1 has the ancestral small variance."""
    for index in reversed(range(len(chain))):
        x = ddim_step(denoise, x, chain, index, rng, eta).x
    return x


def walk(
    denoise: Denoiser,
    x: Tensor,
    chain: Chain,
    rng: ImageRng,
    eta: float | None,
    variance: Variance,
    clip: bool,
    source: Source | None = None,
) -> Tensor:
    """From noise x [B, ...] to float32 images: ancestral steps without an eta, DDIM's with one.

    With a source: from its images with noise x, at the state whose level is nearest to the source's.
    """
    if clip:
        denoise = clipped(denoise)
    if source is not None:
        x, chain = begin_chain(source, x, chain)
    if eta is None:
        return ancestral(denoise, x.double(), chain, rng, variance).float()
    return ddim(denoise, x.double(), chain, rng, eta).float()


def begin_chain(source: Source, noise: Tensor, chain: Chain) -> tuple[Tensor, Chain]:
    """SDEdit on a chain: the noised images, and the states that are left (SDEdit algorithm 2)."""
    low, high = float(chain.sigma[0]), float(chain.sigma[-1])
    require(
        low <= source.sigma <= high, "source.sigma", source.sigma, f"a level of the chain, {low:.4g} to {high:.4g},"
    )
    check_source(source, noise)
    index = chain.index_of(torch.tensor([source.sigma], dtype=torch.float64))
    x = diffuse(source.images.to(noise), chain.alpha_bar[index].to(noise.device), noise)
    return x, chain.kept(torch.arange(int(index) + 1))


def _variance(prediction: Prediction, chain: Chain, index: int, variance: Variance) -> Tensor | float:
    if variance == "learned":
        share = prediction.variance_share
        assert share is not None, "this denoiser predicts no variance"
        at = torch.full((len(share),), index, device=share.device)
        return learned_log_variance(chain, share, at).exp()
    return float((chain.variance_small if variance == "small" else chain.variance_large)[index])
