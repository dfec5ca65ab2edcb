"""Selects the engine that the options of a run ask for."""

from __future__ import annotations

from oodbench.benchmark.engines.engine import Engine
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite import SHARES, is_share

ENGINES = ("local", "ray")


def choose_engine(name: str, jobs: int = 1, ray_address: str = "", gpus: float = 1.0) -> Engine:
    """The engine of `bench run --engine NAME`. Raises `UserError` for invalid or conflicting options."""
    if name not in ENGINES:
        raise UserError(f"Unknown engine '{name}'. Choose {' or '.join(ENGINES)}.")
    if jobs < 1:
        raise UserError(f"jobs must be a whole number of at least 1; got {jobs}.")
    if not is_share(gpus):
        raise UserError(f"gpus is {gpus:g}; it must be {SHARES}.")
    if name == "ray":
        if jobs > 1:
            raise UserError(
                "--jobs is the number of processes on this machine. With --engine ray, the cluster decides: leave out "
                "--jobs."
            )
        from oodbench.benchmark.engines.ray_engine import Cluster

        return Cluster(ray_address, gpus)
    if ray_address:
        raise UserError("--ray-address needs --engine ray. Add that, or leave out --ray-address.")
    if jobs > 1:
        from oodbench.benchmark.engines.processes import Processes

        return Processes(jobs)
    from oodbench.benchmark.engines.local import Local

    return Local()
