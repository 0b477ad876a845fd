"""Classifier guidance (Dhariwal and Nichol 2021, arXiv:2105.05233, section 4), optionally driven by entropy
(Zheng et al. 2022, arXiv:2206.11474).

The classifier's inputs are states of a chain, in variance-preserving coordinates, and their step; `guide` evaluates it
at a denoiser's x and sigma, so it guides any diffusion model, not only those of this chain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.core.checks import check_chain_steps, check_labels, require, require_at_least
from methods.core.guidance import Guide, WeightLaw, constant, switched
from methods.core.numbers import Count, NotNegative, Number, Share
from methods.core.process.chains import Chain, chain_of, look_up
from methods.core.process.noise import LinearVP
from methods.core.process.posterior import diffuse
from methods.core.rng import StepRng
from methods.core.shapes import per_sample
from methods.core.types import Adam, At, Batch, DataSpec, Draws, Metrics, Nets, Player, Progress
from methods.nets.adm.encoder import EncoderUNetModel, Pool
from methods.nets.shapes import square_size
from methods.nets.small.encoder import MlpEncoder


@dataclass(frozen=True)
class Use:
    """How a guided run uses the classifier. Default: ADM-G with a class-conditional model; unconditional: 10."""

    scale: Number = 1.0  # weight of the classifier's gradient
    entropy_driven: bool = False  # times log K / entropy of each image's predicted classes
    entropy_cap: Number | None = None  # at most this much; None: no cap, as in the official code
    late_scale: Number | None = None  # instead of scale from switch_time on; None: never (ADM-G++ has both)
    switch_time: Share = 0.65  # of LinearVP, whatever the classifier's own chain

    def __post_init__(self) -> None:
        capped = self.entropy_cap is not None
        require(not capped or self.entropy_driven, "entropy_cap", self.entropy_cap, "none unless entropy_driven")
        require(0 < self.switch_time < 1, "switch_time", self.switch_time, "between 0 and 1")
        switches = self.late_scale is not None or self.switch_time == 0.65
        require(switches, "switch_time", self.switch_time, "none without late_scale (leave it out)")

    @property
    def law(self) -> WeightLaw:
        if self.late_scale is None:
            return constant(self.scale)
        sigma = LinearVP().sigma(torch.tensor(self.switch_time, dtype=torch.float64)).item()
        return switched(constant(self.scale), constant(self.late_scale), sigma)


@dataclass(frozen=True)
class Classifier:
    """Classifier of noisy images at every step of a chain. Training settings: ADM's at 256 pixels."""

    steps: Count = 1000  # of the chain
    schedule: Literal["linear", "cosine"] = "linear"  # of the noise levels
    classes: Count | None = None  # None: the data's; others: a feature trunk of other classes, which cannot guide
    net: Literal["unet", "mlp"] = "unet"  # the way down of ADM's U-Net for square images; mlp for points too
    width: Count = 128  # channels at channel_mult 1, or hidden units
    depth: Count = 2  # residual blocks per resolution, or of the mlp
    channel_mult: tuple[Count, ...] = (1, 1, 2, 2, 4, 4)  # U-Net: width at each resolution, finest first
    attention: tuple[Count, ...] = (32, 16, 8)  # U-Net: pixels per side where blocks attend
    head_width: Count = 64  # U-Net: channels of an attention head
    pool: Pool = "attention"  # U-Net
    entropy_weight: NotNegative = 0.0  # of log K - entropy in the loss; entropy-aware training: 0.1
    lr: NotNegative = 3e-4  # AdamW's first learning rate, falls linearly to 0
    weight_decay: NotNegative = 0.05  # AdamW's

    Use = Use

    def __post_init__(self) -> None:
        check_chain_steps(self.steps, self.schedule)
        require_at_least(1, width=self.width, depth=self.depth)
        require_at_least(0, entropy_weight=self.entropy_weight)

    def players(self) -> tuple[Player, ...]:
        adam = Adam(self.learning_rate, weight_decay=self.weight_decay, decoupled=True)
        return (Player("classifier", "classifier", adam),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.classes is None else self.classes
        if classes < 2:
            raise ValueError(f"a classifier needs labelled data of at least 2 classes; these have {classes}")
        return {"classifier": StepClassifier(self._body(data.shape, classes), classes)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"index": rng.integers(self.steps, len(batch.images)), "noise": rng.normal(*batch.images.shape)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Cross-entropy at uniform steps; accuracy there."""
        if batch.labels is None:
            raise ValueError("a classifier trains on labels: this batch has none")
        x_t = diffuse(batch.images, look_up(self.chain.alpha_bar, draws["index"]), draws["noise"])
        logits = nets["classifier"](x_t, draws["index"]).logits
        loss = cross_entropy(logits, batch.labels)
        if self.entropy_weight:
            loss = loss + self.entropy_weight * (math.log(logits.shape[1]) - entropy(logits)).mean()
        accuracy = (logits.argmax(1) == batch.labels).double().mean()
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    def guide(self, nets: Nets, labels: Tensor | None, use: Use) -> Guide:
        """Towards the classes labels [B]."""
        if labels is None:
            raise ValueError("classifier guidance needs the classes to guide towards: pass labels")
        if self.classes is not None:
            raise ValueError(f"classes: {self.classes} came, none was wanted: a guide's classes are those of its data")
        classifier = nets["classifier"]
        assert isinstance(classifier, StepClassifier)
        check_labels(labels, classifier.classes)
        log_weight = class_log_weight(lambda output, at: output.logits, labels, use)
        return Guide(log_weight, use.law, trunk=Trunk(self, classifier))

    def learning_rate(self, progress: Progress) -> float:
        return self.lr * (1 - progress.step / progress.steps)

    @property
    def chain(self) -> Chain:
        return chain_of(self.schedule, self.steps)

    def feature_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the features before the pool, for an image of this shape."""
        if self.net == "mlp":
            return (self.width,)
        smallest = shape[-1] >> (len(self.channel_mult) - 1)
        return (self.width * self.channel_mult[-1], smallest, smallest)

    def _body(self, shape: tuple[int, ...], classes: int) -> EncoderUNetModel | MlpEncoder:
        if self.net == "mlp":
            return MlpEncoder(shape, outputs=classes, width=self.width, blocks=self.depth)
        return EncoderUNetModel(
            square_size(shape, self.net), shape[0], self.width, classes, num_res_blocks=self.depth,
            attention_resolutions=self.attention, channel_mult=self.channel_mult, num_head_channels=self.head_width,
            use_scale_shift_norm=True, resblock_updown=True, pool=self.pool,
        )  # fmt: skip


class ClassifierOutput(NamedTuple):
    """A classifier's output for noisy images."""

    logits: Tensor  # [B, K]
    features: Tensor  # [B, *feature_shape] before the pool


class StepClassifier(nn.Module):
    """A classifier conditioned on the step of the chain it was trained on."""

    def __init__(self, body: EncoderUNetModel | MlpEncoder, classes: int) -> None:
        super().__init__()
        self.body, self.classes = body, classes

    def forward(self, x: Tensor, step: Tensor) -> ClassifierOutput:
        """x: [B, *shape] any float, variance-preserving; step: [B] int64."""
        dtype = next(self.body.parameters()).dtype
        outputs = self.body.outputs(x.to(dtype), step.to(dtype))
        return ClassifierOutput(self.body.pooled(outputs), outputs[-1])


@dataclass(frozen=True)
class Trunk:
    """A trained classifier at a sampler's x and sigma. Guides with equal trunks share one forward pass."""

    classifier: Classifier
    net: nn.Module

    def __call__(self, x: Tensor, at: At) -> ClassifierOutput:
        sigma = at.sigma.to(x)
        return self.net(x * per_sample(torch.rsqrt(1 + sigma**2), x), self.classifier.chain.index_of(sigma))


def class_log_weight(logits: Callable[[Any, At], Tensor], labels: Tensor, use: Use) -> Callable[[Any, At], Tensor]:
    """log p(label | x) [B]; entropy_driven: times the entropy scale, which has no gradient itself."""

    def log_weight(x: Any, at: At) -> Tensor:
        at_x = logits(x, at)
        log_probability = torch.log_softmax(at_x, 1).gather(1, labels[:, None])[:, 0]
        if not use.entropy_driven:
            return log_probability
        scale = entropy_scale(at_x.detach())
        return (scale if use.entropy_cap is None else scale.clamp(max=use.entropy_cap)) * log_probability

    return log_weight


def entropy(logits: Tensor) -> Tensor:
    """[B, K] -> [B] entropy of the predicted classes, in nats."""
    log_probabilities = torch.log_softmax(logits, 1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


def entropy_scale(logits: Tensor) -> Tensor:
    """[B, K] -> [B] log K / entropy: 1 for uniform probabilities, very large for a confident prediction.

    An entropy that rounds to 0 is replaced by the precision's epsilon: infinity times a zero gradient would be NaN.
    """
    return math.log(logits.shape[1]) / entropy(logits).clamp(min=torch.finfo(logits.dtype).eps)
