"""A graph behind LitServe: the image's bytes are the body, the logits' bytes the answer.

Bytes in and out are the cheapest that it has: its own way is JSON or a form. Batches are made by its loop; answers
come back over its fast queue, which it advises for more than 100 requests a second.
"""

from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response
from serve_session import open_graph, parser_of

Picture = Annotated[bytes, Body(media_type="application/octet-stream")]


class Served(litserve.LitAPI):
    def __init__(self, options: Any) -> None:
        super().__init__(max_batch_size=options.max_batch, batch_timeout=options.delay)
        self._options = options

    def setup(self, device: str) -> None:
        self._session = open_graph(self._options.graph, self._options.threads, spin=not self._options.no_spin)
        taken = self._session.get_inputs()[0]
        self._name, self._shape = taken.name, taken.shape[1:]

    def decode_request(self, request: Picture) -> Any:
        return np.frombuffer(request, np.uint8).reshape(self._shape)

    def batch(self, inputs: Any) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {self._name: x})[0]

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--slow-queue", action="store_true", help="not its fast queue")
    options = parser.parse_args()
    server = litserve.LitServer(
        Served(options), accelerator="cpu", workers_per_device=1, fast_queue=not options.slow_queue
    )
    server.run(
        host="127.0.0.1",
        port=options.http_port,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
