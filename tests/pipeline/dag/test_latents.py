"""Runs on latents: an autoencoder, its latents as a dataset, decoded samples, and cards with the encoder's digest."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dvc.repo import Repo
from safetensors.torch import load_file, save_file

from methods.autoencoder import KLAutoencoder
from methods.core.types import DataSpec, Latents
from methods.ddpm import DDPM
from pipeline.config.study import Study, load_study
from pipeline.dag.graph import STAGES, chain, entries
from pipeline.dag.run import inputs_of, stage_config
from pipeline.data.artifacts import Artifact, facts_of, read_artifact
from pipeline.data.row_index import open_rows
from pipeline.data.shards import read_pictures
from pipeline.errors import ArtifactError, ConfigError, UserError
from pipeline.metrics.evaluator import read_real_vs_real
from pipeline.sampling.sampler import GuidedSampler, sampler_spec
from pipeline.stages import prepare_latents
from pipeline.tables.aggregate import entries_on
from pipeline.training.importers.checkpoints import fit, read_checkpoint
from pipeline.training.networks import load_weights
from tests.pipeline.dag.test_derived import computed
from tests.support.stages import run_stage_alone

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "reference" / "latent_kl_tiny.safetensors"
TINY = "latent_channels: 4, channels: [8, 16, 24], layers: 1, groups: 4"
PARAMS = f"""
root: {ROOT}
datasets:
  glyphs:
    source: glyphs
    options: {{layout: centred, train: 320, held_out: 160, unseen: 32, classifier: 0}}
    features: {{epochs: 1}}
    fakes: 80
    evaluate: {{images: 96, sample_seeds: 2}}
autoencoders:
  small:
    dataset: glyphs
    method: autoencoder.KLAutoencoder
    model: {{latent_channels: 2, channels: [8, 16], layers: 1, groups: 4, attention: false, lr: 2.0e-3}}
    train: {{steps: 40, batch: 32}}
latents:
  small-latents: {{source: latents, of: small}}
runs:
  latent:
    dataset: small-latents
    method: edm.EDM
    model: {{net: mlp, width: 16, depth: 1, conditional: false}}
    train: {{steps: 20, batch: 32}}
    sample: {{steps: 3}}
  truncated:
    dataset: small-latents
    method: tdpm.TDPM
    model: {{schedule: latent, kept: 150, net: mlp, width: 16, depth: 1}}
    train: {{steps: 20, batch: 32, collapse: null}}
    sample: {{spacing: "3", eta: 0.0}}
guides:
  dg:
    run: latent
    method: discriminator_guidance.Discriminator
    model: {{body: mlp, width: 16, depth: 1}}
    train: {{steps: 20, batch: 32, check_every: 20}}
guided:
  latent-dg: {{run: latent, guides: [{{guide: dg, weight: 1.0}}], sample: {{}}}}
