"""The FastAPI example behind a real server: uploads in, labels and statuses out."""

import asyncio
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image

from tests.tiny import tiny_graph, tiny_images
from toolkit.loading import load

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "model.onnx"
    onnx.save(tiny_graph(), path)
    return path


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", "web_app:app"]
    with subprocess.Popen(
        command, env={"MODEL": str(model), "PATH": "/usr/bin:/bin"}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"running on (http://\S+)", line):
                    yield found[1]
                    break
            else:
                pytest.fail("the server didn't start")
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
            assert "Application shutdown complete" in err
            assert "Traceback" not in err
        finally:
            process.kill()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_upload_gets_its_own_answer(url: str, model: Path) -> None:
    images = tiny_images(24)

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=20) as client:
            return await asyncio.gather(
                *(client.post(f"{url}/classify?top=2", files={"picture": png(image)}) for image in images)
            )

    answers = asyncio.run(ask())
    assert {answer.status_code for answer in answers} == {200}
    with load(model, device="cpu") as predictor:
        wanted = predictor.classify(images, top=2)
    assert [answer.json()["label"] for answer in answers] == [prediction.label for prediction in wanted]
    for answer, prediction in zip(answers, wanted, strict=True):
        found = [candidate["probability"] for candidate in answer.json()["top"]]
        assert found == pytest.approx([candidate.probability for candidate in prediction.top], abs=1e-5)
    assert sum(int(size) * count for size, count in httpx.get(f"{url}/stats").json()["batches"].items()) >= 24


def test_what_is_wrong_is_told_with_its_status(url: str) -> None:
    damaged = httpx.post(f"{url}/classify", files={"picture": b"\xff\xd8\xff damaged"})
    assert damaged.status_code == 400
    assert "as an image" in damaged.json()["error"]
    assert damaged.json()["try"] == "replace or remove the file"
    large = httpx.post(f"{url}/classify", files={"picture": bytes((16 << 20) + 1)}, timeout=20)
    assert (large.status_code, large.json()["error"]) == (413, "the picture is larger than 16 MiB")
    assert httpx.post(f"{url}/classify?top=0", files={"picture": png(tiny_images(1)[0])}).status_code == 422
    assert httpx.post(f"{url}/classify").status_code == 422


@pytest.mark.parametrize(
    ("kind", "status"), [("Overloaded", 503), ("DeadlineExceeded", 504), ("InputError", 400), ("RunError", 500)]
)
def test_each_kind_of_error_has_its_status(kind: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines import errors

    monkeypatch.syspath_prepend(str(EXAMPLES))
    import web_app

    answer = asyncio.run(web_app.refuse(None, getattr(errors, kind)("cause", "remedy")))
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)
