"""Networks of EDM, ADM and discriminator guidance against the outputs of the official ones."""

import json
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from methods.nets.adm.encoder import EncoderUNetModel
from methods.nets.adm.unet import UNetModel
from methods.nets.edm.dhariwal_unet import DhariwalUNet
from methods.nets.edm.song_unet import SongUNet
from methods.nets.embeddings import cos_sin_embedding
from tests.methods.reference_cases.fixture import Fixture, case, close

TOLERANCE = 1e-5


@case("edm_songunet")
def song_unet(fixture: Fixture) -> None:
    edm_network(fixture, SongUNet)


@case("edm_dhariwal")
def dhariwal_unet(fixture: Fixture) -> None:
    edm_network(fixture, DhariwalUNet)


def edm_network(fixture: Fixture, kind: type[nn.Module]) -> None:
    config = fixture.config()
    assert config.pop("cls") == kind.__name__
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    torch.manual_seed(0)
    net = kind(**config)
    fresh_statistics_agree(net, json.loads(str(fixture["init_stats"])))
    net.load_state_dict(fixture.weights(fixture.stem.removesuffix("_io")))
    net.eval()
    classes = fixture.tensor("class_labels") if "class_labels" in fixture else None
    augments = fixture.tensor("augment_labels") if "augment_labels" in fixture else None
    x, labels = fixture.tensor("x"), fixture.tensor("noise_labels")
    with torch.no_grad():
        close(net(x, labels, classes, augments), fixture["out"], TOLERANCE)
        close(net(x, labels, classes), fixture["out_no_augment"], TOLERANCE)


def fresh_statistics_agree(net: nn.Module, recorded: dict[str, tuple[float, float, float]]) -> None:
    """Mean, standard deviation and largest value of every freshly drawn parameter, within what two draws differ by."""
    parameters = dict(net.named_parameters())
    assert parameters.keys() == recorded.keys()
    for name, (mean, std, largest) in recorded.items():
        values = parameters[name].detach().flatten().double()
        if std == 0.0:
            assert torch.equal(values, torch.full_like(values, mean)), name
            continue
        chance = 6 * math.sqrt(2 / len(values))  # six standard errors of a difference
        assert abs(values.mean() - mean) < chance * std, name
        assert abs(values.std() / std - 1) < chance, name
        assert abs(values.abs().max() / largest - 1) < 0.4, name


def adm_config(config: dict[str, Any]) -> dict[str, Any]:
    """The official arguments as ours: theirs count attention levels by downsampling factor, ours by pixels."""
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    config["attention_resolutions"] = tuple(config["image_size"] // f for f in config["attention_resolutions"])
    rows = config.pop("num_class", None)
    if config.pop("condition", False):
        config["num_classes"] = rows
    return config


def zero_at_construction(net: nn.Module, names: np.ndarray) -> None:
    """Of all weights, exactly the named ones; and their biases."""
    weights = {name: p for name, p in net.named_parameters() if name.endswith("weight")}
    assert {name for name, p in weights.items() if not p.any()} == set(names.tolist())
    parameters = dict(net.named_parameters())
    assert not any(parameters[name.removesuffix("weight") + "bias"].any() for name in names.tolist())


@case("adm_timestep_embedding")
def timestep_embedding(fixture: Fixture) -> None:
    embedding = cos_sin_embedding(fixture.tensor("t"), int(fixture["dim"]))
    close(embedding, fixture["emb"], TOLERANCE)


@case("adm_unet")
def adm_unet(fixture: Fixture) -> None:
    net = UNetModel(**adm_config(fixture.config()))
    zero_at_construction(net, fixture["zero_init_weights"])
    net.load_state_dict(fixture.weights(fixture.stem.removesuffix("_io")))
    net.eval()
    y = fixture.tensor("y") if "y" in fixture else None
    with torch.no_grad():
        close(net(fixture.tensor("x"), fixture.tensor("t"), y), fixture["out"], TOLERANCE)


@case("adm_classifier")
def adm_classifier(fixture: Fixture) -> None:
    net = EncoderUNetModel(**adm_config(fixture.config()))
    zero_at_construction(net, fixture["zero_init_weights"])
    net.load_state_dict(fixture.weights(fixture.stem.removesuffix("_io")))
    net.eval()
    x, y = fixture.tensor("x").requires_grad_(), fixture.tensor("y")
    logits = net(x, fixture.tensor("t"))
    close(logits, fixture["logits"], TOLERANCE)
    chosen = logits.log_softmax(dim=1)[range(len(y)), y]
    close(torch.autograd.grad(chosen.sum(), x)[0], fixture["grad_logp"], TOLERANCE)


@case("dg_discriminator")
def dg_discriminator(fixture: Fixture) -> None:
    config = fixture.config()
    extractor, head = (EncoderUNetModel(**adm_config(config[part])) for part in ("extractor", "head"))
    weights = fixture.weights(fixture.stem.removesuffix("_io"))
    for net, part in ((extractor, "extractor."), (head, "head.")):
        net.load_state_dict({k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)})
        net.eval()
    extractor.requires_grad_(False)
    x, t = fixture.tensor("x").requires_grad_(), fixture.tensor("t")
    labels = fixture.tensor("y") if "y" in fixture else None
    steps = 999 * t  # the time input of both
    features = extractor.outputs(x, steps)[-1]
    logit = head(features, steps, labels).squeeze(1)
    close(features, fixture["features"], TOLERANCE)
    close(logit, fixture["logit"], TOLERANCE)
    close(logit.sigmoid(), fixture["d"], TOLERANCE)
    close(logit, fixture["log_ratio"], TOLERANCE)
    gradient = torch.autograd.grad(logit.sum(), x, retain_graph=True)[0]
    close_gradient(gradient, fixture["grad_log_ratio"])
    if "y_onehot" in fixture:
        assert torch.equal(head(features, steps, fixture.tensor("y_onehot")).squeeze(1), logit)
    bce = nn.functional.binary_cross_entropy_with_logits(logit, fixture.tensor("labels"))
    close(bce, fixture["bce"], TOLERANCE)
    bce.backward()
    norms = {name: float(p.grad.norm()) for name, p in head.named_parameters() if p.grad is not None}
    recorded = json.loads(str(fixture["head_grad_norms"]))
    assert norms.keys() == recorded.keys()
    rounding = 1e-6 * max(recorded.values())  # biases before a normalisation have no gradient but this
    for name, norm in recorded.items():
        close(norms[name], norm, atol=rounding, rtol=1e-4)


def close_gradient(actual: torch.Tensor, expected: np.ndarray) -> None:
    """Within 1e-4 of the largest entry."""
    close(actual, expected, atol=1e-4 * float(np.abs(expected).max()))
