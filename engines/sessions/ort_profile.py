"""Where ONNX Runtime ran each node of a graph, by the profile of a second session that is run once and closed."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from engines.errors import RunError
from engines.sessions.ort_errors import one_line
from engines.sessions.proof import Proof, by_share
from engines.tensors import Array

_AT_MOST = 8  # nodes named one by one

HOW = "node times of a profiled run of the same graph with the same providers"


def profile(create: Callable[[str], Any], feeds: Mapping[str, Array], asked: str) -> Proof:
    """Open the graph again with profiling, run it once, and read where its nodes ran.

    Args:
        create: makes a session that writes its profile to files of the given prefix.
        feeds: one batch.
        asked: the provider that all of it was to run on.

    Raises:
        RunError: it couldn't be opened or run a second time.
    """
    with tempfile.TemporaryDirectory(prefix="onnxruntime-profile-") as folder:
        try:
            session = create(str(Path(folder) / "run"))
            session.run(None, dict(feeds))
            written = Path(session.end_profiling())
            events = json.loads(written.read_text())
        except Exception as error:  # its exceptions have no common base but Exception
            raise RunError(
                f"ONNX Runtime couldn't profile a second session: {one_line(error)}", "free memory, or run it alone"
            ) from error
    return read_profile(events, asked)


def read_profile(events: Iterable[Mapping[str, Any]], asked: str) -> Proof:
    """What a profile's events say: the share of the nodes' time by provider, and the nodes that ran elsewhere.

    Times are the host's: on a GPU those of starting the kernels, which is why nodes are named and not only timed.
    """
    times: Counter[str] = Counter()
    elsewhere: dict[tuple[str, str, str], None] = {}
    for event in events:
        facts = event.get("args", {})
        provider = facts.get("provider")
        if event.get("cat") != "Node" or not provider or not event["name"].endswith("_kernel_time"):
            continue
        times[provider] += event["dur"]
        if provider != asked:
            elsewhere[event["name"].removesuffix("_kernel_time"), facts.get("op_name", "?"), provider] = None
    shares = by_share(times)
    if not shares:
        return Proof(asked, HOW, problem="the profile names no node")
    named = [f"{name} ({kind}) ran on {provider}" for name, kind, provider in elsewhere]
    if len(named) > _AT_MOST:
        named = [*named[:_AT_MOST], f"{len(named) - _AT_MOST} more nodes"]
    return Proof(next(iter(shares)), HOW, shares, tuple(named))
