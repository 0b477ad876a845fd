"""Networks: the published shapes, what is zero at the start, and training at common sizes."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.nets.adm.encoder import EncoderUNetModel
from methods.nets.adm.guidance_head import guidance_head
from methods.nets.adm.unet import UNetModel
from methods.nets.edm.dhariwal_unet import DhariwalUNet
from methods.nets.edm.song_unet import SongUNet
from methods.nets.embeddings import FourierEmbedding, cos_sin_embedding, sin_cos_embedding
from methods.nets.resample import Resampling
from tests.support import released

TINY_ADM: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 1,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "channel_mult": (1, 2),
}


def digits_unet(**changes) -> SongUNet:
    """About the size that a study of 8x8 digits trains."""
    settings = {"model_channels": 24, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (4,)}
    return SongUNet(8, 1, 1, **(settings | changes))


BODIES: dict[str, Callable[[int, int], nn.Module]] = {  # (label_dim, augment_dim)
    "ddpm++": lambda labels, augments: digits_unet(label_dim=labels, augment_dim=augments),
    "ncsn++": lambda labels, augments: digits_unet(
        label_dim=labels,
        augment_dim=augments,
        embedding_type="fourier",
        channel_mult_noise=2,
        encoder_type="residual",
        resample_filter=(1, 3, 3, 1),
    ),
    "skip-skip": lambda labels, augments: digits_unet(
        label_dim=labels, augment_dim=augments, encoder_type="skip", decoder_type="skip", channel_mult=(1, 2, 2)
    ),
    "dhariwal": lambda labels, augments: DhariwalUNet(
        8, 1, 1, label_dim=labels, augment_dim=augments, model_channels=32, channel_mult=(1, 2), num_blocks=1
    ),
}


def train_a_step(net: nn.Module, forward: Callable[[], Tensor]) -> None:
    """Adam steps on a fixed target must lower the loss."""
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-4)
    losses = []
    target = torch.linspace(-1, 1, forward().numel())
    for _ in range(5):
        loss = (forward().flatten() - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def digits(batch: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, 8, 8), torch.linspace(-1, 1, batch)


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("param_shapes_adm.json", released.ADM),
        ("param_shapes_edm.json", released.EDM),
        ("param_shapes_dg.json", released.DISCRIMINATOR_GUIDANCE),
    ],
)
def test_released_checkpoints_fit_name_by_name_and_shape_by_shape(file: str, table, request: pytest.FixtureRequest):
    folder = str(request.config.getoption("--reference"))
    path = Path(folder, file)
    if not path.exists():
        pytest.skip(f"{file} is not in the reference folder")
    for checkpoint, shapes in json.loads(path.read_text()).items():
        with torch.device("meta"):
            net = table[our_name(checkpoint)]()
        ours = {name: list(value.shape) for name, value in net.state_dict().items()}
        assert ours == {name.removeprefix("model."): shape for name, shape in shapes.items()}, checkpoint


def our_name(checkpoint: str) -> str:
    """Of "DG cifar discriminator/cifar_uncond/discriminator_60.pt", the key in the tables; of a file name, itself."""
    if not checkpoint.startswith("DG"):
        return checkpoint.split(" / ")[0]
    release, *_, path = checkpoint.split(" (")[0].split(" ")
    return f"{release}/{path.split('/', 1)[1]}"


@pytest.mark.parametrize("labels", [0, 3], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("body", BODIES)
def test_every_body_trains_on_8_pixel_digits(body: str, labels: int):
    torch.manual_seed(0)
    net = BODIES[body](labels, 9)
    x, noise = digits()
    classes = nn.functional.one_hot(torch.arange(4) % 3, 3).float() if labels else None
    train_a_step(net, lambda: net(x, noise, classes, torch.randn(4, 9)))


@pytest.mark.parametrize("body", BODIES)
def test_a_missing_class_is_the_zero_vector_and_a_number_is_one_hot(body: str):
    torch.manual_seed(0)
    net = awakened(BODIES[body](3, 0))
    x, noise = digits()
    assert torch.equal(net(x, noise), net(x, noise, torch.zeros(4, 3)))
    numbers = torch.tensor([0, 1, 2, 0])
    by_number = net(x, noise, numbers)
    assert torch.equal(by_number, net(x, noise, nn.functional.one_hot(numbers, 3).float()))
    assert not torch.allclose(by_number, net(x, noise))


@pytest.mark.parametrize("body", BODIES)
def test_labels_for_a_network_without_them_are_refused(body: str):
    net = BODIES[body](0, 0)
    x, noise = digits()
    with pytest.raises(ValueError, match="class labels"):
        net(x, noise, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="augmentation labels"):
        net(x, noise, None, torch.zeros(4, 9))


@pytest.mark.parametrize("body", BODIES)
def test_float64_networks_agree_with_float32_ones(body: str):
    torch.manual_seed(0)
    net = awakened(BODIES[body](3, 9))
    x, noise = digits()
    inputs = x, noise, torch.eye(4)[:, :3], torch.randn(4, 9)
    single = net(*inputs)
    double = net.double()(*(value.double() for value in inputs))
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4)


@pytest.mark.parametrize("body", BODIES)
def test_half_precision_images_go_through_float32_networks(body: str):
    torch.manual_seed(0)
    net = awakened(BODIES[body](0, 0))
    x, noise = digits()
    narrow = net(x.bfloat16(), noise)
    assert narrow.dtype == torch.bfloat16
    assert torch.allclose(narrow.float(), net(x, noise), atol=0.1)


def awakened(net: nn.Module) -> nn.Module:
    """In evaluation mode, with zero layers drawn at random, so that every path contributes."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.05)
    return net.eval()


