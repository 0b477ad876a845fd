"""An MLflow run and a progress line for one execution of a stage."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config.study import Study
from pipeline.context import Launch
from pipeline.dag.graph import STAGES, Call
from pipeline.dag.usage import commit
from pipeline.tracking.mlflow_run import connect
from pipeline.tracking.watch import Watch


@contextmanager
def open_watch(study: Study, call: Call, key: str, launch: Launch) -> Iterator[Watch]:
    title, experiment = f"{call.stage} {call.name}", f"{study.name}/{call.dataset}"
    tags = {"stage": call.stage, "entry": call.name, "key": key, "backend": launch.description["backend"]}
    tags |= {"mlflow.source.git.commit": head} if (head := commit()) else {}
    with (
        connect(study.root).open_run(experiment, title, flat_params(call), call.config, tags) as run,
        Watch(run.spec, title, STAGES[call.verb].unit).opened(run) as watch,
    ):
        yield watch


def flat_params(call: Call) -> dict[str, str | float]:
    """The few settings by which runs are compared."""
    config = call.config | call.config.get("sampler", {})
    params: dict[str, str | float] = {"stage": call.stage, "dataset": call.dataset}
    if "method" in config:
        params["method"] = config["method"]
    params |= {name: value for name, value in config.get("train", {}).items() if name in ("steps", "batch", "seed")}
    blocks = {"sample": config.get("sample", {})}
    for number, guide in enumerate(config.get("guides", [])):
        params[f"guide_{number}"] = guide["guide"]
        blocks[f"guide_{number}"] = guide["use"]
    for prefix, block in blocks.items():
        params |= {f"{prefix}_{name}": value for name, value in block.items() if isinstance(value, int | float)}
    return params
