"""A graph behind Triton by way of PyTriton, with Triton's dynamic batcher."""

import os
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from serve_session import open_graph, parser_of


def main() -> None:
    # Triton's Python process links libpython by its name, and needs that of this interpreter and not another's.
    paths = (sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH"))
    os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
    options = parser_of(__doc__ or "").parse_args()
    session = open_graph(options.graph, options.threads, spin=not options.no_spin)
    taken, given = session.get_inputs()[0], session.get_outputs()[0]

    @batch
    def infer(**feeds: Any) -> Any:
        return {given.name: session.run(None, {taken.name: feeds[taken.name]})[0]}

    config = TritonConfig(
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        http_address="127.0.0.1",
        allow_metrics=False,
        log_verbose=0,
    )
    # Beside its home of its own, where what it copies would stay.
    workspace = Path(tempfile.mkdtemp()) / "workspace"
    with Triton(config=config, workspace=workspace) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[Tensor(name=taken.name, dtype=np.uint8, shape=tuple(taken.shape[1:]))],
            outputs=[Tensor(name=given.name, dtype=np.float32, shape=tuple(given.shape[1:]))],
            config=ModelConfig(
                max_batch_size=options.max_batch,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(1e6 * options.delay)),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
