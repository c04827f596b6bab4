"""``toolkit import``: an ONNX file of another exporter becomes a master graph."""

from typing import Any

import click

from toolkit.cli import console
from toolkit.cli.describe import description_options, take_description


@click.command("import")
@click.argument("graph", metavar="NET.onnx", type=click.Path())
@click.option("--output", "-o", type=click.Path(), help="The graph to write [NET.master.onnx beside it].")
@description_options
@click.option(
    "--layout",
    type=click.Choice(["nchw", "nhwc"]),
    default="nchw",
    show_default=True,
    help="nhwc: its float pictures have their channels last.",
)
@click.option("--opset", type=int, default=20, show_default=True, help="Lift an older graph to it, 18 to 23.")
@click.option("--data", metavar="DATA", help="Pictures to compare on [two photographs of scikit-learn's].")
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=8, show_default=True, help="Largest batch to compare."
)
@click.option("--force", is_flag=True, help="Replace an output that was made from another file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    *,
    graph: str,
    output: str | None,
    layout: str,
    opset: int,
    data: str | None,
    max_batch: int,
    force: bool,
    as_json: bool,
    **described: Any,
) -> None:
    """Make a master graph of an ONNX file that another exporter wrote.

    It is lifted to a current opset, its batch is freed, its constants, batch normalisations and transpositions are
    folded, and it is held against the file in ONNX Runtime before it is written. Sizes come from the graph; what it
    doesn't say of pictures and classes is given by the options.
    """
    from toolkit.steps.import_graph import import_graph

    description = take_description(described)
    with console.progress() as listener:
        report = import_graph(
            graph,
            output,
            description=description,
            opset=opset,
            layout=layout,
            data=data,
            max_batch=max_batch,
            force=force,
            progress=listener,
        )
    if as_json:
        console.emit_json(report.to_json())
    else:
        console.out("\n".join(report.summary()))
