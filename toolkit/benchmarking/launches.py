"""Every rival's process started anew: what a launch decides by chance, the next decides again."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from engines.errors import ToolkitError
from toolkit.benchmarking.messages import Contestant, Opened
from toolkit.benchmarking.process import WorkerProcess


def opening_order(names: Sequence[str], launch: int) -> list[str]:
    """The order in which a launch opens its artifacts: as given, and reversed in every other launch.

    Which of two processes was opened first shows in their speed for as long as they live.
    """
    return list(reversed(names)) if launch % 2 else list(names)


def open_all(
    contestants: Sequence[Contestant],
    launch: int,
    stack: ExitStack,
    opened: Callable[[str, Opened], None],
    failed: Callable[[str, ToolkitError], None],
) -> dict[str, WorkerProcess]:
    """Start a process for each and open them one after the other, so that the seconds that each takes are its own.

    Args:
        contestants: with unique names.
        launch: from 0; decides the order.
        stack: ends the processes.
        opened, failed: told of each, in the order of opening.

    Returns:
        The processes of those that could be opened, in the order given.
    """
    by_name = {contestant.name: contestant for contestant in contestants}
    processes = {
        name: stack.enter_context(WorkerProcess(by_name[name])) for name in opening_order([*by_name], launch)
    }
    workers = {}
    for process in processes.values():
        with suppress(ToolkitError):  # opening it says why
            process.ready()
    for name, process in processes.items():
        try:
            found = process.open()
        except ToolkitError as error:
            process.close()
            failed(name, error)
        else:
            workers[name] = process
            opened(name, found)
    return {name: workers[name] for name in by_name if name in workers}
