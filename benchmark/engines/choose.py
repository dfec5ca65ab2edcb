"""Where jobs run."""

from __future__ import annotations

from oodbench.benchmark.engines.engine import Engine
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite import SHARES, is_share

ENGINES = ("local", "ray")


def choose_engine(name: str, jobs: int = 1, ray_address: str = "", gpus: float = 1.0) -> Engine:
    """The engine that `bench run --engine NAME` asks for; `UserError` for options that do not go together."""
    if name not in ENGINES:
        raise UserError(f"Unknown engine '{name}'. Choose {' or '.join(ENGINES)}.")
    if jobs < 1:
        raise UserError(f"jobs must be a whole number from 1; got {jobs}.")
    if not is_share(gpus):
        raise UserError(f"gpus is {gpus:g}; it must be {SHARES}.")
    if name == "ray":
        if jobs > 1:
            raise UserError(
                "--jobs is for processes of this machine; with --engine ray the cluster decides. Leave it out."
            )
        from oodbench.benchmark.engines.ray_engine import Cluster

        return Cluster(ray_address, gpus)
    if ray_address:
        raise UserError("--ray-address is for --engine ray. Add that, or leave it out.")
    if jobs > 1:
        from oodbench.benchmark.engines.processes import Processes

        return Processes(jobs)
    from oodbench.benchmark.engines.local import Local

    return Local()
