"""``ModelInfer`` and ``ModelStreamInfer``."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from toolkit.server.front import Front, told
from toolkit.server.grpc.calls import Call, Context, Message, Read, let_in, refuse, text
from toolkit.server.plane.gate import ending
from toolkit.server.protocol import protobuf_form

AHEAD = 64
"""Requests of one stream that are under way at once: enough for full batches. The next are read when one is answered,
and the client's side of the stream waits till then."""

LOOK = 0.3
"""Seconds between two looks at whether the server ends, so that streams do too: a part of the time for which it still
answers then."""


def model_infer(front: Front, read: Read) -> Call:
    """``ModelInfer`` as grpc takes it; when the call is cancelled grpc cancels this, and so the request."""
    limits, infer, metrics = front.settings.limits, front.plane.infer, front.metrics

    async def call(data: bytes, context: Context) -> Message:
        metrics.began()
        model, status, held = "", "CANCELLED", 0
        try:
            try:
                let_in(front, context)
                held = front.bodies.take(len(data))
                request = protobuf_form.decode(read(data), limits)
                model = request.model
                left = context.time_remaining()
                if left is not None and (request.timeout is None or left < request.timeout):
                    request = replace(request, timeout=left)
                answer = protobuf_form.encode(await infer(request))
            except Exception as error:
                said = told(error)
                status = said.code
            else:
                status = "OK"
                return answer
        finally:
            front.bodies.give(held)
            metrics.ended(model, "grpc", status)
        return await refuse(context, said)

    return call


def model_stream_infer(front: Front, read: Read) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[Message]]:
    """``ModelStreamInfer`` as grpc takes it.

    Requests run together, and are answered in the order in which they came. One that fails is answered with its
    error; the stream goes on. When the server ends, no more requests are taken from it, and it ends once those are
    answered that were: streams that stay open would otherwise hold the end up, and be broken off in the middle.
    """

    async def call(pieces: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
        try:
            let_in(front, context)
        except Exception as error:
            await refuse(context, told(error))
        answers: asyncio.Queue[asyncio.Task[Message] | None] = asyncio.Queue()
        room = asyncio.Semaphore(AHEAD)

        async def take() -> None:
            try:
                async for data in pieces:
                    await room.acquire()
                    answers.put_nowait(asyncio.create_task(_answer(front, read, data)))
            finally:
                answers.put_nowait(None)

        async def leave() -> None:
            while not front.plane.draining():
                await asyncio.sleep(LOOK)
            reader.cancel()

        reader, watcher = asyncio.create_task(take()), asyncio.create_task(leave())
        front.metrics.streams.add(reader)
        reader.add_done_callback(front.metrics.streams.discard)
        under_way: asyncio.Task[Message] | None = None
        try:
            while (under_way := await answers.get()) is not None:
                yield await under_way
                room.release()
            if not reader.cancelled():  # as it is when the server ends, and nothing is asked here any more
                await asyncio.wait({reader})
            if reader.cancelled():
                await refuse(context, told(ending()))
            reader.result()
        finally:
            # Nobody takes the answers any more.
            watcher.cancel()
            reader.cancel()
            while under_way is not None or not answers.empty():
                if under_way is not None:
                    under_way.cancel()
                under_way = None if answers.empty() else answers.get_nowait()

    return call


async def _answer(front: Front, read: Read, data: bytes) -> Message:
    from tritonclient.grpc import service_pb2

    front.metrics.began()
    status, about, held = "CANCELLED", service_pb2.ModelInferResponse(), 0
    try:
        held = front.bodies.take(len(data))
        message = read(data)
        about.model_name, about.id = message.model_name, message.id
        response = protobuf_form.encode(await front.plane.infer(protobuf_form.decode(message, front.settings.limits)))
        # There is one answer to each request; who asks for Triton's mark of the last one finds it.
        response.parameters["triton_final_response"].bool_param = True
        status = "OK"
        return service_pb2.ModelStreamInferResponse(infer_response=response)
    except Exception as error:
        said = told(error)
        status = said.code
        return service_pb2.ModelStreamInferResponse(error_message=text(said), infer_response=about)
    finally:
        front.bodies.give(held)
        front.metrics.ended(about.model_name, "grpc", status)
