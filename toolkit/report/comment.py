"""A comparison as a comment on a pull request: GitHub's Markdown, the verdict first, details folded away."""

import re
from collections.abc import Iterable, Sequence

from toolkit.comparison.records.record import Comparison
from toolkit.report.artifacts import Artifact, artifacts_of
from toolkit.report.facts import Facts, Said
from toolkit.report.pointers import NONE, Figures, at

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#])")


def markdown(comparison: Comparison) -> str:
    """The comparison as GitHub-flavoured Markdown.

    Names stand in code spans and all other text is escaped, so that nothing in a record becomes a link, an image,
    HTML or a mention.
    """
    record = comparison.to_json()
    figures, artifacts = Figures(record), artifacts_of(record)
    ran = [one for one in artifacts if one.ran]
    facts = Facts(record, artifacts)
    parts = [f"### {plain(facts.title)}"]
    if not record["complete"]:
        parts.append("**Not complete:** the run was interrupted; what had been measured by then is here.")
    for _, verdict, artifact in facts.recommendations:
        name = f"✅ **Recommended: {code(artifact.name)}**" if artifact else "**Recommended:**"
        parts.append(f"{name} {plain(verdict['text'])}")
    parts.append("\n".join(map(_verdict, facts.verdicts)))
    parts.append(_summary(figures, facts, artifacts))
    if facts.any("fidelity"):
        parts.append(_outputs(figures, ran))
    parts += [_folded("What to keep in mind", _remarks(facts, artifacts, record["warnings"]))]
    if facts.batches:
        parts.append(_folded("All times", _times(figures, facts, ran)))
    parts.append(_folded("Machine and command", _background(facts, comparison)))
    parts.append(f"<!-- {record['schema']} -->")  # by which a newer one knows that it may replace the file
    return "\n\n".join(filter(None, parts)) + "\n"


def _verdict(said: Said) -> str:
    names = ", ".join(map(code, said.names))
    return f"- **{plain(said.badge)}**: {names + ': ' if names else ''}{plain(said.text)}"


def _summary(figures: Figures, facts: Facts, artifacts: Sequence[Artifact]) -> str:
    against, accuracy, ratio = facts.any("accuracy", "against"), facts.any("accuracy"), facts.any_speed("ratio")
    first, last = facts.smallest, facts.largest
    head = [
        "artifact",
        "runs on",
        *(["top-1"] if accuracy else []),
        *(["lost, points", "other answers"] if against else []),
    ]
    head += [f"p50 ms, batch {first}", *([f"speed, batch {first}"] if ratio else [])] if first else []
    head += [f"images/s, batch {last}"] if last else []
    lines = []
    for one in artifacts:
        roles = [("✅", one.recommended), ("reference", one.is_reference), ("dominated", one.dominated)]
        role = ", ".join(name for name, has in roles if has)
        cells = [code(one.name) + (f" {role}" if role else ""), _runs_on(one)]
        cells += [_share(figures, at(one.at, "accuracy", "top1"))] if accuracy else []
        if against:
            where = at(one.at, "accuracy", "against")
            cells += [_interval(figures, at(where, "drop"), "points", "points_bound", " to ")]
            cells += [figures.text(at(where, "flips", "count"), "count")]
        if first:
            speed = one.speed_at(first) or "none"
            cells += [figures.text(at(speed, "latency_seconds", "p50"), "milliseconds")]
            cells += [_interval(figures, at(speed, "ratio"), "times", "times_bound")] if ratio else []
        if last:
            cells += [figures.text(at(one.speed_at(last) or "none", "images_per_second"), "rate")]
        lines.append([*cells, figures.text(at(one.at, "size_bytes"), "size")])
    return _table([*head, "size"], lines, left=2)


def _outputs(figures: Figures, ran: Sequence[Artifact]) -> str:
    """How near each output is to the reference's."""
    lines = []
    for one in ran:
        for number, output in enumerate((one.row.get("fidelity") or {}).get("outputs", ())):
            where = at(one.at, "fidelity", "outputs", number)
            level = figures.text(at(where, "sqnr_db"), "decibels")
            if output["sqnr_db"] is None and output["cosine"] is not None:
                level = "identical"
            forms = (("cosine", "cosine"), ("max_error", "error"), ("same", "percent"))
            cells = [figures.text(at(where, name), form) for name, form in forms]
            lines.append([code(one.name), code(output["name"]), level, *cells])
    return _table(["artifact", "output", "SQNR, dB", "cosine", "largest error", "same"], lines, left=2)


