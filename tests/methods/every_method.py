"""Every method of methods/*.py with small settings, for tests that hold for all methods."""

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any

import torch

import methods
from methods.classifier_guidance import Classifier
from methods.core.loop import TrainState, batch_indices
from methods.core.training.derived import begin
from methods.core.types import Batch, DataSpec, Parent, Trainable
from methods.edm import EDM
from pipeline.config.build import method_class

CONTRACT = ("players", "build", "draw", "loss")
CHOSEN: list["Case"] = []  # the one that pytest's option --method names
BATCH = 16
IMAGES = 64


@dataclass(frozen=True)
class Case:
    """A method with settings that make it small, and the kind of data it is tried on."""

    method: str  # as in params.yaml
    model: dict[str, Any] = field(default_factory=dict)
    data: str = "points"
    sampling: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.method}:{self.variant}" if self.variant else self.method

    def make(self) -> Trainable:
        return method_class(self.method)(**self.model)

    def fresh(self, seed: int, dtype: torch.dtype = torch.float32) -> TrainState:
        """A training with the other run that the method needs, if it needs one: a small EDM."""
        method = self.make()
        state = TrainState.fresh(method, self.spec, seed, dtype=dtype)
        if needed := [role for role, is_needed in getattr(method, "roles", {}).items() if is_needed]:
            other = EDM(net="mlp", width=16, depth=1)
            begin(method, state, Parent(other, other.build(self.spec)), needed)
        return state

    @property
    def spec(self) -> DataSpec:
        return DATA[self.data]

    def label_of(self, seed: int) -> int | list[int]:
        """The class of a seed's image, or its caption."""
        label = seed % self.spec.classes
        return [2, 3 + label, 0] if self.spec.tokens else label


DATA = {"points": DataSpec((2,), 3, 1.0), "images": DataSpec((1, 8, 8), 3, 0.5), "tiny": DataSpec((1, 4, 4), 3, 0.5)}
DATA["captions"] = DATA["tiny"]._replace(vocabulary=6, tokens=3)
UNET = {"width": 16, "depth": 1, "channel_mult": (1, 2), "attention": (4,), "dropout": 0.0}
MLP = {"net": "mlp", "width": 16, "depth": 1}
NCSNPP = {"net": "ncsnpp", "width": 8, "depth": 1, "channel_mult": (1, 2), "attention": (4,), "latent": 4}
NCSNPP |= {"style_width": 8, "mapping_layers": 1, "discriminator_width": 2}
WIDE_UNET = {"net": "unet", "width": 32, "depth": 1, "channel_mult": (1, 1), "attention": (2,), "dropout": 0.0}
HEAD = {"body": "head", "width": 32, "depth": 1}
RELATIVISTIC: dict[str, Any] = {"game": "relativistic", "r1_gamma": 0.1, "r2_gamma": 0.05}
SMALL_MLP: dict[str, Any] = MLP | {"steps": 50}
SMALL_UNET: dict[str, Any] = {
    "steps": 50, "width": 32, "depth": 1, "channel_mult": (1, 2), "attention": (4,), "head_width": 16,
}  # fmt: skip
DIT: dict[str, Any] = {"net": "dit", "width": 16, "depth": 1, "heads": 2}
TEXT: dict[str, Any] = {"text": True, "label_dropout": 0.2}
AUTOENCODER: dict[str, Any] = {"latent_channels": 2, "channels": (8, 16), "layers": 1, "groups": 4, "lr": 1e-3}
ANNEALED = {"kl_weight": 0.01, "kl_anneal_steps": 5, "error": "l2", "attention": False, "lr_decay": "cosine"}
TINY_UNET: dict[str, Any] = SMALL_UNET | {"channel_mult": (1, 1), "attention": ()}

