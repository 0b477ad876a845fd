"""Derived runs: the edge to the run they need, in the chain, the key, DVC's graph and the training."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from dvc.repo import Repo

from methods.core.loop import TrainState
from methods.core.training.derived import TEACHER, Teacher, begin, check_roles
from methods.core.types import DataSpec, Parent
from methods.ddpm import DDPM
from methods.edm import EDM
from methods.gan import GAN
from pipeline.config.study import Study, load_study
from pipeline.context import RunContext
from pipeline.dag.graph import STAGES, chain
from pipeline.dag.lineage import chain_links
from pipeline.dag.plan import Unwatched
from pipeline.dag.run import execute, inputs_of, stage_config
from pipeline.data.artifacts import MANIFEST, Artifact, read_artifact
from pipeline.errors import ConfigError, UserError
from pipeline.launch.launcher import InProcess
from pipeline.sampling.sampler import GuidedSampler, sampler_spec
from pipeline.store.store import Store
from pipeline.training.networks import load_weights

ROOT = Path(__file__).parents[3]
NET = "net: mlp, width: 16, depth: 1"
PARAMS = f"""
root: {ROOT}
datasets:
  digits: {{source: digits, options: {{}}, features: {{}}, evaluate: {{}}}}
  odd: {{source: digits, options: {{}}, features: {{}}, evaluate: {{}}}}
runs:
  toy: {{dataset: digits, method: edm.EDM, model: {{{NET}}}, train: {{steps: 20, batch: 32}}, sample: {{steps: 3}}}}
derived:
  tuned:
    from: {{run: toy, as: start}}
    dataset: digits
    method: edm.EDM
    model: {{{NET}, lr: 1.0e-9, p_std: 0.5}}
    train: {{steps: 1, batch: 32}}
    sample: {{steps: 3}}
  twice:
    from: {{run: tuned, as: [start]}}
    dataset: digits
    method: edm.EDM
    model: {{{NET}}}
    train: {{steps: 1, batch: 32}}
    sample: {{}}
guided:
  twice-guided: {{run: twice, guides: [], sample: {{}}}}
autoguided:
  away:
    run: tuned
    weaker: {{run: toy, weight: 0.5, interval: [0.1, 30.0]}}
    guides: []
    sample: {{}}
