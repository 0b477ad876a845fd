"""`trilemma plan` on stages it was not fitted to: all are predicted first, then each runs as a command of its own.

Prints CPU seconds predicted and measured, and the median absolute error of stages above 20 seconds. Takes a quarter of
an hour on an idle core: trainings and samplings of about 25 CPU seconds each.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from pipeline.config.study import load_study
from pipeline.dag.graph import chain
from pipeline.dag.plan import predict

ROOT = Path(__file__).parents[1]
MLP = "net: mlp, conditional: true"
GAN = f"{MLP}, latent: 16, r1_every: 4"
PARAMS = f"""
root: {ROOT}
datasets:
  few: {{source: digits, options: {{}}, features: {{}}, fakes: 1280, evaluate: {{images: 2000, sample_seeds: 4}}}}
  many: {{source: digits, options: {{}}, features: {{}}, fakes: 7680}}
runs:
  edm-mlp:
    dataset: few
    method: edm.EDM
    model: {{net: mlp, width: 320, depth: 4}}
    train: {{steps: 500, batch: 192}}
    sample: {{}}
  edm-unet:
    dataset: few
    method: edm.EDM
    model: {{width: 24, depth: 1, channel_mult: [1, 2], attention: [4]}}
    train: {{steps: 110, batch: 64}}
    sample: {{}}
  ddgan:
    dataset: few
    method: ddgan.DDGAN
    model: {{{GAN}, width: 192, schedule: cosine}}
    train: {{steps: 380, batch: 128}}
    sample: {{}}
  siddm:
    dataset: few
    method: siddm.SIDDM
    model: {{{GAN}, trained_times: visited}}
    train: {{steps: 330, batch: 96}}
    sample: {{}}
  tdpm:
    dataset: few
    method: tdpm.TDPM
    model: {{{MLP}, kept: 200, discriminator: residual-mlp}}
    train: {{steps: 200, batch: 128}}
    sample: {{spacing: "3"}}
  gan:
    dataset: few
    method: gan.GAN
    model: {{{GAN}, width: 256}}
    train: {{steps: 190, batch: 256}}
    sample: {{}}
  ddpm:
    dataset: few
    method: ddpm.DDPM
    model: {{{MLP}, width: 256, depth: 3}}
    train: {{steps: 300, batch: 256}}
    sample: {{}}
  short-unet:
    dataset: few
    method: edm.EDM
    model: {{width: 32, depth: 1, channel_mult: [1, 2], attention: []}}
    train: {{steps: 20, batch: 64}}
    sample: {{steps: 18}}
  short-mlp:
    dataset: many
    method: edm.EDM
    model: {{net: mlp, width: 256, depth: 3}}
    train: {{steps: 20, batch: 64}}
    sample: {{steps: 30}}
  short-few:
    dataset: few
    method: edm.EDM
    model: {{net: mlp, width: 256, depth: 3}}
    train: {{steps: 20, batch: 64}}
    sample: {{steps: 18}}
classifiers:
  teller:
    dataset: few
    method: classifier_guidance.Classifier
    model: {{net: mlp, width: 320, depth: 3}}
    train: {{steps: 1100, batch: 128, patience: 100}}
guides:
  of-unet: {{run: short-unet, method: discriminator_guidance.Discriminator, model: {{body: mlp}}, train: {{}}}}
  of-mlp: {{run: short-mlp, method: discriminator_guidance.Discriminator, model: {{body: mlp}}, train: {{}}}}
guided:
  told:
    run: short-few
    guides: [{{guide: teller, scale: 1.0}}]
    sample: {{}}
"""
TRAINED = ("edm-mlp", "edm-unet", "ddgan", "siddm", "tdpm", "gan", "ddpm")
WORK = [
    *(("pretrain", name) for name in TRAINED),
    ("classify", "teller"),
    ("generate", "of-unet"),
    ("generate", "of-mlp"),
    ("sample", "told"),
]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as house:
        os.environ |= {"TRILEMMA_STORE": f"{house}/store", "MLFLOW_TRACKING_URI": f"sqlite:///{house}/mlflow.db"}
        file = Path(house, "params.yaml")
        file.write_text(PARAMS)
        study = load_study(file)
        chains = [(study, chain(study, stage, name)) for stage, name in WORK]
        predict(study, chains)
        for call in {call.out: call for _, calls in chains for call in calls}.values():
            command = [sys.executable, "-m", "pipeline.cli.main", call.stage, call.name]
            subprocess.run(command, cwd=house, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        past = predict(study, chains)["past"]
    for row in past["stages"]:
        memory = f"{row['memory_predicted_mib']} MiB, was {row['memory_measured_mib']}"
        seconds = f"{row['predicted']:.1f} CPU s, was {row['measured']:.1f} ({100 * row['error']:+.0f} %)"
        print(f"{row['stage']} {row['name']}: {seconds}; {memory}", flush=True)
    long = [row for row in past["stages"] if row["measured"] > 20]
    print(f"median absolute error of {len(long)} stages above 20 s: {past['median_error_long']}")


if __name__ == "__main__":
    main()
