"""`report.html`: the run on one page, for a colleague who has seen none of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmoe.recording.atomic import write_atomic
from fedmoe.recording.gallery import GALLERY
from fedmoe.recording.page import box, details, figure_html, page, table, tiles, words
from fedmoe.recording.run_record import RunRecord, dead_experts, read_run
from fedmoe.recording.verdict import verdict
from fedmoe.recording.wording import (
    bytes_text,
    cold_start_text,
    notes_of,
    percent,
    routing_text,
    seconds_text,
    stand_in_warning,
    variant_title,
)

__all__ = ["write_report"]


def write_report(run: Path) -> Path:
    """Writes `report.html` into the run folder `run` and returns its path; a run that is not over gets one too.

    Raises:
        RunFolderError: there is no run, one of its files is damaged, or the page cannot be written.
    """
    record = read_run(run)
    path = record.path / "report.html"
    write_atomic(path, page(_title(record), _parts(record)).encode())
    return path


def _parts(record: RunRecord) -> Iterator[str]:
    headline, grounds, remarks = verdict(record)
    # A killed run has no summary; its environment may name the data all the same.
    warning = stand_in_warning(record.summary) or stand_in_warning(record.environment)
    yield f"<h1>{words(_title(record))}</h1>\n<p class='under'>{words(_subtitle(record))}</p>"
    yield box("loud", [warning] if warning else [])
    yield box("warn", _not_over(record))
    paragraphs = [("", grounds), ("under", remarks)]
    answer = "".join(f'<p class="{kind}">{words(" ".join(told))}</p>' for kind, told in paragraphs if told)
    yield f'<div class="answer"><p class="headline">{words(headline)}</p>{answer}</div>'
    yield tiles(_tiles(record))
    yield box("warn", _dead(record))
    yield box("note", notes_of(record.summary))
    yield _results(record)
    for exhibit in GALLERY:
        yield figure_html(exhibit.title, exhibit.draw(record), exhibit.caption)
    yield _failures(record)
    yield "<h2>How it was made</h2>"
    yield details("Settings", [(key, str(value)) for key, value in record.settings.items()])
    yield details("Environment", list(_flat(record.environment)))
    yield details("Data and partition", list(_flat({k: record.summary.get(k) or {} for k in ("dataset", "partition")})))
    yield f"<p class='under'>Run folder: <code>{words(str(record.path))}</code></p>"


def _title(record: RunRecord) -> str:
    simulation = record.summary.get("simulation") or record.settings["simulation"] or record.settings["data.name"]
    return f"{record.title(record.main)} on {simulation}"


def _subtitle(record: RunRecord) -> str:
    dataset = record.summary.get("dataset") or {}
    data = dataset.get("name") or record.settings["data.name"]
    classes = f", {dataset['classes']} classes" if dataset.get("classes") else ""
    partition, *clients = (record.settings[f"clients.{key}"] for key in ("partition", "num", "per-round", "unseen"))
    return (
        f"Data: {data}{classes}. Partition: {partition}. {clients[0]} training clients, {clients[1]} a round; "
        f"{clients[2]} clients never seen in training. {len(record.rounds[record.main])} rounds, "
        f"seed {record.settings['seed']}."
    )


def _not_over(record: RunRecord) -> list[str]:
    if record.ended:
        return []
    done, of = len(record.rounds[record.main]), record.settings["num-server-rounds"]
    text = f"This run has not ended: {done} of {of} rounds of {record.title(record.main)} are done."
    return [f"{text} Figures below are those of the latest evaluation of each method."]


def _dead(record: RunRecord) -> list[str]:
    reasons = dead_experts(record.rounds[record.main])
    return [f"Expert {expert} is dead: {why}." for expert, why in reasons.items()]


def _tiles(record: RunRecord) -> list[tuple[str, str]]:
    figures = record.figures()
    found = []
    for method, told in figures.items():
        mean = (told.get("zero_shot") or told.get("plain") or {}).get("mean")
        if mean is not None:
            found.append((percent(mean), f"{record.title(method)} on unseen clients, mean"))
    lines = record.rounds[record.main]
    sent = [(line.get("bytes") or {}).get("down", 0) + (line.get("bytes") or {}).get("up", 0) for line in lines]
    if sent:
        found.append((bytes_text(sum(sent) / len(sent)), f"{record.title(record.main)} sends a round, both ways"))
    median = (record.summary.get("seconds") or {}).get("round_median")
    if median is not None:
        found.append((f"{median:.2f} s", "a round, median"))
    serving = ((record.summary.get("seconds") or {}).get("personalise") or {}).get(record.main)
    if serving is not None:
        found.append((seconds_text(serving), "to rank and predict for an unseen client"))
    return found


def _results(record: RunRecord) -> str:
    heading = "<h2>Results</h2>"
    rows: list[tuple[str, list[str]]] = []
    for method, variants in record.figures().items():
        dense = record.dense(method)
        for variant, told in variants.items():
            if dense and variant.startswith(("mixture", "best")):
                continue
            kind = (
                "bound"
                if variant == "best_expert"
                else "main"
                if (method, variant) == (record.main, "zero_shot")
                else ""
            )
            cells = [percent(told.get(key)) for key in ("mean", "std", "worst_decile")]
            rows.append((kind, [record.title(method), variant_title(variant, dense), *cells]))
    if not rows:
        return f'{heading}<p class="missing">There is no evaluation on unseen clients yet.</p>'
    caption = (
        "<figcaption>Accuracy on each unseen client's own test samples. Mean and standard deviation are over clients; "
        "the worst decile is the mean of the worst tenth of them. Zero-shot takes one of the held experts for each "
        "sample. The bound takes one for all of a client's samples, by their labels: no method may, though an expert "
        "for each sample can do better.</figcaption>"
    )
    remarks = [
        f"Routing by {record.title(method)}: {routing_text(told)}."
        for method, told in (record.summary.get("routing") or {}).items()
    ]
    remarks += [
        f"Cold start, {record.title(method)}: {cold_start_text(told, record.dense(method))}."
        for method, told in (record.summary.get("cold_start") or {}).items()
    ]
    remarks += [
        f"{record.title(method)}, {text}."
        for method, texts in (record.summary.get("remarks") or {}).items()
        for text in texts
    ]
    routing = "".join(f"<p class='under'>{words(text)}</p>" for text in remarks)
    return heading + table(["method", "prediction", "mean", "std", "worst decile"], rows, 2) + caption + routing


def _failures(record: RunRecord) -> str:
    keys = ("round", "client", "stage", "error")
    rows = [
        ("", [record.title(method), *(str(told.get(key)) for key in keys)])
        for method, lines in record.rounds.items()
        for line in lines
        for told in line.get("failures") or ()
    ]
    if not rows:
        return "<h2>Failures</h2><p>No client's work failed.</p>"
    shown = table(["method", *keys], rows[:50], 5)
    more = f"<p>{len(rows) - 50} more stand in rounds.jsonl.</p>" if len(rows) > 50 else ""
    return f"<h2>Failures</h2><p>Client jobs that failed, their updates left out: {len(rows)}.</p>{shown}{more}"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, text) for every leaf of nested tables and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)
