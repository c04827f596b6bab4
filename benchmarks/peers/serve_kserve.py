"""A graph behind KServe's Python server; tensors come and go as bytes.

It has no batching of its own: in a cluster another process, its agent, does that. ``--in-threads`` runs the session
beside the event loop, several requests at once; otherwise the loop waits for it.
"""

import asyncio
import logging
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from serve_session import open_graph, parser_of


class Served(Model):
    def __init__(self, options: Any) -> None:
        super().__init__("model")
        self._session = open_graph(options.graph, options.threads, spin=not options.no_spin)
        self._taken, self._given = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        self.ready = True

    def run(self, payload: InferRequest) -> InferResponse:
        found = self._session.run(None, {self._taken: payload.inputs[0].as_numpy()})[0]
        output = InferOutput(name=self._given, shape=list(found.shape), datatype="FP32")
        output.set_data_from_numpy(found, binary_data=True)
        return InferResponse(
            response_id=payload.id,
            model_name=self.name,
            infer_outputs=[output],
            requested_outputs=payload.request_outputs,
            use_binary_outputs=True,
        )


class InLoop(Served):
    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        return self.run(payload)


class InThreads(Served):
    async def predict(
        self, payload: InferRequest, headers: Any = None, response_headers: Any = None
    ) -> InferResponse:
        return await asyncio.to_thread(self.run, payload)


def main() -> None:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--in-threads", action="store_true")
    options = parser.parse_args()
    server = ModelServer(
        http_port=options.http_port, grpc_port=options.grpc_port, workers=1, enable_latency_logging=False
    )
    # A line of log for every gRPC call otherwise, and one for every HTTP request.
    for name in ("kserve", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([(InThreads if options.in_threads else InLoop)(options)])


if __name__ == "__main__":
    main()
