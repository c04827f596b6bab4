"""``toolkit inspect``: what an artifact holds."""

from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import console
from toolkit.cli.describe import model_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from toolkit.inspection.report import Facts, Table


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option("--trust-pickle", is_flag=True, help="Load a pickled module; this runs its code.")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print one machine-readable object.")
def command(file: str, trust_pickle: bool, model: str | None, as_json: bool) -> None:
    """Show what a checkpoint, graph, table or engine holds.

    A checkpoint's layers are shown with output shapes, parameters and multiply-accumulates; a graph's
    operators, types, Q/DQ and metadata, and what TensorRT would make of Q/DQ nodes, whoever placed them; a
    calibration table's ranges and how they were chosen; of a TensorRT engine header and passport, without TensorRT.
    An engine that isn't the one its passport describes is shown and ends with an error.
    """
    from toolkit.steps.inspect import inspect

    report = inspect(file, trust_pickle=trust_pickle, model=model)
    if as_json:
        console.emit_json(report.to_json())
    for number, section in enumerate(() if as_json else report.sections):
        if number:
            console.out()
        console.out(_render(section))
    if report.damage is not None:  # what could be read is shown all the same
        raise report.damage


_TITLE: Any = {"title_style": "bold", "title_justify": "left"}


def _render(section: "Facts | Table") -> "RenderableType":
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    from toolkit.inspection.report import Facts

    if isinstance(section, Facts):
        grid = RichTable(**_TITLE, title=section.title, box=None, show_header=False, padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in section.rows:
            grid.add_row(Text(name), Text(value))
        return grid
    table = RichTable(**_TITLE, title=section.title, box=box.SIMPLE_HEAD, show_footer=bool(section.total))
    for place, heading in enumerate(section.columns):
        table.add_column(
            heading,
            justify="right" if place in section.numbers else "left",
            overflow="fold",
            footer=section.total[place] if section.total else "",
        )
    for row in section.rows:
        table.add_row(*map(Text, row))
    return table
