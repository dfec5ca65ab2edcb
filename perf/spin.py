"""Measures the cost of OpenMP's spinning when another program uses a core: images per second of GAN training.

    python perf/spin.py

Each setting of GOMP_SPINCOUNT is timed in a separate process for five seconds, once alone and once next to a busy loop;
ratios are relative to the setting that `bench run` uses. Only for Linux builds of torch with GNU OpenMP.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

SECONDS = 5.0
USED = "1000"
SETTINGS = (USED, "0", "10000", "")
BUSY = "while True: pass"


def worker() -> None:
    import torch

    from oodbench.benchmark import Task, TrainBatch, Training
    from oodbench.benchmark.plugins.registry import registry

    recipe = registry.get("recipe", "gan")(width=16)
    networks = recipe.networks(Task(10, (3, 32, 32), torch.nn.Identity))
    networks = {name: network.to(memory_format=torch.channels_last) for name, network in networks.items()}
    training = Training(networks, recipe.optimizers(networks), {}, torch.Generator())
    images = torch.rand(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    batch = TrainBatch(images, torch.zeros(64, dtype=torch.int64), None)
    for _ in range(5):
        recipe.step(training, batch)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        recipe.step(training, batch)
        steps += 1
    print(64 * steps / (time.perf_counter() - start))


def images_per_second(spin: str) -> float:
    environment = {**os.environ, **({"GOMP_SPINCOUNT": spin} if spin else {})}
    if not spin:
        environment.pop("GOMP_SPINCOUNT", None)
    command = [sys.executable, __file__, "worker"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    for situation in ("alone", "next to a busy loop"):
        other = subprocess.Popen([sys.executable, "-c", BUSY]) if situation != "alone" else None
        try:
            rates = {spin: images_per_second(spin) for spin in SETTINGS}
        finally:
            if other:
                other.kill()
        for spin, rate in rates.items():
            name = f"GOMP_SPINCOUNT={spin}" if spin else "OpenMP's default"
            print(f"{situation}: {name}: {rate:.0f} images/s, {rate / rates[USED]:.2f} of {USED}")


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
