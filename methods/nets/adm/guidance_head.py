"""The discriminator of discriminator guidance (Kim et al. 2023, arXiv:2211.17091): a small head on frozen features."""

from torch import Tensor

from methods.nets.adm.encoder import EncoderUNetModel

TIMESTEPS = 999  # both networks count time t in [0, 1] in the steps that ADM's classifier was trained on
LABEL_ROWS = 1000  # of the released heads' embedding, however many classes the data have


def guidance_head(
    in_channels: int,
    *,
    image_size: int = 8,
    model_channels: int = 128,
    num_res_blocks: int = 2,
    num_head_channels: int = 64,
    num_classes: int | None = None,
) -> EncoderUNetModel:
    """The released head: features [B, in_channels, image_size, image_size] to one logit, attending everywhere.

    num_classes: rows of the label embedding (LABEL_ROWS to load a released conditional head); None: unconditional.
    """
    return EncoderUNetModel(
        image_size, in_channels, model_channels, 1, num_res_blocks=num_res_blocks, attention_resolutions=(image_size,),
        channel_mult=(1,), num_classes=num_classes, num_head_channels=num_head_channels, use_scale_shift_norm=True,
        resblock_updown=True, pool="attention",
    )  # fmt: skip


def guidance_features(extractor: EncoderUNetModel, x: Tensor, t: Tensor) -> Tensor:
    """Of noisy images x [B, C, H, W] at times t [B] in [0, 1] of the extractor's own diffusion; in t's precision."""
    return extractor.features(x, TIMESTEPS * t).to(t.dtype)


def guidance_logit(head: EncoderUNetModel, features: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """[B] log d / (1 - d) of `guidance_features`; labels: [B] int or one-hot, for a conditional head."""
    return head(features, TIMESTEPS * t, labels).squeeze(1)
