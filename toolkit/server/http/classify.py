"""POST /classify: a picture in, labels out, for people."""

import asyncio
import math
from urllib.parse import parse_qs

from engines.errors import InputError
from toolkit.server.front import Front
from toolkit.server.http.asgi import Receive, Reply, Scope, as_json
from toolkit.server.http.body import read
from toolkit.server.http.multipart import picture_of
from toolkit.server.http.presence import while_present

TOP = 5


async def classify(front: Front, scope: Scope, receive: Receive) -> Reply:
    """Classify the picture that is the body, or in a form.

    The query may say ``model``, ``top`` and ``timeout`` (seconds). The answer is ``{"model", "label", "top":
    [{"label", "index", "probability"}], "seconds": {stage: seconds}, "batch"}``.

    Raises:
        InputError: the query, the form or the picture is wrong.
        ToolkitError: those of :meth:`Plane.classify`.
    """
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    unknown = sorted(set(query) - {"model", "top", "timeout"})
    if unknown:
        raise InputError(f"the query has '{unknown[0][:40]}'", "ask for model, top and timeout")
    top = _number(query, "top", TOP)
    timeout = _number(query, "timeout", math.inf)
    if top != int(min(top, 1 << 31)) or top < 1:
        raise InputError(f"top={query['top'][0][:40]} is no number of classes", "ask for 1 or more")
    headers = dict(scope["headers"])
    picture = await read(front, scope, receive, front.settings.limits.max_body)
    kind = headers.get(b"content-type", b"")
    if kind.lower().startswith(b"multipart/"):
        picture = await asyncio.to_thread(picture_of, picture, kind)
    if not picture:
        raise InputError("there is no picture in the request", "send a JPEG or PNG as the body, or in a form")
    model = scope["path_params"].get("model") or query.get("model", [""])[0]
    scope["model"] = model or front.plane.default_model()
    answer = await while_present(
        receive,
        front.plane.classify(picture, model=model, top=int(top), timeout=None if timeout == math.inf else timeout),
    )
    return as_json(
        {
            "model": answer.model,
            **answer.prediction.to_json(),
            "seconds": dict(answer.seconds),
            "batch": answer.batch,
        }
    )


def _number(query: dict[str, list[str]], name: str, default: float) -> float:
    values = query.get(name)
    if not values:
        return default
    try:
        number = float(values[-1])
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{name}={values[-1][:40]} makes no sense", "give a number above 0")
    return number
