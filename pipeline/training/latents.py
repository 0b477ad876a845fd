"""Latents on disk and the autoencoder that made them: which encoder they are of, and back to images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from methods.core.types import Autoencoder, Latents, Nets
from pipeline.config.build import Block, build_method
from pipeline.data.artifacts import Artifact, facts_of
from pipeline.errors import UserError
from pipeline.training.networks import FILE, data_spec, load_networks

AUTOENCODER = "autoencoder"  # the role of that input


@dataclass(frozen=True)
class Decoder:
    """From the latents that networks are trained on to images."""

    method: Autoencoder
    nets: Nets
    latents: Latents
    shape: tuple[int, ...]  # of an image

    @classmethod
    def load(cls, folder: Path, block: Block, latents: Latents, device: torch.device) -> "Decoder":
        """folder: the autoencoder's artifact; block: its method and model."""
        method, data = build_method(block["method"], block["model"]), data_spec(facts_of(folder))
        return cls(method, load_networks(folder, method, data, device), latents, data.shape)

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """[n, c, h, w] -> images [n, C, H, W], about in [-1, 1]. Their last bits depend on n."""
        mean, std = (torch.tensor(part, device=latents.device)[:, None, None] for part in self.latents[1:])
        return self.method.decode(self.nets, latents * std + mean)


def encoder_of(autoencoder: Artifact) -> str:
    """SHA-256 of its weights."""
    return autoencoder.manifest.files[FILE].sha256


def check_encoder(inputs: Mapping[str, Artifact]) -> None:
    """UserError if inputs are latents, or trained on latents, of different encoders."""
    found: dict[str, str] = {}  # by encoder, the first input of it
    for role, artifact in inputs.items():
        about = artifact.manifest.facts.get("latents")
        encoder = encoder_of(artifact) if role == AUTOENCODER else None if about is None else about["encoder"]
        if encoder is not None:
            found.setdefault(encoder, f"{artifact.manifest.stage} {artifact.manifest.name}")
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise UserError(
            f"{first} is of the encoder {one[:12]}, but {second} of {other[:12]}: latents of different encoders do not "
            "fit together; compute both again with one autoencoder (dvc repro)"
        )
