"""Captions: the encoder's invariants, both ways into networks, hidden captions, and learning from them."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.captions import NULL, PAD, Caption, emptied
from methods.core.labels import drop_labels
from methods.core.loop import TrainState, batch_indices, train_steps
from methods.core.rng import SeededRng
from methods.core.types import Batch, DataSpec
from methods.ddpm import DDPM
from methods.edm import EDM
from methods.iddpm import IDDPM
from methods.nets.adm.unet import UNetModel
from methods.nets.text import TextEncoder
from pipeline.data.captions import stated
from pipeline.data.datasets.glyphs import VOCABULARY, Source
from pipeline.metrics.values.attribute_accuracy import UNSTATED

SPEC = DataSpec((1, 8, 8), 3, 0.5, vocabulary=6, tokens=4)
TOKENS = torch.tensor([[2, 3, 0, 0], [2, 4, 5, 3], [NULL, 0, 0, 0]])


def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(6, 4, width=16).requires_grad_(False)


def test_padding_changes_nothing_and_no_caption_depends_on_its_neighbours() -> None:
    text = encoder()
    every, alone = text(TOKENS, 3), text(TOKENS[:1, :2], 1)
    assert_close(every.pooled[:1], alone.pooled)
    assert_close(every.words[:1, :2], alone.words)
    assert every.mask.tolist()[0] == [True, True, False, False]
    assert not torch.allclose(every.pooled[0], every.pooled[1])


def test_no_caption_is_the_empty_one() -> None:
    text = encoder()
    assert_close(text(None, 2).pooled[1], text(TOKENS, 3).pooled[2])
    hidden = drop_labels(TOKENS, torch.tensor([0.05, 0.5, 0.5]), 0.1)
    assert hidden.tolist() == [[NULL, PAD, PAD, PAD], *TOKENS[1:].tolist()]
    assert emptied(TOKENS, torch.zeros(3, dtype=torch.bool)).equal(TOKENS)


def test_captions_of_another_form_are_named() -> None:
    with pytest.raises(ValueError, match=r"captions: shape \[3\] came, \[3, 4\] tokens were wanted"):
        encoder()(torch.arange(3), 3)


UNET: dict[str, Any] = {"width": 32, "depth": 1, "channel_mult": (1, 1), "attention": (4,), "heads": 2, "dropout": 0.0}
DIT: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
MODELS: dict[str, EDM | IDDPM] = {
    "unet": IDDPM(text=True, steps=50, label_dropout=0.1, **UNET),
    "dit": IDDPM(net="dit", text=True, steps=50, label_dropout=0.1, **DIT),
    "dit-cross": EDM(net="dit", text=True, cross_attention=True, label_dropout=0.1, **DIT),
}
every_model = pytest.mark.parametrize("name", MODELS)


def randomised(method: EDM | IDDPM) -> torch.nn.Module:
    """A network of which no layer is zero."""
    torch.manual_seed(1)
    net = method.build(SPEC)["denoiser"].eval().requires_grad_(False)
    for value in net.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return net


@every_model
def test_each_image_depends_on_its_own_caption_and_encoded_captions_give_the_same(name: str) -> None:
    net = randomised(MODELS[name])
    x, where = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    out = net(x, where, TOKENS)
    assert_close(net(x[1:2], where[1:2], TOKENS[1:2]), out[1:2])
    assert not torch.allclose(net(x, where, TOKENS.flip(0))[0], out[0])
    assert_close(net(x, where, None)[2], out[2])
    encoded = net.get_submodule("body.text")(TOKENS, 3)
    assert isinstance(encoded, Caption)
    assert_close(net(x, where, encoded), out)


@every_model
def test_captions_are_encoded_once_for_all_steps_of_a_sampler(name: str) -> None:
    method, calls = MODELS[name], list[Tensor | None]()
    net = randomised(method)
    text = net.get_submodule("body.text")
    text.register_forward_hook(lambda _net, inputs, _output: calls.append(inputs[0]))
    few: Any = {"steps": 3} if isinstance(method, EDM) else {"spacing": "3"}
    plain, guided = (
        method.sample({"denoiser": net}, cast(Any, method.Sampling(**few, cfg_weight=w)), TOKENS, SeededRng(range(3)))
        for w in (0.0, 2.0)
    )
    assert sum(isinstance(call, Tensor) for call in calls) == 2  # once for each of the two samplings
    assert not torch.equal(plain, guided)


def test_names_of_networks_without_captions_are_the_same() -> None:
    """Whose checkpoints therefore load; with captions there are more."""
    sizes = {"num_res_blocks": 1, "attention_resolutions": (4,), "channel_mult": (1, 1)}
    plain = set(UNetModel(8, 1, 32, 1, **sizes).state_dict())
    captioned = set(UNetModel(8, 1, 32, 1, **sizes, text=encoder()).state_dict())
    assert not any("cross" in name or "text" in name for name in plain)
    assert plain < captioned
    assert all("cross" in name or name.startswith("text.") for name in captioned - plain)


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"text: True came, false beside net 'mlp' \(unet and dit take captions\)"):
        IDDPM(text=True, net="mlp")
    with pytest.raises(ValueError, match=r"text: True came, false beside net 'song-unet'"):
        EDM(text=True)
    with pytest.raises(ValueError, match="cross_attention: True came, false unless net is 'dit' and text is true"):
        IDDPM(net="dit", cross_attention=True)
    with pytest.raises(ValueError, match="text: True came, false for data without captions"):
        MODELS["dit"].build(DataSpec((1, 8, 8), 3, 0.5))
    with pytest.raises(TypeError):
        DDPM(text=True)  # type: ignore[call-arg]


def test_a_small_model_learns_the_ink_that_a_caption_states() -> None:
    """After 100 steps on glyphs, 20 CPU seconds. A picture's border is paper, so that the ink can be read exactly."""
    source = Source()
    train, held_out = source.glyphs("train", range(4096)), source.glyphs("held_out", range(256))
    images, tokens = torch.from_numpy(train.images).float() / 127.5 - 1, torch.from_numpy(train.tokens).long()
    method = EDM(
        net="dit", text=True, width=64, depth=2, heads=4, patch=4, label_dropout=0.1, lr=2e-3, lr_rampup_images=3000,
        ema_halflife_images=3000,
    )  # fmt: skip
    data = DataSpec((1, 16, 16), 10, float(images.std()), vocabulary=len(VOCABULARY), tokens=tokens.shape[1])
    state = TrainState.fresh(method, data, seed=0)

    def batches(step: int) -> Batch:
        index = batch_indices(len(images), 128, 0, step)
        return Batch(images[index], tokens[index])

    for _ in train_steps(method, state, batches, seed=0, batch=128, steps=100):
        pass
    state.nets["denoiser"].load_state_dict(state.weights(method.players())["denoiser"])
    state.nets["denoiser"].eval()
    wanted, sampling = torch.from_numpy(held_out.tokens).long(), EDM.Sampling(steps=10, cfg_weight=2.0)
    made = method.sample(state.nets, sampling, wanted, SeededRng(range(len(wanted))))
    names = source.attribute_names
    facts = {"words": list(VOCABULARY), "attribute_values": [list(values) for values in names.values()]}
    ink = stated(held_out.tokens, held_out.attributes, facts)[:, list(names).index("ink")]

    def accuracy(pictures: Tensor) -> float:
        sides = [pictures[:, 0, 0], pictures[:, 0, -1], pictures[:, 0, :, 0], pictures[:, 0, :, -1]]
        is_paper_white = torch.cat(sides, 1).median(dim=1).values > 0
        read = torch.where(is_paper_white, 0, 1).numpy()  # black ink, white ink
        return float((read == ink)[ink != UNSTATED].mean())

    assert accuracy(torch.from_numpy(held_out.images).float() / 127.5 - 1) == 1.0
    assert accuracy(made) > 0.75  # chance: 0.5, standard error 0.04
