"""The state of an unfinished training on disk, so that ``--resume`` can go on with it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from engines.files import atomic_file
from export.pickles import read_pickle
from export.training import EpochFacts, TrainingState, best_epoch

FORMAT = "onnx-tensorrt-toolkit/training-state"
VERSION = 2
"""Version 1 knew no moving average, no colours and no learning rate of an epoch; its states are still read."""


def resume_path(checkpoint: Path) -> Path:
    """Where the state of the training that will write ``checkpoint`` is kept: ``model.pt.resume``."""
    return checkpoint.with_name(f"{checkpoint.name}.resume")


def save_state(path: Path, state: TrainingState, run: Mapping[str, Any]) -> None:
    """Write the state after an epoch, whole or not at all.

    Args:
        path: see :func:`resume_path`.
        state: all of it.
        run: what the training was started with, in plain values.

    Raises:
        InputError: the file can't be written.
    """
    # The best weights mostly are the last ones that were tested: written once then.
    last_is_best = best_epoch(state.history).epoch == state.epoch
    content = {
        "format": FORMAT,
        "version": VERSION,
        "run": dict(run),
        "epoch": state.epoch,
        "model": state.model,
        "optimizer": state.optimizer,
        "best": None if last_is_best else state.best,
        "averaged": state.averaged,
        "averaged_steps": state.averaged_steps,
        "colours": state.colours,
        "history": [asdict(facts) for facts in state.history],
    }
    with atomic_file(path) as file:
        torch.save(content, file)


def load_state(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """Read what :func:`save_state` wrote.

    Returns:
        The state, and ``run`` as it was given.

    Raises:
        CheckpointError: it is damaged or something else.
    """
    again = "delete it and train again without --resume"
    try:
        value = read_pickle(path)
    except CheckpointError as error:
        error.remedy = again
        raise
    if not isinstance(value, Mapping) or value.get("format") != FORMAT or value.get("version") not in {1, VERSION}:
        raise CheckpointError(f"'{path}' is not the state of a training of this version of toolkit", again)
    try:
        history = tuple(EpochFacts(**facts) for facts in value["history"])
        model = dict(value["model"])
        averaged = None if value.get("averaged") is None else dict(value["averaged"])
        state = TrainingState(
            int(value["epoch"]),
            model,
            dict(value["optimizer"]),
            {},
            history,
            averaged,
            int(value.get("averaged_steps", 0)),
            value.get("colours"),
        )
        state = replace(state, best=state.tested if value["best"] is None else dict(value["best"]))
        run = dict(value["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error!r}", again) from error
    if len(history) != state.epoch or not history:
        raise CheckpointError(f"'{path}' is damaged: {len(history)} epochs recorded of {state.epoch}", again)
    return state, run
