"""The command line: a table of commands, each loaded when it is called."""

import importlib
import os
import signal
import sys
from typing import Any

import click

from engines.errors import ToolkitError

COMMANDS = {
    "train": "Train a classifier on images and save a checkpoint.",
    "export": "Export a checkpoint to ONNX and verify it against PyTorch.",
    "import": "Make a master graph of an ONNX file from another exporter.",
    "verify": "Check an ONNX graph against its PyTorch checkpoint.",
    "calibrate": "Measure the ranges of a graph's tensors on data.",
    "sensitivity": "Measure what quantising each layer costs.",
    "bisect": "Find the layer at which two graphs of one network part.",
    "build-engine": "Compile a graph into an FP32, FP16, BF16, INT8 or FP8 engine.",
    "inspect": "Show what a checkpoint, graph, table or engine holds.",
    "predict": "Classify pictures.",
    "serve": "Answer requests over HTTP and gRPC.",
    "bench": "Measure an engine's latency and throughput.",
    "compare": "Compare accuracy and speed of checkpoints, graphs and engines.",
    "diff": "Hold a new engine against the old one: the gate for upgrades.",
    "cache": "Show or empty the cache of engines and timings.",
    "package": "Write an engine into a model repository for Triton.",
    "doctor": "Show what this machine can run, and what is missing.",
    "demo": "Run the whole way on the embedded data set.",
}
"""Name and one line of help; the command is ``command`` in the module of the same name here."""


class _Commands(click.Group):
    """Lists the table without importing any command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = "import_" if cmd_name == "import" else cmd_name.replace("-", "_")  # a keyword
        module = importlib.import_module(f"toolkit.cli.{name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `toolkit {near[0]}`?" if near else f"commands are {', '.join(COMMANDS)}"
            raise ToolkitError(f"there is no command '{args[0]}'", hint)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.version_option(package_name="onnx-tensorrt-toolkit", prog_name="toolkit")
def cli(debug: bool) -> None:
    """PyTorch classifiers to verified ONNX and calibrated FP16/INT8 TensorRT engines."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check said no, 2 the request can't be met."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments or bool(os.environ.get("TOOLKIT_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:  # noqa: PLR0911 - one return a kind of error
    """Run one command and answer its exit code; errors are printed as one line of cause, one of remedy."""
    try:
        result = cli.main(args=arguments, prog_name="toolkit", standalone_mode=False)
    except ToolkitError as error:
        if debug:
            raise
        return _report(error.cause, error.remedy, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        name = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "toolkit"
        return _report(error.format_message().rstrip("."), f"see `{name} --help`", 2)
    except (click.Abort, KeyboardInterrupt) as error:
        notes = getattr(error.__cause__ or error, "__notes__", ())
        click.echo(f"interrupted: {'; '.join(notes) or 'nothing half-written was left behind'}", err=True)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except MemoryError:
        return _report(
            "this machine ran out of memory", "use a smaller --batch or --batch-size, or a larger machine", 2
        )
    except OSError as error:
        if debug:
            raise
        where = f" '{error.filename}'" if error.filename else ""
        return _report(
            f"the system refused{where}: {error.strerror or error}", "check the path, permissions and disk", 2
        )
    return result if isinstance(result, int) else 0


def _report(cause: str, remedy: str, code: int) -> int:
    click.echo(click.style("error: ", fg="red", bold=True) + cause, err=True)
    if remedy:
        click.echo(click.style("  try: ", bold=True) + remedy, err=True)
    return code
