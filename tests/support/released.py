"""The networks of published checkpoints by file name: each entry builds one, freshly initialised.

Their state dictionaries fit as they are, except that EDM's names carry the prefix "model.".
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from methods.nets.adm.encoder import EncoderUNetModel
from methods.nets.adm.guidance_head import LABEL_ROWS, guidance_head
from methods.nets.adm.unet import UNetModel
from methods.nets.edm.dhariwal_unet import DhariwalUNet
from methods.nets.edm.song_unet import SongUNet

Build = Callable[[], nn.Module]

ADM_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 4),
}


def _adm(
    size: int,
    *,
    width: int = 256,
    blocks: int = 2,
    heads: int = 1,
    head_channels: int | None = 64,
    dropout: float = 0.0,
    classes: int | None = 1000,
    new_order: bool = False,
) -> Build:
    return partial(
        UNetModel, size, 3, width, 6, num_res_blocks=blocks, attention_resolutions=(32, 16, 8), dropout=dropout,
        channel_mult=ADM_MULTIPLIERS[size], num_classes=classes, num_heads=heads, num_head_channels=head_channels,
        use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=new_order,
    )  # fmt: skip


def _classifier(
    size: int, *, blocks: int = 2, in_channels: int = 3, channel_mult: tuple[float, ...] | None = None
) -> Build:
    return partial(
        EncoderUNetModel, size, in_channels, 128, 1000, num_res_blocks=blocks, attention_resolutions=(32, 16, 8),
        channel_mult=channel_mult or ADM_MULTIPLIERS[size], num_head_channels=64, use_scale_shift_norm=True,
        resblock_updown=True, pool="attention",
    )  # fmt: skip


def _song(size: int, architecture: str, *, mult: tuple[int, ...], dropout: float, classes: int = 0) -> Build:
    """EDM's suffixes name architectures: "vp" is DDPM++, "ve" NCSN++; both are preconditioned alike."""
    plus_plus = partial(
        SongUNet, size, 3, 3, label_dim=classes, augment_dim=9, channel_mult=mult, num_blocks=4, dropout=dropout
    )
    if architecture == "vp":
        return plus_plus
    return partial(
        plus_plus, embedding_type="fourier", channel_mult_noise=2, encoder_type="residual", resample_filter=(1, 3, 3, 1)
    )


ADM: dict[str, Build] = {
    "64x64_diffusion.pt": _adm(64, width=192, blocks=3, dropout=0.1, new_order=True),
    "128x128_diffusion.pt": _adm(128, heads=4, head_channels=None),
    "256x256_diffusion.pt": _adm(256),
    "256x256_diffusion_uncond.pt": _adm(256, classes=None),
    "512x512_diffusion.pt": _adm(512),
    "lsun_bedroom.pt": _adm(256, classes=None, dropout=0.1),
    "lsun_cat.pt": _adm(256, classes=None, dropout=0.1),
    "lsun_horse.pt": _adm(256, classes=None, dropout=0.1),
    "lsun_horse_nodropout.pt": _adm(256, classes=None),
    "64x64_classifier.pt": _classifier(64, blocks=4),
    "128x128_classifier.pt": _classifier(128),
    "256x256_classifier.pt": _classifier(256),
    "512x512_classifier.pt": _classifier(512),
}

EDM: dict[str, Build] = {
    f"edm-{data}-{suffix}.pkl": _song(size, suffix, mult=mult, dropout=dropout, classes=classes)
    for data, size, mult, dropout, classes in (
        ("cifar10-32x32-uncond", 32, (2, 2, 2), 0.13, 0),
        ("cifar10-32x32-cond", 32, (2, 2, 2), 0.13, 10),
        ("ffhq-64x64-uncond", 64, (1, 2, 2, 2), 0.05, 0),
        ("afhqv2-64x64-uncond", 64, (1, 2, 2, 2), 0.25, 0),
    )
    for suffix in ("vp", "ve")
} | {"edm-imagenet-64x64-cond-adm.pkl": partial(DhariwalUNet, 64, 3, 3, label_dim=1000)}

DISCRIMINATOR_GUIDANCE: dict[str, Build] = {
    "DG/32x32_classifier.pt": _classifier(32, blocks=4),
    "DG/cifar_uncond/discriminator_60.pt": partial(guidance_head, 512),
    "DG/cifar_cond/discriminator_250.pt": partial(guidance_head, 512, num_classes=LABEL_ROWS),
    "DG_imagenet/32x32_classifier.pt": _classifier(32, in_channels=4, channel_mult=(1, 2, 3)),
    "DG_imagenet/discriminator_7.pt": partial(guidance_head, 384, num_classes=LABEL_ROWS),
}
