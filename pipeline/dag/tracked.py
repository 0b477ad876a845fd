"""An MLflow run and a progress line for one execution of a stage."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config.study import Study
from pipeline.context import Launch
from pipeline.dag.graph import STAGES, Call
from pipeline.tracking.mlflow_run import connect
from pipeline.tracking.watch import Watch


@contextmanager
def open_watch(study: Study, call: Call, key: str, commit: str | None, launch: Launch) -> Iterator[Watch]:
    """A run for one execution of a stage."""
    tags = {"stage": call.stage, "entry": call.name, "key": key, "backend": launch.description["backend"]}
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
    opened = connect(study.root).open_run(
        f"{study.name}/{call.dataset}", f"{call.stage} {call.name}", flat_params(call), call.config, tags
    )
    with (
        opened as run,
        Watch(run.spec, f"{call.stage} {call.name}", STAGES[call.verb].unit).opened(run) as watch,
    ):
        yield watch


def flat_params(call: Call) -> dict[str, str | float]:
    """The few settings that runs are compared by."""
    config = call.config | call.config.get("sampler", {})
    found: dict[str, str | float] = {"stage": call.stage, "dataset": call.dataset}
    if "method" in config:
        found["method"] = config["method"]
    found |= {name: value for name, value in config.get("train", {}).items() if name in ("steps", "batch", "seed")}
    found |= {f"sample_{name}": value for name, value in config.get("sample", {}).items() if _is_number(value)}
    for number, guide in enumerate(config.get("guides", [])):
        found[f"guide_{number}"] = guide["guide"]
        found |= {f"guide_{number}_{name}": value for name, value in guide["use"].items() if _is_number(value)}
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
