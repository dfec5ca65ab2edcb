"""`bench export`: write a run's detector, with its network and a threshold, to one file."""

from __future__ import annotations

from pathlib import Path

import click

from oodbench.benchmark.cli.base import PATH, Command, plugin_option, results_option


@click.command(
    cls=Command,
    short_help="Write a run's detector to one file, for service.",
    examples="""
    bench export digits vim vim.safetensors --id digits
    bench export digits "knn[k=10]" knn.safetensors --id digits --tpr 0.99
    bench export photos energy energy.safetensors --weights hash
    bench export photos energy energy.safetensors --onnx energy.onnx
    """,
)
@click.argument("run_name", metavar="RUN")
@click.argument("detector", metavar="DETECTOR")
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--id", "id_set", default="", metavar="SET", help="The ID set, if the run has several.")
@click.option("--seed", default=None, type=click.IntRange(0), metavar="N", help="The seed.  [default: the run's first]")
@click.option(
    "--tpr", default=0.95, show_default=True, type=float, metavar="SHARE", help="Share of ID images to accept."
)
@click.option(
    "--weights",
    default="include",
    show_default=True,
    type=click.Choice(["include", "hash"]),
    help="Put the network's weights into the file, or only their hash.",
)
@click.option(
    "--onnx",
    default=None,
    type=PATH,
    metavar="FILE.onnx",
    help="Also write network and score as an ONNX graph.",
)
@click.option(
    "--onnx-images",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "uint8"]),
    help="What the graph takes: images in [0, 1], or from 0 to 255.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing FILE.")
@click.option("--device", default="", metavar="NAME", help="cpu, cuda or mps.  [default: the run's]")
@click.option(
    "--data-dir",
    default=None,
    type=PATH,
    metavar="DIR",
    help="Folder of the data sets' files.  [default: the run's]",
)
@results_option
@plugin_option
def export(
    run_name: str,
    detector: str,
    file: Path,
    id_set: str,
    seed: int | None,
    tpr: float,
    weights: str,
    onnx: Path | None,
    onnx_images: str,
    overwrite: bool,
    device: str,
    data_dir: Path | None,
    results: Path,
    plugins: tuple[Path, ...],
) -> None:
    """Write a run's detector to one file: its network, its fitted state, and a threshold on ID validation images.

    RUN is a name or a folder, DETECTOR as the run's tables call it. FILE is in safetensors format; 'bench score' and
    load_monitor() in Python score images with it.
    """
    from oodbench.benchmark.standalone.bundle.export import export as write
    from oodbench.benchmark.standalone.bundle.file import refuse_existing
    from oodbench.benchmark.standalone.bundle.load import load_monitor
    from oodbench.benchmark.standalone.bundle.words import exported_text, onnx_text

    if onnx is not None:
        refuse_existing(onnx, overwrite)
    where = {"device": device, "data_dir": data_dir, "plugins": plugins}
    given = {name: value for name, value in where.items() if value}
    bundle = write(
        run_name,
        detector,
        file,
        id_set=id_set,
        seed=seed,
        tpr=tpr,
        weights=weights,
        results=results,
        overwrite=overwrite,
        **given,
    )
    click.echo(exported_text(bundle, file))
    if onnx is not None:
        difference = load_monitor(file).to_onnx(onnx, onnx_images, overwrite)
        click.echo(onnx_text(bundle, onnx, onnx_images, difference))
