"""The discriminator of discriminator guidance (Kim et al. 2023, arXiv:2211.17091): a small head on frozen features."""

from methods.nets.adm.encoder import EncoderUNetModel

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
