"""Measures how long an exported detector takes for one image, beside the bare network, in onnxruntime on one thread.

    python perf/onnx_bundle.py
    python perf/onnx_bundle.py --backbone resnet18 --detectors energy,vim
    python perf/onnx_bundle.py --size 48            # images of 48 x 48: the network takes about twice as long

Trains the network for an instant on digits in a temporary folder, exports each detector with its network and score as
one ONNX graph, and times single images with both graphs in turn. It prints the medians of CPU times, and that of the
ratios. Needs the extra `onnx`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from oodbench.benchmark import load_monitor, run
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.standalone.bundle.export import export
from oodbench.benchmark.standalone.bundle.monitor import Monitor

DETECTORS = "msp,energy,react,vim,mahalanobis,relative_mahalanobis,gmm,relation"
ROUNDS = 60
BLOCK = 8
"""Images per forward call of the run: exports then pass 64 images, and not 256."""


def session(content: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def bare_network(monitor: Monitor) -> bytes:
    """The network alone, images -> logits, by the same exporter."""
    example = (torch.zeros(3, *monitor.bundle.input.shape),)
    count = torch.export.Dim("N", min=1, max=1 << 16)
    network = monitor.scorer.classifier.network
    program = torch.export.export(network, example, dynamic_shapes=({0: count},))
    converted: Any = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=18, input_names=["images"])
    content: bytes = converted.model_proto.SerializeToString()
    return content


def seconds(which: onnxruntime.InferenceSession, image: np.ndarray) -> float:
    """CPU seconds of one image, on one thread: other programs affect them less than wall-clock time."""
    start = time.process_time()
    which.run(None, {"images": image})
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--detectors", default=DETECTORS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--size", type=int, default=0, help="shorter side of the images [default: 32, as digits have]")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        limits = {"limit_train": 400, "limit_test": 60, "epochs": 1, "stability": False, "block": BLOCK}
        where = {"results": folder, "name": "perf", "backbone": asked.backbone}
        where |= {"resize": str(asked.size)} if asked.size else {}
        done = run(asked.detectors, id_sets="digits", ood_sets="greek", **limits, **where)  # type: ignore[arg-type]
        labels = list(dict.fromkeys(record.label for record in done.records if record.status == "ok"))
        bare = None
        for label in labels:
            file, graph = Path(folder) / f"{label}.safetensors", Path(folder) / f"{label}.onnx"
            export("perf", label, file, results=folder)
            monitor = load_monitor(file)
            try:
                difference = monitor.to_onnx(graph)
            except OodbenchError as error:
                print(f"{label:22} {error}")
                continue
            bare = bare or session(bare_network(monitor))
            both = session(str(graph))
            image = np.random.RandomState(0).rand(1, *monitor.bundle.input.shape).astype(np.float32)
            times = [(seconds(bare, image), seconds(both, image)) for _ in range(asked.rounds)][5:]
            network, whole = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(both / alone for alone, both in times)
            took = f"network {network:6.1f} ms, network and score {whole:6.1f} ms, ratio {ratio:.3f}"
            print(f"{label:22} {took}, scores differ by {difference:.1e} of their spread", flush=True)


if __name__ == "__main__":
    main()