def _times(figures: Figures, facts: Facts, ran: Sequence[Artifact]) -> str:
    ratio = facts.any_speed("ratio")
    lines = []
    for batch in facts.batches:
        for one in ran:
            speed = one.speed_at(batch)
            if speed is None:
                continue
            cells = [
                figures.text(at(speed, "latency_seconds", name), "milliseconds") for name in ("p50", "p95", "p99")
            ]
            cells += [figures.text(at(speed, "images_per_second"), "rate")]
            cells += [_interval(figures, at(speed, "ratio"), "times", "times_bound")] if ratio else []
            lines.append([str(batch), code(one.name), *cells])
    head = ["batch", "artifact", "p50 ms", "p95 ms", "p99 ms", "images/s", *(["speed"] if ratio else [])]
    return _table(head, lines, left=2)


def _remarks(facts: Facts, artifacts: Sequence[Artifact], warnings: Sequence[str]) -> str:
    lines = [plain(warning) for warning in warnings]
    lines += [f"{', '.join(map(code, said.names))}: {plain(said.text)}" for said in facts.unmeasured]
    for one in artifacts:
        if one in facts.unexplained:
            failure = one.row["failure"]
            remedy = f" ({plain(failure['remedy'])})" if failure["remedy"] else ""
            lines.append(
                f"{code(one.name)} was {'stopped' if one.ran else 'not run'}: {plain(failure['cause'])}{remedy}"
            )
        lines += [
            f"{code(one.name)} at batch {skip['batch']}: {plain(skip['reason'])}" for skip in one.row["skipped"]
        ]
        lines += [f"{code(one.name)} {plain(note)}" for note in one.row["notes"]]
    return "\n".join(f"- {line}" for line in lines)


def _background(facts: Facts, comparison: Comparison) -> str:
    lines = [f"- {plain(str(machine))}" for machine in comparison.machines]
    if comparison.data:
        data = comparison.data
        lines.append(f"- {data.images} {plain(data.split)} {comparison.counted} of {plain(data.name)}")
    lines.append(f"- {facts.when}")
    return "\n".join(lines) + f"\n\n{_block(comparison.command)}"


def _runs_on(one: Artifact) -> str:
    session, layers = one.row["session"], one.row["layers"]
    precision = f"{plain(layers['precision'])}, " if layers else ""
    if session is None:
        return f"{precision}not run"
    fallbacks = " (partly elsewhere)" if one.row["proof"] and one.row["proof"]["fallbacks"] else ""
    return f"{precision}{plain(session['backend'])} {plain(Facts.device(one.row))}{fallbacks}"


def _share(figures: Figures, pointer: str) -> str:
    if figures.value(pointer) is None:
        return NONE
    low, high = (figures.text(at(pointer, name), "bound") for name in ("low", "high"))
    return f"{figures.text(at(pointer, 'rate'), 'percent')} ({low}–{high})"


def _interval(figures: Figures, pointer: str, form: str, bound: str, between: str = "–") -> str:
    text = figures.text(at(pointer, "value"), form)
    if figures.value(at(pointer, "low")) is None:
        return text
    return f"{text} ({figures.text(at(pointer, 'low'), bound)}{between}{figures.text(at(pointer, 'high'), bound)})"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], left: int) -> str:
    rule = [":--" if number < left else "--:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _folded(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>" if text else ""


def plain(text: str) -> str:
    """Text that means nothing but itself in Markdown; mentions and addresses are parted so that they are no links."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
    return re.sub(r"(?<!\w)@(?=\w)|:(?=//)|\bwww(?=\.)", r"\g<0><!-- -->", escaped)


def code(text: str) -> str:
    """Text as a code span that can stand in a table."""
    text = " ".join(text.split())
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text.replace('|', chr(92) + '|')}{edge}{fence}"


def _block(text: str) -> str:
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}sh\n{text}\n{fence}"