"""


def study_of(folder: Path, text: str = PARAMS) -> Study:
    (folder / "params.yaml").write_text(text)
    return load_study(folder / "params.yaml")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """With every result that a guided run on latents needs. Read only."""
    made = study_of(tmp_path_factory.mktemp("latents"))
    for stage, name in (("features", "small-latents"), ("evaluate", "latent"), ("evaluate", "latent-dg")):
        computed(made, stage, name)
    return made


def copied(study: Study, folder: Path) -> Study:
    shutil.copytree(study.folder, folder, dirs_exist_ok=True)
    return load_study(folder / "params.yaml")


def rows_of(artifact: Path) -> list[dict[str, Any]]:
    return json.loads((artifact / "metrics.json").read_text())["metrics"]


def test_a_run_on_latents_is_decoded_and_measured_as_images(study: Study) -> None:
    labels = [f"{call.stage} {call.name}" for call in chain(study, "evaluate", "latent")]
    assert Counter(labels) == Counter(
        ["prepare glyphs", "features glyphs", "autoencode small", "prepare-latents small-latents", "pretrain latent",
         "sample latent", "evaluate latent"]
    )  # fmt: skip
    samples = read_pictures(study.out / "sample" / "latent", "samples-1")
    assert (samples.images.dtype, samples.images.shape) == (np.uint8, (96, 1, 16, 16))
    fakes = read_pictures(study.out / "generate" / "dg", "samples")
    assert (fakes.images.dtype, fakes.images.shape) == (np.float32, (80, 2, 8, 8))
    path = np.load(study.out / "sample" / "latent" / "path.npy")
    assert (path.dtype, path.shape[2:]) == (np.uint8, (1, 16, 16))
    assert facts_of(study.out / "sample" / "latent")["shape"] == [1, 16, 16]
    assert entries_on(study, "glyphs") == ["latent", "latent-dg", "truncated"]
    assert entries(study)["check-metrics"] == ["glyphs"]


def test_a_truncated_chain_of_latents_takes_one_call_more_than_it_visits_states(study: Study, tmp_path: Path) -> None:
    own = copied(study, tmp_path)
    sampled = computed(own, "sample", "truncated")
    assert sampled.manifest.facts["nfe"] == 4
    assert read_pictures(sampled.path, "samples-0").images.shape == (96, 1, 16, 16)


def test_every_card_has_the_encoders_digest_beside_the_images_own_real_vs_real_value(study: Study) -> None:
    weights = read_artifact(study.out / "autoencode" / "small").manifest.files["weights.safetensors"].sha256
    real = {card.metric: value for card, value in read_real_vs_real(study.out / "features" / "glyphs").items()}
    for folder in ("features/small-latents", "evaluate/latent", "evaluate/latent-dg"):
        rows = rows_of(study.out / folder)
        assert {"fd", "precision", "recall"} <= {row["metric"] for row in rows}
        for row in rows:
            assert ["vae_sha256", weights] in [list(pair) for pair in row["card"]["settings"]]
            assert f"vae_sha256={weights[:8]}" in row["card"]["text"]
        assert next(row["real_vs_real"] for row in rows if row["metric"] == "fd") == real["fd"]
    facts = facts_of(study.out / "features" / "small-latents")
    assert facts["psnr"] == pytest.approx(10 * np.log10(4 / facts["mse"]))


def test_latents_have_mean_0_and_standard_deviation_1_and_what_is_known_of_the_images(study: Study) -> None:
    prepared, images = (study.out / "prepare" / name for name in ("small-latents", "glyphs"))
    latents, real = read_pictures(prepared, "train"), read_pictures(images, "train")
    assert latents.images.shape == (320, 2, 8, 8)
    np.testing.assert_allclose(latents.images.mean((0, 2, 3), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(latents.images.std((0, 2, 3), dtype=np.float64), 1, atol=1e-5)
    for ours, theirs in zip(latents[1:], real[1:]):
        np.testing.assert_array_equal(ours, theirs)
    facts, theirs = facts_of(prepared), facts_of(images)
    assert {split: facts[split] for split in facts["rows"]} == {"train": 320, "held_out": 160, "unseen": 32}
    for name in ("classes", "attribute_names", "vocabulary", "tokens"):
        assert facts[name] == theirs[name]


def test_latents_do_not_depend_on_parts_and_resume(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = STAGES["prepare"].call(study, "small-latents")
    monkeypatch.setattr(prepare_latents, "rows_per_shard", lambda *_: 100)
    parts, encoded = run_stage_alone(call.stage, call.config, inputs_of(study, call), tmp_path / "parts"), []
    assert len(parts.manifest.facts["rows"]["train"]) == 3
    whole = read_artifact(call.out)
    for split in ("train", "held_out"):
        ours, theirs = (open_rows(artifact.path, split).read().images for artifact in (parts, whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)  # sums over other parts: another last bit of the scale
    original = prepare_latents._encoded
    monkeypatch.setattr(prepare_latents, "_encoded", lambda *given: encoded.append(given[0]) or original(*given))
    again = run_stage_alone(call.stage, call.config, inputs_of(study, call), tmp_path / "again")
    assert encoded == []  # all parts were in the state
    assert again.digest == parts.digest


@pytest.mark.parametrize(
    ("scaling", "mean", "std"),
    [("channel", [1.0, -2.0], [2.0, 1.0]), ("single", [0, 0], [2.179449] * 2), (0.5, [0, 0], [2, 2])],
)
def test_the_scale_of_latents(scaling: str | float, mean: list[float], std: list[float]) -> None:
    moments = np.array([[1.0, -2.0], [5.0, 5.0]])  # of values with means 1, -2 and standard deviations 2, 1
    for computed_, wanted in zip(prepare_latents._scale(moments, scaling), (mean, std)):
        np.testing.assert_allclose(computed_, wanted, rtol=1e-6)


def test_a_channel_that_carries_nothing_is_named() -> None:
    facts = {"class_counts": {}, "rows": {}}
    split = prepare_latents.SplitFacts(count=1)
    latents = Latents("digest", (0.0, 0.0), (1.0, 1.0))
    warnings = prepare_latents._facts(facts, (2, 1, 1), {"train": split}, latents, np.array([0.1, 0.9]))["warnings"]
    assert warnings == ["latent channel 1 carries nothing: its mean posterior standard deviation is 0.90 of 1"]


def sampler_of(study: Study) -> GuidedSampler:
    call = STAGES["sample"].call(study, "latent")
    return GuidedSampler(sampler_spec(inputs_of(study, call), stage_config(call).sampler))


def test_a_decoded_image_does_not_depend_on_the_range_it_is_sampled_in(study: Study) -> None:
    sampler = sampler_of(study)
    whole = torch.cat(list(sampler.sample(range(100))))
    assert whole.shape == (100, 1, 16, 16)
    assert torch.equal(torch.cat(list(sampler.sample(range(70, 71)))), whole[70:71])


def test_another_encoder_than_the_runs_is_refused(study: Study, tmp_path: Path) -> None:
    other = copied(study, tmp_path)
    shutil.rmtree(other.out / "autoencode" / "small")
    with pytest.raises(ArtifactError, match="autoencode/small: does not exist: run the stage that makes it"):
        sampler_of(other)
    text = (tmp_path / "params.yaml").read_text()
    retrained = study_of(tmp_path, text.replace("train: {steps: 40, batch: 32}", "train: {steps: 1, batch: 32}"))
    shutil.rmtree(tmp_path / "store")  # of the training that the copy was made from
    computed(retrained, "autoencode", "small")
    wanted = r"^pretrain latent is of the encoder \w{12}, but autoencode small of \w{12}: latents of different encoders"
    with pytest.raises(UserError, match=wanted) as raised:
        sampler_of(retrained)
    assert "\n" not in str(raised.value)
    shutil.rmtree(other.out / "prepare" / "small-latents")
    computed(retrained, "prepare", "small-latents")
    call = STAGES["discriminate"].call(retrained, "dg")  # its fakes are of the first encoder
    with pytest.raises(UserError, match="latents of different encoders"):
        run_stage_alone(call.stage, call.config, inputs_of(retrained, call), tmp_path / "alone")


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("datasets:\n", "datasets:\n  odd: {source: latents, of: small}\n", "datasets.odd: latents belong under `lat"),
        ("of: small}", "of: smal}", "latents.small-latents: no autoencoder named 'smal' in params.yaml (did you mean"),
        ("of: small}", "of: small, scaling: pixel}", "latents.small-latents.scaling"),
        ("of: small}", "of: small, scaling: 0}", "latents.small-latents.scaling"),
        ("  small-latents:", "  glyphs:", "latents.glyphs: a dataset has the same name"),
        ("method: autoencoder.KLAutoencoder", "method: edm.EDM", "autoencoders.small: method 'edm.EDM': it has no enc"),
        ("    dataset: glyphs", "    dataset: small-latents", "autoencoders.small: no dataset named 'small-latents'"),
        ("dataset: small-latents", "dataset: small-latent", "runs.latent: no dataset named 'small-latent'"),
        (
            "guided:\n",
            "translations:\n  t: {guided: latent-dg, starts: [1.0], images: 2, sets: 1}\nguided:\n",
            "translations.t: guided: its run is on latents",
        ),
    ],
)
def test_a_wrong_entry_is_named_in_one_line(tmp_path: Path, was: str, becomes: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        study_of(tmp_path, PARAMS.replace(was, becomes, 1))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_images_that_cannot_be_halved_so_often_are_refused_before_training(tmp_path: Path) -> None:
    study = study_of(tmp_path, PARAMS.replace("channels: [8, 16]", "channels: [4, 4, 4, 4, 4, 4]"))
    with pytest.raises(ValueError, match=r"6 resolutions are for images with sides of a multiple of 32, but the data"):
        computed(study, "autoencode", "small")


def test_an_official_file_becomes_an_autoencoder(tmp_path: Path) -> None:
    trained = "train: {steps: 40, batch: 32}"
    imported = PARAMS.replace(trained, f"train: {{imported: {GOLDEN}, format: kl}}", 1)
    was = "latent_channels: 2, channels: [8, 16], layers: 1, groups: 4, attention: false"
    assert was in imported
    study = study_of(tmp_path, imported.replace(was, TINY))
    computed(study, "autoencode", "small")
    weights = load_weights(study.out / "autoencode" / "small")["autoencoder"]
    for name, value in load_file(GOLDEN).items():
        assert torch.equal(weights[name], value.float())
    latents: Artifact = computed(study, "prepare", "small-latents")
    assert latents.manifest.facts["shape"] == [4, 4, 4]
    wrong = study_of(tmp_path, imported)
    shutil.rmtree(study.out / "autoencode")
    with pytest.raises(UserError, match=r"latent_kl_tiny.safetensors (has|: )") as raised:
        computed(wrong, "autoencode", "small")
    assert "\n" not in str(raised.value)


def test_older_files_name_attention_otherwise(tmp_path: Path) -> None:
    nets = KLAutoencoder(4, (8, 16, 24), 1, 4).build(DataSpec((1, 16, 16), 0, 0.5))
    official = load_file(GOLDEN)
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    older = {}
    for name, value in official.items():
        new = next((new for new in old_names if f".{new}." in name), None)
        is_matrix = new is not None and name.endswith("weight")
        older[name.replace(new, old_names[new]) if new else name] = value[:, :, None, None] if is_matrix else value
    assert older.keys() != official.keys()
    save_file(older, tmp_path / "older.safetensors")
    read = read_checkpoint(tmp_path / "older.safetensors", "kl")
    for name, value in fit(read, "kl", nets, None, "older")["autoencoder"].items():
        assert torch.equal(value, official[name].float())


def test_samples_of_latents_are_not_clipped() -> None:
    method = DDPM(net="mlp", width=8, depth=1, steps=50, schedule="latent")
    latents = Latents("digest", (0.0,), (1.0,))
    for data, clips in ((DataSpec((1, 4, 4), 0, 1.0), True), (DataSpec((1, 4, 4), 0, 1.0, latents=latents), False)):
        assert method.build(data)["denoiser"].clips is clips


def test_dvc_has_the_edges(tmp_path: Path) -> None:
    study_of(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        graph = repo.index.graph
        stages = {str(stage.name): stage for stage in graph.nodes}
        needs = {name: {str(below.name) for below in graph.successors(stage)} for name, stage in stages.items()}
    assert {"prepare@glyphs", "check"} <= needs["autoencode@small"]
    assert "autoencode@small" in needs["prepare-latents@small-latents"]
    assert {"prepare-latents@small-latents", "check-metrics@glyphs"} <= needs["features-latents@small-latents"]
    assert "prepare-latents@small-latents" in needs["pretrain@latent"]
    assert {"features-latents@small-latents", "sample@latent"} <= needs["evaluate@latent"]