# A method that is not named here is tried with its defaults on points.
SMALL = (
    Case("edm.EDM", MLP | {"lr_rampup_images": 100}, sampling={"steps": 4}, variant="mlp"),
    Case("edm.EDM", UNET | {"augment": 0.2, "lr_rampup_images": 100}, "images", {"steps": 3}, "unet"),
    Case("edm.EDM", DIT | {"lr_rampup_images": 100}, "tiny", {"steps": 3}, "dit"),
    Case("edm.EDM", DIT | TEXT | {"lr_rampup_images": 100}, "captions", {"steps": 3, "cfg_weight": 1.0}, "dit-text"),
    Case("discriminator_guidance.Discriminator", {"body": "mlp", "width": 16, "depth": 1}, variant="mlp"),
    Case("discriminator_guidance.Discriminator", {"width": 16, "depth": 1}, "images", variant="conv"),
    Case("discriminator_guidance.Discriminator", HEAD | {"trunk": Classifier(**SMALL_MLP)}, variant="mlp-head"),
    Case("discriminator_guidance.Discriminator", HEAD | {"trunk": Classifier(**TINY_UNET)}, "images", variant="head"),
    Case("classifier_guidance.Classifier", SMALL_MLP, variant="mlp"),
    Case("classifier_guidance.Classifier", SMALL_UNET, "images", variant="unet"),
    Case("ddpm.DDPM", MLP | {"steps": 50}, sampling={"spacing": "5"}, variant="mlp"),
    Case("ddpm.DDPM", UNET | {"steps": 50, "width": 32}, "images", {"spacing": "2"}, "unet"),
    Case("iddpm.IDDPM", MLP | {"steps": 50}, sampling={"spacing": "5"}, variant="mlp"),
    Case("iddpm.IDDPM", UNET | {"steps": 50, "width": 32, "heads": 2}, "images", {"spacing": "2"}, "unet"),
    Case("iddpm.IDDPM", DIT | {"steps": 50, "conditional": True}, "tiny", {"spacing": "2"}, "dit"),
    Case("iddpm.IDDPM", DIT | TEXT | {"steps": 50, "cross_attention": True}, "captions", {"spacing": "2"}, "dit-text"),
    Case("iddpm.IDDPM", WIDE_UNET | TEXT | {"steps": 50}, "captions", {"spacing": "2", "cfg_weight": 1.0}, "unet-text"),
    Case("ddgan.DDGAN", {"net": "mixture-mlp"}),
    Case("ddgan.DDGAN", NCSNPP | {"steps": 2, "conditional": True}, "images", variant="ncsnpp"),
    Case("ddgan.DDGAN", MLP | RELATIVISTIC, "tiny", variant="relativistic"),
    Case("siddm.SIDDM", {"net": "mixture-mlp"}),
    Case("siddm.SIDDM", WIDE_UNET | {"steps": 2, "conditional": True, "head_width": 32}, "tiny", variant="unet"),
    Case("siddm.SIDDM", MLP | RELATIVISTIC, "tiny", variant="relativistic"),
    Case("tdpm.TDPM", MLP | {"steps": 50, "kept": 5}),
    Case("tdpm.TDPM", WIDE_UNET | {"steps": 50, "kept": 3}, "tiny", {"spacing": "2"}, "unet"),
    Case("consistency.Consistency", MLP | {"stage_steps": 10, "lr": 1e-3}, variant="ect"),
    Case("consistency.Consistency", MLP | {"pairs": "ict", "total_steps": 64, "lr": 1e-3}, variant="ict"),
    Case("autoencoder.KLAutoencoder", AUTOENCODER, "images"),
    Case("autoencoder.KLAutoencoder", AUTOENCODER | ANNEALED, "tiny", variant="annealed"),
    Case("gan.GAN", {"width": 16}),
    Case("gan.GAN", MLP | {"conditional": True, "latent": 4}, "tiny", variant="mlp"),
    Case("gan.GAN", RELATIVISTIC | {"width": 16}, variant="relativistic"),
)


def every_method() -> list[str]:
    """ "module.Class" of each frozen dataclass in methods/*.py that is a `Trainable`."""
    return [
        f"{info.name}.{name}"
        for info in pkgutil.iter_modules(methods.__path__)
        if not info.ispkg
        for name, kind in vars(importlib.import_module(f"methods.{info.name}")).items()
        if isinstance(kind, type) and kind.__module__ == f"methods.{info.name}" and _is_method(kind)
    ]


def every_case() -> list[Case]:
    if CHOSEN:
        return CHOSEN
    small = {case.method for case in SMALL}
    return [*SMALL, *(Case(method) for method in every_method() if method not in small)]


def batches(case: Case, step: int) -> Batch:
    """[BATCH] of a few labelled points or pictures that the classes separate; fakes are slightly shifted."""
    images, labels = _data(case.spec)
    index = batch_indices(IMAGES, BATCH, 0, step)
    if case.spec.tokens:
        labels = torch.tensor([case.label_of(label) for label in labels.tolist()])
    batch = Batch(images[index], labels[index])
    if case.method.startswith("discriminator") or (case in CHOSEN and hasattr(case.make(), "guide")):
        return Batch(*batch[:2], 0.8 * images[index.flip(0)] + 0.1, labels[index.flip(0)])
    return batch


def _data(spec: DataSpec) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(IMAGES) % spec.classes
    centres = torch.randn(spec.classes, *spec.shape, generator=random, dtype=torch.float64)
    noise = torch.randn(IMAGES, *spec.shape, generator=random, dtype=torch.float64)
    return (spec.std * (0.9 * centres[labels] + 0.4 * noise)).clamp(-2, 2), labels


def _is_method(kind: type) -> bool:
    return _is_frozen(kind) and all(callable(getattr(kind, name, None)) for name in CONTRACT)


def _is_frozen(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
