"""POST /classify: pictures as bodies and in forms."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_images
from tests.toolkit.pictures import picture
from tests.toolkit.server.fronts import LIMITS, Fronts


def post(fronts: Fronts, path: str = "/classify", **options: Any) -> httpx.Response:
    return httpx.post(f"http://{fronts.http}{path}", **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_picture_gets_its_labels_and_the_time_of_each_stage(fronts: Fronts, kind: str) -> None:
    answer = post(fronts, content=picture(90, kind=kind), headers={"content-type": f"image/{kind.lower()}"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["model"] == "tiny"
    assert found["label"] == found["top"][0]["label"]
    assert [sorted(one) for one in found["top"]] == [["index", "label", "probability"]] * 5
    probabilities = [one["probability"] for one in found["top"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert {"decode", "wait", "stage", "run", "total"} <= set(found["seconds"])
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert found["batch"] == 1


def test_it_is_what_the_predictor_says(fronts: Fronts, tmp_path: Any) -> None:
    import toolkit
    from tests.tiny import tiny_graph

    (tmp_path / "tiny.onnx").write_bytes(tiny_graph().SerializeToString())
    with toolkit.load(tmp_path / "tiny.onnx", device="cpu") as predictor:
        for pixels in tiny_images(3):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            [expected] = predictor.classify([buffer.getvalue()], top=2)
            found = post(fronts, "/classify?top=2", content=buffer.getvalue()).json()["top"]
            assert [one["label"] for one in found] == [one.label for one in expected.top]
            np.testing.assert_allclose(
                [one["probability"] for one in found], [one.probability for one in expected.top], rtol=1e-4
            )


@pytest.mark.parametrize("field", ["file", "image"])
def test_a_form_with_a_picture(fronts: Fronts, field: str) -> None:
    alone = post(fronts, content=picture(7)).json()["top"]
    answer = post(fronts, files={field: ("cat.png", picture(7), "image/png")}, data={"comment": "mine"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["top"] == alone


def test_what_curl_sends_unless_it_is_told_otherwise_is_a_picture_too(fronts: Fronts) -> None:
    answer = post(fronts, content=picture(7), headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200


def test_the_model_may_be_named_in_the_path_or_the_query(fronts: Fronts) -> None:
    assert post(fronts, "/v2/models/tiny/classify?top=1", content=picture(1)).json()["model"] == "tiny"
    assert len(post(fronts, "/classify?model=tiny&top=1&timeout=5", content=picture(1)).json()["top"]) == 1
    assert post(fronts, "/v2/models/none/classify", content=picture(1)).status_code == 404
    answer = post(fronts, "/classify?model=echo", content=picture(1))
    assert answer.status_code == 400
    assert "no classifier" in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top=0", "top=0"),
        ("top=-1", "top=-1"),
        ("top=1.5", "top=1.5"),
        ("top=many", "top=many"),
        ("top=", "top="),
        ("top=1e400", "top=1e400"),
        ("timeout=nan", "timeout=nan"),
        ("timeout=0", "timeout=0"),
        ("colour=red", "'colour'"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(fronts: Fronts, query: str, words: str) -> None:
    answer = post(fronts, f"/classify?{query}", content=picture(1))
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_what_is_no_picture_is_refused_with_a_reason(fronts: Fronts) -> None:
    whole = picture(3, (60, 60))
    for body, status in (
        (b"", 400),
        (b"not a picture", 400),
        (whole[: len(whole) // 2], 400),
        (bytes(LIMITS.max_body + 1), 413),
    ):
        answer = post(fronts, content=body)
        assert answer.status_code == status, answer.text
        assert "\n" not in answer.json()["error"]


def test_a_time_that_is_up_is_told_as_such(fronts: Fronts) -> None:
    assert post(fronts, "/classify?timeout=0.000001", content=picture(3, (400, 400))).status_code == 504


MARK = "multipart/form-data; boundary=X"


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", MARK, "ends too early"),
        (b"--X\r\n", MARK, "ends too early"),
        (b"--Y--\r\n", MARK, "damaged"),
        (b"--X--\r\n", MARK, "no pictures; its fields: none"),
        (b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf', MARK, "ends too early"),
        (b'--X\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--X--\r\n', MARK, "'other'"),
        (b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--X--\r\n', MARK, "of no format"),
        (b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n' * 2 + b"--X--\r\n", MARK, "2 pictures"),
        (b"--X\r\nA: b\r\n\r\n\r\n" * 20 + b"--X--\r\n", MARK, "more than 16"),
        (b"abc", "multipart/form-data", "no boundary"),
    ],
)
def test_a_damaged_form_is_refused(fronts: Fronts, body: bytes, kind: str, words: str) -> None:
    answer = post(fronts, content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
