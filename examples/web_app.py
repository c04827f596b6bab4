"""A web application that classifies pictures with a batcher of its own: many requests, full batches.

    pip install 'onnx-tensorrt-toolkit[onnxruntime,data]' fastapi uvicorn python-multipart
    MODEL=model.int8.onnx uvicorn --app-dir examples web_app:app
    curl -F picture=@cat.jpg http://127.0.0.1:8000/classify

Pictures are decoded in Starlette's threads, the batcher runs the engine in its own, and the event loop does neither.
A queue that is full refuses at once (503), so that a client can go elsewhere; a request that waits too long is given
up (504). Where nothing else is to be served, `toolkit serve` does all this and more.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

import toolkit

MAX_BYTES = 16 << 20
"""The largest picture that is taken; put a server with a limit for the whole body in front of this one."""

TIMEOUT = 2.0
"""Seconds that a request may wait for the engine."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the model when the application starts; drain the batcher when it ends."""
    with toolkit.load(os.environ["MODEL"]) as predictor:
        async with toolkit.Batcher(predictor.session, queue=256) as batcher:
            app.state.predictor, app.state.batcher = predictor, batcher
            yield


app = FastAPI(title="Pictures to labels", lifespan=lifespan)


@app.post("/classify")
async def classify(
    request: Request, picture: UploadFile, top: Annotated[int, Query(ge=1, le=100)] = 5
) -> dict[str, Any]:
    """The likeliest classes of the uploaded picture."""
    predictor, batcher = request.app.state.predictor, request.app.state.batcher
    data = await picture.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TooLargeError(f"the picture is larger than {MAX_BYTES >> 20} MiB", "send a smaller one")
    sample = await run_in_threadpool(predictor.prepare, data)
    outputs = await batcher.infer(sample, timeout=TIMEOUT)
    return predictor.read(outputs, top)[0].to_json()


@app.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """What the batcher has done: requests by outcome, sizes of batches, times."""
    return request.app.state.batcher.stats().to_json()


class TooLargeError(toolkit.InputError):
    """A picture is larger than this application takes."""


STATUSES = {
    TooLargeError: 413,
    toolkit.InputError: 400,
    toolkit.Overloaded: 503,
    toolkit.DeadlineExceeded: 504,
}
"""The first that an error is one of; any other is the engine's (500)."""


@app.exception_handler(toolkit.ToolkitError)
async def refuse(_: Request, error: toolkit.ToolkitError) -> JSONResponse:
    """An error as its status, with cause and remedy."""
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": error.cause, "try": error.remedy}, status, headers)
