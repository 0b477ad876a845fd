"""The autoencoder of latent diffusion against diffusers' AutoencoderKL."""

import numpy as np
import torch

from methods.autoencoder import KLAutoencoder
from methods.core.types import Batch, DataSpec
from methods.nets.kl_autoencoder import AutoencoderKL
from tests.methods.reference_cases.fixture import Fixture, case, close

TOLERANCE = 1e-5


@case("latent_kl")
def kl_autoencoder(fixture: Fixture) -> None:
    config = fixture.config()
    assert config["in_channels"] == config["out_channels"]
    method = KLAutoencoder(
        config["latent_channels"],
        tuple(config["block_out_channels"]),
        config["layers_per_block"],
        config["norm_num_groups"],
        config["mid_block_add_attention"],
        kl_weight=0.01,
    )
    side = config["sample_size"]
    (net,) = method.build(DataSpec((config["in_channels"], side, side), 0, 0.5)).values()
    assert isinstance(net, AutoencoderKL)
    net.load_state_dict(fixture.weights(fixture.stem.removesuffix("_io")))
    x, noise = fixture.tensor("x"), fixture.tensor("eps")
    with torch.no_grad():
        close(net.quant_conv(net.encoder(x)), fixture["moments"], TOLERANCE)
        reconstruction, posterior = net(x, noise)
        for ours, name in zip(posterior, ("mean", "std", "logvar")):
            close(ours, fixture[name], TOLERANCE, TOLERANCE)
        close(posterior.at(noise), fixture["z"], TOLERANCE)
        close(reconstruction, fixture["reconstruction"], TOLERANCE)
        close(net.decode(posterior.mean), fixture["mode_reconstruction"], TOLERANCE)
        close(posterior.kl(), fixture["kl"], TOLERANCE, TOLERANCE)
        loss, _ = method.loss("autoencoder", {"autoencoder": net}, Batch(x), {"noise": noise}, 0)
        close(loss, float(np.mean(fixture["l1_sum"] + 0.01 * fixture["kl"])), TOLERANCE, TOLERANCE)