def test_rectangles_and_several_channels_go_through_a_unet_built_for_squares():
    net = SongUNet(16, 2, 5, model_channels=16, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(8,))
    assert net(torch.randn(2, 2, 12, 20), torch.zeros(2)).shape == (2, 5, 12, 20)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SongUNet(6, 1, 1, channel_mult=(1, 1, 1)),
        lambda: DhariwalUNet(7, 1, 1, channel_mult=(1, 1)),
        lambda: UNetModel(10, 1, 32, 1, num_res_blocks=1, attention_resolutions=(), channel_mult=(1, 1, 1)),
    ],
    ids=["song", "dhariwal", "adm"],
)
def test_an_image_that_cannot_be_halved_is_refused_at_construction(build: Callable[[], nn.Module]):
    with pytest.raises(ValueError, match="cannot be halved"):
        build()


@pytest.mark.parametrize("body", BODIES)
def test_networks_can_be_sent_to_another_process(body: str):
    net = BODIES[body](3, 9).eval()
    x, noise = digits()
    assert torch.equal(pickle.loads(pickle.dumps(net))(x, noise), net(x, noise))


@pytest.mark.parametrize(
    "build",
    [
        lambda: digits_unet(embedding_type="positonal"),
        lambda: digits_unet(encoder_type="residul"),
        lambda: digits_unet(decoder_type="residual"),
        lambda: EncoderUNetModel(**TINY_ADM, out_channels=10, pool="spatial-v2"),  # pyright: ignore
    ],
    ids=["embedding", "encoder", "decoder", "pool"],
)
def test_a_misspelt_option_is_refused(build: Callable[[], nn.Module]):
    with pytest.raises(ValueError, match=r"one of .* was wanted"):
        build()


def test_a_fresh_edm_network_has_almost_zero_output():
    x, noise = digits()
    assert digits_unet()(x, noise).abs().max() < 1e-3
    assert not DhariwalUNet(8, 1, 1, model_channels=32, channel_mult=(1, 2))(x, noise).any()


