"""A graph behind MLServer, with its adaptive batching.

Over HTTP its server takes and gives JSON alone; over gRPC bytes. ``--workers 0`` runs the session in the server's own
process, 1 in one beside it.
"""

import asyncio

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from serve_session import open_graph, parser_of


class Served(MLModel):
    async def load(self) -> bool:
        parameters = self.settings.parameters
        self._session = open_graph(parameters.uri, **parameters.extra)
        self._taken, self._given = self._session.get_inputs()[0].name, self._session.get_outputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        taken = NumpyCodec.decode_input(payload.inputs[0])
        found = self._session.run(None, {self._taken: taken})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self._given, found)])


def main() -> None:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--metrics-port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        metrics_endpoint=None,
        parallel_workers=options.workers,
        gzip_enabled=False,
    )
    model = ModelSettings(
        name="model",
        # By its name, which a worker process can import.
        implementation="serve_mlserver.Served",
        max_batch_size=options.max_batch,
        max_batch_time=options.delay,
        parameters=ModelParameters(
            uri=str(options.graph), extra={"threads": options.threads, "spin": not options.no_spin}
        ),
    )

    async def serve() -> None:
        await MLServer(settings).start([model])  # made where a loop runs already: its worker processes need one

    asyncio.run(serve())


if __name__ == "__main__":
    main()
