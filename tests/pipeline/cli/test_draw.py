"""`text: true` through prepare, pretrain and sample; `trilemma draw`; captions that cannot be used."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.draw import draw
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from pipeline.data.artifacts import facts_of, read_artifact
from pipeline.data.captions import UNSTATED, Captions
from pipeline.data.datasets.glyphs import VOCABULARY
from pipeline.data.shards import read_pictures
from pipeline.errors import ConfigError, UserError
from pipeline.metrics.values import attribute_accuracy
from tests.support.stages import RecordingWatch, run_stage_alone
from tests.support.toy_study import ROOT

DIT = "net: dit, width: 16, depth: 1, heads: 2, patch: 4, label_dropout: 0.1"
DIT += ", lr: 0.02, lr_rampup_images: 0, ema_halflife_images: 16"  # so that conditions matter after a few steps
TRAIN = "train: {steps: 12, batch: 16}"
STUDY = f"""\
root: {ROOT}
datasets:
  g:
    source: glyphs
    options: {{train: 64, held_out: 24, unseen: 4, classifier: 0}}
    evaluate: {{images: 70, sample_seeds: 1}}
  d: {{source: digits}}
runs:
  text: {{dataset: g, method: edm.EDM, model: {{text: true, {DIT}}}, {TRAIN}, sample: {{steps: 2, cfg_weight: 1.0}}}}
  class: {{dataset: g, method: edm.EDM, model: {{{DIT}}}, {TRAIN}, sample: {{steps: 2}}}}
  bare: {{dataset: d, method: edm.EDM, model: {{text: true, {DIT}}}, {TRAIN}, sample: {{}}}}
"""


class TrainingWatch(RecordingWatch):
    """Accepts what a training and a sampling log."""

    @contextmanager
    def opened(self) -> Iterator["TrainingWatch"]:
        yield self

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def path(self, states: np.ndarray) -> None: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two trained runs, and samples of the one with captions."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "params.yaml").write_text(STUDY)
    study = load_study(folder / "params.yaml")
    for stage, name in (("prepare", "g"), ("pretrain", "text"), ("pretrain", "class"), ("sample", "text")):
        call = STAGES[stage].call(study, name)
        inputs = {role: read_artifact(path) for role, path in call.inputs.items()}
        run_stage_alone(stage, call.config, inputs, call.out, TrainingWatch())
        shutil.rmtree(call.out.parent / "store")  # the saved state, whose key is the same for all
    return folder


def test_samples_take_the_captions_of_held_out_pictures_and_keep_what_they_state(trained: Path) -> None:
    out = trained / "out"
    made, facts = read_pictures(out / "sample" / "text", "samples-0"), facts_of(out / "prepare" / "g")
    held_out = read_pictures(out / "prepare" / "g", "held_out")
    assert held_out.tokens is not None
    assert held_out.attributes is not None
    assert made.tokens is not None
    assert made.attributes is not None
    rows = np.arange(70) % 24
    assert np.array_equal(made.tokens, held_out.tokens[rows])
    assert np.array_equal(made.labels, held_out.labels[rows])
    is_stated = made.attributes != UNSTATED
    assert np.array_equal(made.attributes[is_stated], held_out.attributes[rows][is_stated])
    assert is_stated[:, 0].all()  # characters always are
    assert not is_stated[:, -1].any()  # paper never is, in grey
    for tokens, wanted in zip(made.tokens, made.attributes):
        text = [VOCABULARY[token] for token in tokens if token]
        count = len(set(text) - {"a", "in"})
        assert count == sum(wanted != UNSTATED)
        assert all(facts["attribute_values"][k][v] in text for k, v in enumerate(wanted) if v != UNSTATED)
    assert UNSTATED == attribute_accuracy.UNSTATED


def test_pictures_of_a_caption_or_class_are_drawn(trained: Path, tmp_path: Path) -> None:
    wanted = (("text", "a bold slanted seven", None), ("text", "a BOLD slanted one", None), ("text", None, None))
    pictures = []
    for name, caption, label in (*wanted, ("class", None, "seven"), ("class", None, "7"), ("class", None, None)):
        draw(trained, name, tmp_path / "out.png", caption, label, 3, 0)
        pictures.append(np.asarray(Image.open(tmp_path / "out.png")))
    assert pictures[0].shape == (48, 3 * 50 - 2)
    assert np.array_equal(pictures[3], pictures[4])
    assert not np.array_equal(pictures[3], pictures[5])
    assert not np.array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize(
    ("name", "caption", "label", "message"),
    [
        ("text", "a bolt slanted seven", None, r"no word 'bolt' in the vocabulary: did you mean bold"),
        ("text", "a xyzzy", None, r"no word 'xyzzy' in the vocabulary: known are a, in, on, zero"),
        ("text", "<null>", None, r"no word '<null>'"),
        ("text", "", None, r"caption: 0 words came, 1 to 13 were wanted"),
        ("text", "a " * 14, None, r"caption: 14 words came"),
        ("text", None, "seven", r"--label: text is conditioned on captions: pass --caption"),
        ("class", "a seven", None, r"--caption: class is not conditioned on captions"),
        ("class", None, "sevn", r"--label: 'sevn' came, one of zero, one"),
        ("class", None, "10", r"--label: '10' came"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    name: str, caption: str | None, label: str | None, message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        draw(trained, name, tmp_path / "out.png", caption, label, 2, 0)
    with pytest.raises(UserError, match=r"a file FILE\.png in a folder"):
        draw(trained, name, tmp_path / "missing" / "out.png", caption, label, 2, 0)
    assert not list(tmp_path.iterdir())


def test_captions_are_wanted_only_of_data_that_have_them(trained: Path) -> None:
    study = load_study(trained / "params.yaml")
    assert "captions" in STAGES["sample"].call(study, "text").inputs
    assert "captions" not in STAGES["sample"].call(study, "class").inputs
    call = STAGES["prepare"].call(study, "d")
    prepared = run_stage_alone("prepare", call.config, {}, call.out)
    call = STAGES["pretrain"].call(study, "bare")
    with pytest.raises(UserError, match=r"model\.text: true came, but these data have no captions"):
        run_stage_alone("pretrain", call.config, {"data": prepared}, call.out)
    assert not call.out.exists()
    captions = Captions.of(trained / "out" / "prepare" / "g")
    assert captions.row(25) == captions.row(1)


TRANSLATED = """\
guided: {h: {run: text, guides: [], sample: {}}}
translations: {t: {guided: h, starts: [1.0], images: 4, sets: 1}}
"""
STACKED = "stacks: {s: {dataset: g, method: edm.EDM, model: {text: true}, members: {}, train: {}, sample: {}}}"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (TRANSLATED, r"translations\.t: guided: its run needs captions"),
        (STACKED, r"stacks\.s: model\.text: the models"),
    ],
)
def test_stages_that_give_classes_refuse_runs_with_captions(section: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(STUDY + section)
    with pytest.raises(ConfigError, match=message):
        load_study(tmp_path / "params.yaml")
