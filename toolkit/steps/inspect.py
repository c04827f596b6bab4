"""Describe any artifact."""

from pathlib import Path

from toolkit.artifacts import kind_of
from toolkit.inspection.report import Report


def inspect(path: str | Path, *, trust_pickle: bool = False, model: str | None = None) -> Report:
    """What a checkpoint, graph, plan, calibration table or passport holds.

    Args:
        path: the file; its kind is told by its name, else by its content.
        trust_pickle: allow a checkpoint that is a pickled module, which runs code when it is loaded.
        model: the code of a network whose checkpoint holds weights alone, as for ``toolkit.export``; it is run.

    Raises:
        InputError: the file is damaged or no artifact.
        MissingLibraryError: PyTorch (checkpoints) or onnx (graphs) is not installed.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "checkpoint":
        from toolkit.inspection.checkpoint import inspect_checkpoint

        return inspect_checkpoint(path, trust_pickle=trust_pickle, model=model)
    if kind == "graph":
        from toolkit.inspection.graph import inspect_graph

        return inspect_graph(path)
    if kind == "table":
        from toolkit.inspection.table import inspect_table

        return inspect_table(path)
    if kind == "passport":
        from toolkit.inspection.passport import inspect_passport

        return inspect_passport(path)
    from toolkit.inspection.plan import inspect_plan

    return inspect_plan(path)
