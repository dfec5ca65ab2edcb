"""Stores the weights of a user's file as the checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.weights.class_names import named_head
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.plan.weights.match import HEAD, match_weights
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stats.seeds import restored_rng

WHOLE = "given."
"""Before the names of the head with all of its outputs, where the classifier has some: by it their order is checked."""

if TYPE_CHECKING:
    from oodbench.benchmark.plan.jobs import ImportJob
    from oodbench.benchmark.stages.context import JobContext, Tick


def import_weights(context: JobContext, job: ImportJob, tick: Tick) -> None:
    """Store the weights of a user's file. Raises `UserError` if the file has changed or does not fit the backbone."""
    weights = read_weights(Path(job.file))
    if weights.sha256 != job.sha256:
        raise UserError(f"'{job.file}' has changed since the run was planned. Run the same command again.")
    backbone: Backbone = create("backbone", parse_spec(job.checkpoint.backbone))
    with restored_rng(torch.device("cpu")):
        outputs = job.head.outputs if job.head else job.checkpoint.num_classes
        network = backbone.build(outputs, job.checkpoint.image_shape)
    state = match_weights(weights, backbone, network, job.without_head or bool(job.names)).tensors
    if job.names:
        network.load_state_dict(state)
        with restored_rng(context.device):
            state |= named_head(backbone, network.to(context.device).eval(), job.names)
    whole = {}
    if job.head and job.head.taken:
        rows = torch.tensor(job.head.taken)
        whole = {f"{WHOLE}{name}": value for name, value in state.items() if name.startswith(HEAD)}
        state |= {name: value[rows] for name, value in state.items() if name.startswith(HEAD)}
    names: dict[str, Any] = {"class_names": list(job.names)} if job.names else {}
    about = context.about(job, file=weights.path.name, sha256=weights.sha256, **names)
    context.store.save_tensors(
        job.checkpoint.key, {f"classifier.{name}": v for name, v in state.items()} | whole, about
    )
    tick(job.size)
