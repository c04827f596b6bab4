"""``toolkit cache``: what the cache folder holds, and how to empty it."""

import click

from engines.store import KINDS
from toolkit.cli.console import emit_json, out


@click.group("cache", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show what the cache folder holds.

    It keeps engines that were built, so that the same build is done at once; what is known of typed graphs;
    TensorRT's kernel timings; the kernels that TensorRT for RTX compiled; digests of large files. The least
    recently used goes when it outgrows its limit. TOOLKIT_CACHE names another folder, TOOLKIT_CACHE_LIMIT another
    limit (10GiB).
    """
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(as_json: bool) -> None:
    """Show what the cache folder holds: kind, what, size, last use."""
    _list(as_json=as_json)


@command.command()
@click.argument("kind", required=False, type=click.Choice(KINDS))
def clear(kind: str | None) -> None:
    """Remove everything from the cache, or one KIND of it."""
    from toolkit.steps.cache import clear_cache

    out(clear_cache(kind))


def _list(*, as_json: bool) -> None:
    from toolkit.steps.cache import list_cache

    listed = list_cache()
    if as_json:
        emit_json(listed.to_json())
        return
    if listed.entries:
        out(listed.table())
    out(listed.summary())
