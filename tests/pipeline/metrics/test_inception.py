"""Inception-v3 equals torch-fidelity's, on random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from benchmarks.random_inception import write_random_inception
from pipeline.data.sample_order import content_order, digests
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Pixels
from pipeline.metrics.features.inception import CPU_TILE, Inception, tensorflow_resize
from pipeline.metrics.standalone.inputs import check_source, extractor_of, features_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.fixture(scope="module")
def network(weights: Path) -> Inception:
    return Inception(weights, CPU)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32)).astype(np.uint8)


def test_one_pass_gives_torch_fidelitys_features_logits_and_spatial_features(
    weights: Path, network: Inception, pictures: np.ndarray
) -> None:
    theirs = FeatureExtractorInceptionV3(
        network.name, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    seen: list[torch.Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        features, logits = theirs(torch.from_numpy(pictures))
    found = network.outputs(pictures)
    assert found.logits is not None
    assert found.spatial is not None
    np.testing.assert_allclose(found.features, features, atol=3e-6 * float(features.max()))
    np.testing.assert_allclose(found.logits, logits, atol=3e-6 * float(logits.abs().max()))
    np.testing.assert_allclose(found.spatial, seen[0][:, :7].flatten(1), atol=3e-6 * float(seen[0].max()))
    assert found.spatial.shape == (5, 2023)


def test_a_picture_has_the_same_features_to_the_bit_in_any_batch(network: Inception, pictures: np.ndarray) -> None:
    many = np.concatenate([pictures, np.zeros((CPU_TILE - 3, 3, 32, 32), np.uint8)])
    features = network.outputs(pictures).features
    assert np.array_equal(network.outputs(many).features[:5], features)
    assert np.array_equal(network.outputs(pictures[2:3]).features, features[2:3])


@pytest.mark.parametrize("shape", [(8, 8), (32, 20), (299, 299), (320, 400)], ids=str)
def test_the_resize_is_tensorflows(shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    rows, columns = (tensorflow_resize(side, 299) for side in shape)
    torch.testing.assert_close(rows @ images @ columns.T, expected, atol=1e-6, rtol=0)


def test_grey_pictures_have_the_features_of_grey_rgb(network: Inception, pictures: np.ndarray) -> None:
    grey = pictures[:1, :1]
    colour = np.repeat(grey, 3, axis=1)
    assert np.array_equal(network.outputs(grey).features, network.outputs(colour).features)


def test_the_digest_names_the_weights(network: Inception, tmp_path: Path) -> None:
    other = Inception(write_random_inception(tmp_path / "other.pth", seed=1), CPU)
    assert other.digest != network.digest


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3, 8, 8)), np.zeros((2, 2, 8, 8), np.uint8)], ids=["float", "2 colours"]
)
def test_arrays_that_are_not_pictures_are_refused(network: Inception, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        network.outputs(wrong)


def test_features_do_not_depend_on_the_size_of_chunks(
    network: Inception, pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", pictures)
    monkeypatch.setattr("pipeline.metrics.standalone.image_files.CHUNK", 2)
    checked = check_source(tmp_path / "a.npy", network)
    found = features_of(checked, network)
    whole = network.outputs(pictures[content_order(digests(pictures), None)])
    for name, expected in vars(whole).items():
        assert np.array_equal(vars(found)[name], expected)
    assert checked.shape == (3, 32, 32)


def test_without_weights_the_default_is_pixels_and_wrong_weights_are_an_error(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path))
    assert isinstance(extractor_of(None), Pixels)
    (tmp_path / "weights-inception-2015-12-05-6726825d.pth").write_bytes(weights.read_bytes())
    for name in (None, "inception-v3-compat"):
        with pytest.raises(UserError, match="SHA-256"):
            extractor_of(name)


def test_the_error_for_an_unknown_extractor_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vgg16"):
        extractor_of("vgg")
    with pytest.raises(UserError, match="does not exist"):
        extractor_of(str(tmp_path / "a.safetensors"))
