"""A Ray Serve app of your own: a classifier in each replica, as many replicas as the load wants.

How an app that already runs on Ray embeds predictor and batcher. (A whole inference server on Ray needs no code:
`toolkit serve MODEL --ray`.) It needs Ray Serve: `pip install 'onnx-tensorrt-toolkit[onnxruntime,data,ray]'`.

    serve run examples.ray_app:build model=model.onnx
    curl --data-binary @cat.jpg localhost:8000/

On GPUs give each replica its share: gpus=0.5.
"""

import asyncio
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import toolkit

LARGEST = 32 << 20
"""Bytes of a picture."""


class Classifier:
    """One replica: an engine, and the batcher in front of it."""

    def __init__(self, model: str) -> None:
        self.predictor = toolkit.load(model)
        self.batcher = toolkit.Batcher(self.predictor.session, max_batch=32)

    async def __call__(self, request: Request) -> Response:
        picture = await request.body()
        if len(picture) > LARGEST:
            return JSONResponse({"error": "the picture is too large"}, 413)
        try:
            # Decoding takes its time, and the loop has other requests to see to.
            sample = await asyncio.to_thread(self.predictor.prepare, picture)
            outputs = await self.batcher.infer(sample, timeout=5)
        except toolkit.Overloaded as error:
            return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "1"})
        except toolkit.DeadlineExceeded as error:
            return JSONResponse({"error": str(error)}, 504)
        except toolkit.ToolkitError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(self.predictor.read(outputs, top=5)[0].to_json())

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica whose engine is gone."""
        if not self.batcher.stats().sessions:
            raise RuntimeError("the engine is gone")

    def __del__(self) -> None:
        self.batcher.close()
        self.predictor.close()


def build(options: dict[str, str]) -> Any:
    """The app; options are "model", "replicas" (at most) and "gpus" (of each)."""
    deployment = serve.deployment(
        Classifier,
        # The batcher makes full batches of what comes at once: let it come.
        max_ongoing_requests=256,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": int(options.get("replicas", 4)),
            "target_ongoing_requests": 64,
        },
        ray_actor_options={"num_gpus": float(options.get("gpus", 0))},
    )
    return deployment.bind(options["model"])
