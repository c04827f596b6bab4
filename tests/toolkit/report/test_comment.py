"""The comment for a pull request."""

import re
from dataclasses import replace

from tests.toolkit.report import records
from toolkit.comparison.records.record import Verdict
from toolkit.report import markdown
from toolkit.report.formats import FORMATS


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every table, without the rule."""
    found: list[list[list[str]]] = []
    last = ""
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not last.startswith("|"):
                found.append([])
            if not set("".join(cells)) <= set(":- "):
                found[-1].append(cells)
        last = line
    return found


def test_the_recommendation_comes_first_and_figures_are_the_records():
    made = records.comparison()
    text = markdown(made)
    assert text.splitlines()[2].startswith("✅ **Recommended: `model.int8.ort.onnx`**")
    assert len(text) < 20_000
    head, *rows = tables(text)[0]
    assert [row[0].split("`")[1] for row in rows] == [row.name for row in made.rows]
    for cells, row in zip(rows, made.rows, strict=True):
        shown = dict(zip(head, cells, strict=True))
        assert shown["size"] == FORMATS["size"](row.size)
        if row.failure:
            assert shown["top-1"] == shown["p50 ms, batch 1"] == "–"
            continue
        assert shown["top-1"].startswith(FORMATS["percent"](row.accuracy.top1.rate))
        assert shown["p50 ms, batch 1"] == FORMATS["milliseconds"](row.speeds[1].timing.p50)
        assert shown["images/s, batch 32"] == FORMATS["rate"](row.speeds[32].timing.images_per_second)
        if row.speeds[1].ratio:
            assert shown["speed, batch 1"].startswith(FORMATS["times"](row.speeds[1].ratio.value))
    assert {len(cells) for table in tables(text) for cells in table} == {9, 7}
    assert text.count("<details>") == text.count("</details>") == 3
    assert "run it on a machine with an NVIDIA GPU" in text


def test_nothing_in_a_record_becomes_markup_a_link_or_a_mention():
    evil = "a|b `c` <img src=x> [d](http://e.org) @somebody *f*\n# g"
    kinds = (records.Kind(evil), records.Kind(evil + "2", noise=0.3))
    made = records.comparison(kinds, batches=(1,), warnings=(evil,), command=f"toolkit {evil} ```")
    made = replace(made, verdicts=(Verdict("recommended", evil, evil), Verdict("other", "", evil)))
    text = markdown(made)
    prose = re.sub(r"(`+)[^\n]*?[^`]\1(?!`)", "", text[: text.index("````sh")])
    assert not re.search(r"(?<!\\)<(?!/?details>|/?summary>|!-- -->)", prose)
    assert not re.search(r"(?<!\w)@\w", prose)
    assert "http://" not in prose
    assert not re.search(r"(?<!\\)\[", prose)
    widths = {len(cells) for table in tables(text) for cells in table}
    assert widths == {9, 7}


def test_speed_alone_and_partial_records():
    text = markdown(records.comparison(records.GPU, with_accuracy=False, complete=False))
    assert "Not complete" in text
    assert "top-1" not in text
    assert tables(text)[0][0] == [
        "artifact",
        "runs on",
        "p50 ms, batch 1",
        "speed, batch 1",
        "images/s, batch 32",
        "size",
    ]
    assert "1 artifacts" not in markdown(records.comparison(records.DEMO[5:6]))