"""
WRONG_WEAKER = [
    (
        {"weight": 0.5, "interval": [100.0, 200.0]},
        r"weaker: no step of the sampler begins in its interval \(100, 200\]",
    ),
    ({"interval": [3.0, 2.0]}, r"weaker: interval: \(3\.0, 2\.0\) came, two noise levels, the lower first,"),
    ({"scale": 3.0}, "weaker: unknown key 'scale'; it has interval, weight"),
]
POINTS = DataSpec((2,), 3, 1.0)


def study_of(folder: Path, text: str = PARAMS) -> Study:
    (folder / "params.yaml").write_text(text)
    return load_study(folder / "params.yaml")


def computed(study: Study, stage: str, name: str) -> Artifact:
    """The result of a call and of those it needs, without keys and tracker."""
    for call in chain(study, stage, name):
        if not (call.out / MANIFEST).is_file():
            state = Store(str(study.folder / "store")).state(call.name)
            context = RunContext(InProcess(), state, cast(Any, Unwatched()))
            execute(call, stage_config(call), inputs_of(study, call), context)
    return read_artifact(STAGES[stage].call(study, name).out)


def test_a_derived_run_starts_from_the_weights_that_the_other_run_samples_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_STORE", str(tmp_path / "store"))
    study = study_of(tmp_path)
    tuned = computed(study, "pretrain", "tuned")
    base = computed(study, "pretrain", "toy")
    started, first = load_weights(tuned.path)["denoiser"], load_weights(base.path)["denoiser"]
    for name, value in first.items():
        torch.testing.assert_close(started[name], value, rtol=0, atol=1e-6)  # one step with a rate of 1e-9
    assert tuned.manifest.inputs["from"] == base.digest
    links = chain_links(study, STAGES["pretrain"].call(study, "tuned"))
    assert [link.label for link in links] == ["prepare digits", "pretrain toy", "pretrain tuned"]


def test_the_other_run_is_in_the_key(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    call = STAGES["pretrain"].call(study, "tuned")
    keys = {call.key(ROOT, {"data": "a", "from": other}) for other in ("b", "c")}
    as_teacher = study_of(tmp_path, PARAMS.replace("as: start", "as: teacher"))
    keys.add(STAGES["pretrain"].call(as_teacher, "tuned").key(ROOT, {"data": "a", "from": "b"}))
    assert len(keys) == 3
    other_method = PARAMS.replace("toy: {dataset: digits, method: edm.EDM", "toy: {dataset: digits, method: gan.GAN")
    assert "methods.gan" in STAGES["pretrain"].call(study_of(tmp_path, other_method), "tuned").modules


def test_an_autoguided_run_is_sampled_away_from_the_weaker_one(tmp_path: Path) -> None:
    study = study_of(tmp_path, PARAMS.replace("lr: 1.0e-9", "lr: 0.1, lr_rampup_images: 0"))
    call = STAGES["sample"].call(study, "away")
    assert call.inputs["weaker"] == study.out / "pretrain" / "toy"
    for run in ("toy", "tuned"):
        computed(study, "pretrain", run)
    inputs, config = inputs_of(study, call), stage_config(call).sampler

    def with_weaker(**changes: Any) -> GuidedSampler:
        return GuidedSampler(sampler_spec(inputs, replace(config, weaker=replace(config.weaker, **changes))))

    sampler = GuidedSampler(sampler_spec(inputs, config))
    plain = with_weaker(use={"weight": 0.0})
    unguided = GuidedSampler(sampler_spec(inputs, replace(config, weaker=None)))
    with sampler.counting() as rows:
        (away,) = sampler.sample(range(64))
    # Of three steps the second begins in (0.1, 30], and has two calls; the last has one.
    assert rows == {"nfe": 64 * 5, "guide_calls": 64 * 2}
    (same,), (base,) = plain.sample(range(64)), unguided.sample(range(64))
    assert torch.equal(same, base)
    assert not torch.equal(away, base)
    for use, told in WRONG_WEAKER:
        with pytest.raises((ConfigError, ValueError), match=told):
            with_weaker(use=use)
    with pytest.raises(UserError, match="this run stored no averages"):
        with_weaker(ema=0.1)


def test_dvc_has_the_edge(tmp_path: Path) -> None:
    study_of(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        graph = repo.index.graph
        stages = {str(stage.name): stage for stage in graph.nodes}
        needs = {name: {str(below.name) for below in graph.successors(stage)} for name, stage in stages.items()}
    assert "pretrain@toy" in needs["pretrain-derived@tuned"]
    assert "pretrain-derived@tuned" in needs["pretrain-derived@twice"]
    assert "pretrain-derived@twice" in needs["sample-derived@twice"]
    assert "sample-derived@twice" in needs["evaluate-derived@twice"]
    assert {"pretrain-derived@tuned", "pretrain@toy"} <= needs["sample-autoguided@away"]
    assert {"pretrain-derived@twice", "check"} <= needs["sample-guided@twice-guided"]


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("{run: toy, as: start}", "{run: toy}", "derived.tuned.from.as: does not fit: Field required"),
        ("{run: toy, as: start}", "{run: toy, as: begin}", "Input should be 'start' or 'teacher'"),
        ("{run: toy, as: start}", "{run: toy, as: []}", "derived.tuned: from.as: nothing came"),
        ("{run: toy, as: start}", "{rum: toy, as: start}", "from: unknown key 'rum' (did you mean 'run'?)"),
        ("{run: toy, as: start}", "{run: tyo, as: start}", "derived.tuned: no run named 'tyo' in params.yaml (did you"),
        ("{run: toy, as: start}", "{run: twice, as: start}", "tuned needs twice needs tuned: runs cannot need each"),
        ("{run: toy, as: start}", "{run: tuned, as: start}", "tuned needs tuned"),
        (
            "toy: {dataset: digits",
            "toy: {dataset: odd",
            "from.run: 'toy' is trained on 'odd', but this run on 'digits'",
        ),
        ("    from: {run: toy, as: start}\n", "", "derived.tuned.from: does not fit: Field required"),
        ("train: {steps: 1, batch: 32}", "train: {imported: a, format: edm}", "derived.tuned: train.imported"),
        ("toy: {dataset", "toy: {from: {run: tuned, as: start}, dataset", "belongs under `derived`"),
        ("  twice:", "  toy:", "derived.toy: an entry of `runs` has the same name"),
        ("weaker: {run: toy, ", "weaker: {run: tyo, ", "autoguided.away: no run named 'tyo'"),
        ("weaker: {run: toy, ", "weaker: {", "autoguided.away: no run named ''"),
    ],
)
def test_a_wrong_from_is_named_in_one_line(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        study_of(tmp_path, PARAMS.replace(was, becomes, 1))
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def parent_of(method: Any) -> Parent:
    return Parent(method, {name: net.eval() for name, net in method.build(POINTS).items()})


def test_averages_start_from_the_other_run_too() -> None:
    method, parent = EDM(net="mlp", width=8, depth=1), parent_of(EDM(net="mlp", width=8, depth=1))
    state = TrainState.fresh(method, POINTS, 0)
    begin(method, state, parent, ["start"])
    for values in (state.nets["denoiser"].state_dict(), state.averages["denoiser"]):
        assert all(torch.equal(value, parent.nets["denoiser"].state_dict()[name]) for name, value in values.items())


def test_a_teacher_is_frozen_and_keeps_its_own_method() -> None:
    state = TrainState.fresh(method := EDM(net="mlp", width=8, depth=1), POINTS, 0, dtype=torch.float64)
    parent = parent_of(DDPM(net="mlp", width=16, depth=1, steps=50))
    begin(method, state, parent, ["teacher"])
    teacher = state.nets[TEACHER]
    assert isinstance(teacher, Teacher)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert next(teacher.parameters()).dtype == torch.float64
    assert teacher.method == parent.method
    with pytest.raises(ValueError, match="the teacher is a GAN, which has no denoiser"):
        Teacher(parent_of(GAN())).denoiser(None)


def test_networks_that_do_not_fit_are_named() -> None:
    method = EDM(net="mlp", width=8, depth=1)
    state = TrainState.fresh(method, POINTS, 0)
    with pytest.raises(
        ValueError, match=r"from: denoiser: \S+ is .*16\].*wanted: give both runs the same `model` fields"
    ):
        begin(method, state, parent_of(EDM(net="mlp", width=16, depth=1)), ["start"])
    with pytest.raises(ValueError, match="its networks are generator, discriminator, but denoiser was wanted"):
        begin(method, state, parent_of(GAN()), ["start"])


def test_a_method_has_the_roles_it_declares_and_no_others() -> None:
    edm = EDM()
    check_roles(edm, "edm.EDM", ["start"])
    with pytest.raises(ValueError, match=r"from\.as: edm\.EDM has no use for another run as teacher: it has for start"):
        check_roles(edm, "edm.EDM", ["teacher"])

    class Distilled(EDM):
        roles: ClassVar = {"start": False, "teacher": True}

    check_roles(Distilled(), "mine.Distilled", ["teacher"])
    with pytest.raises(ValueError, match=r"mine\.Distilled needs another run as teacher: move its entry to `derived`"):
        check_roles(replace(Distilled()), "mine.Distilled", ["start"])