def test_fourier_frequencies_have_standard_deviation_sixteen():
    torch.manual_seed(0)
    assert 15 < float(FourierEmbedding(4000).freqs.std()) < 17


def test_embeddings_put_cosine_or_sine_first_and_pad_odd_widths():
    t = torch.tensor([0.0, 2.0])
    assert cos_sin_embedding(t, 4)[0].tolist() == [1, 1, 0, 0]
    assert sin_cos_embedding(t, 4)[0].tolist() == [0, 0, 1, 1]
    assert cos_sin_embedding(t, 5).shape == (2, 5)
    assert not cos_sin_embedding(t, 5)[:, -1].any()
    slowest = {cos_sin_embedding: 2 * 10000**-0.5, sin_cos_embedding: 2 * 1e-4}  # of two frequencies
    assert cos_sin_embedding(t, 4)[1, 3] == pytest.approx(torch.tensor(slowest[cos_sin_embedding]).sin().item())
    assert sin_cos_embedding(t, 4)[1, 1] == pytest.approx(torch.tensor(slowest[sin_cos_embedding]).sin().item())


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_short_cut_for_the_box_filter_equals_the_convolution(direction):
    x = torch.randn(2, 3, 6, 4)
    short, padded = Resampling(direction, (1, 1)), Resampling(direction, (0, 1, 1, 0))
    assert torch.allclose(short.apply(x, short.kernel()), padded.apply(x, padded.kernel()), atol=1e-6)


@pytest.mark.parametrize("pool", ["adaptive", "attention", "spatial", "spatial_v2"])
def test_every_pool_of_the_classifier_trains(pool):
    torch.manual_seed(0)
    net = EncoderUNetModel(**TINY_ADM, out_channels=10, num_head_channels=16, pool=pool)
    x, _ = digits()
    train_a_step(net, lambda: net(x, torch.tensor([0, 10, 500, 999])))


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"use_scale_shift_norm": True},
        {"resblock_updown": True},
        {"conv_resample": False},
        {"use_new_attention_order": True, "num_heads": 4},
        {"num_head_channels": 16},
        {"skip_scale": 0.5**0.5},
        {"num_classes": 10},
        {"channel_mult": (1, 1.5), "model_channels": 64, "dropout": 0.1},
    ],
    ids=str,
)
def test_every_switch_of_adms_ablation_trains(switch):
    torch.manual_seed(0)
    settings: dict[str, Any] = TINY_ADM | switch
    net = UNetModel(**settings, out_channels=2)
    x, _ = digits()
    y = torch.arange(4) if "num_classes" in switch else None
    assert not net(x, torch.arange(4), y).any()  # zero when fresh
    train_a_step(net, lambda: net(x, torch.tensor([0, 10, 500, 999]), y))


def test_an_adm_network_wants_labels_exactly_if_it_was_built_with_classes():
    x, _ = digits()
    with pytest.raises(ValueError, match="pass y"):
        UNetModel(**TINY_ADM, out_channels=1, num_classes=3)(x, torch.zeros(4))
    with pytest.raises(ValueError, match="num_classes"):
        UNetModel(**TINY_ADM, out_channels=1)(x, torch.zeros(4), torch.zeros(4, dtype=torch.long))


def test_adm_widths_are_multiples_of_its_32_groups():
    with pytest.raises(ValueError, match="multiples of 32"):
        UNetModel(8, 1, 24, 1, num_res_blocks=1, attention_resolutions=())


def test_a_small_guidance_head_learns_on_frozen_features():
    torch.manual_seed(0)
    extractor = EncoderUNetModel(**TINY_ADM, out_channels=10).requires_grad_(False)
    head = guidance_head(64, image_size=4, model_channels=32, num_res_blocks=1, num_head_channels=16, num_classes=10)
    x, steps = digits()[0], 999 * torch.rand(4)
    features = extractor.outputs(x, steps)[-1]
    train_a_step(head, lambda: head(features, steps, torch.arange(4)).squeeze(1))
