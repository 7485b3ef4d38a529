"""What a person reads while a run goes: a header, a bar on a terminal or a line a round in a log, a closing table."""

import atexit
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedmoe.recording.wording import (
    bytes_text,
    cold_start_text,
    method_title,
    notes_of,
    percent,
    routing_text,
    seconds_text,
    stand_in_warning,
    trainer_text,
    variant_title,
)

__all__ = ["ConsoleLogger", "header_rows", "round_text"]


class ConsoleLogger:
    """Tells a person what the run does; safe for logs, where it writes short plain lines and no bar.

    Args:
        console: where it writes; standard output when not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.num_rounds = 0
        self.dense: dict[str, bool] = {}
        self.bar: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.unseen: dict[str, float] = {}

    def tell(self, text: str) -> None:
        """Writes what the set-up is doing, in one line."""
        self._plain(f"[set-up] {text}")

    def start(self, header: Mapping[str, Any]) -> None:
        """Writes the header panel, the warnings, and the run folder's path as a line of its own."""
        self.num_rounds = int(header.get("rounds") or 0)
        grid = Table.grid(padding=(0, 2))
        for name, value in header_rows(header):
            grid.add_row(Text(name, style="dim"), Text(value))
        title = Text(f"fedmoe  {header.get('simulation') or ''}".rstrip())
        self.console.print(Panel(grid, title=title, title_align="left", expand=False))
        self._warn(header)
        self._plain(f"run folder: {header.get('run_folder')}")
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[latest]}", markup=False),
                TextColumn("time left"),
                TimeRemainingColumn(),
                console=self.console,
                speed_estimate_period=600,
            )
            self.bar.start()
            # The bar hides the cursor; a run that ends in an error never gets to `end`.
            atexit.register(self.bar.stop)

    def trainer(self, method: str, choice: Mapping[str, Any]) -> None:
        """Writes which trainer was chosen, and what it is worth, in one line."""
        self._plain(f"{method_title(method)}: {trainer_text(choice)}")

    def round(self, method: str, line: Mapping[str, Any]) -> None:
        """Moves the bar on a terminal; writes one line in a log, and for an evaluated or failing round on both."""
        self.dense[method] = len(line.get("load") or [0]) == 1
        accuracy = _unseen(line)
        if accuracy is not None:
            self.unseen[method] = accuracy
        text = round_text(method, line, self.num_rounds)
        if self.bar is None:
            self._plain(text)
        else:
            if accuracy is not None:
                self._plain(text)
            self._move(self.bar, method, line)
        for failure in line.get("failures") or ():
            where = f"client {failure.get('client')} in round {failure.get('round')} ({failure.get('stage')})"
            self._plain(f"!! {where} failed, its update is left out: {failure.get('error')}", "yellow")

    def end(self, summary: Mapping[str, Any]) -> None:
        """Writes the closing table, bytes and time, the warnings again, and the run folder's path."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        self.console.print(self._closing_table(summary))
        sent, seconds = summary.get("bytes") or {}, summary.get("seconds") or {}
        rounds = max(1, int(summary.get("rounds") or 0))
        per_round = [bytes_text(sent[way] / rounds) if way in sent else "-" for way in ("down", "up")]
        self._plain(
            f"bytes a round: {per_round[0]} down, {per_round[1]} up; once: {bytes_text(sent.get('once'))}; "
            f"time: {seconds.get('total') or 0:.1f} s, a round {seconds.get('round_median') or 0:.2f} s (median)"
        )
        for method, told in (summary.get("routing") or {}).items():
            self._plain(f"routing by {method_title(method)}: {routing_text(told)}")
        for method, texts in (summary.get("remarks") or {}).items():
            for text in texts:
                self._plain(f"{method_title(method)}, {text}")
        for method, told in (summary.get("cold_start") or {}).items():
            dense = "mixture" not in summary["methods"][method]
            self._plain(f"cold start, {method_title(method)}: {cold_start_text(told, dense)}")
        serving = (seconds.get("personalise") or {}).items()
        if serving:
            each = ", ".join(f"{method_title(method)} {seconds_text(told)}" for method, told in serving)
            self._plain(f"to rank and predict for one unseen client: {each}")
        if summary.get("failures"):
            self._plain(f"!! client jobs that failed: {summary['failures']}; rounds.jsonl names each", "yellow")
        self._warn(summary)
        self._plain(f"run folder: {summary.get('run_folder')}")

    def _closing_table(self, summary: Mapping[str, Any]) -> Table:
        clients = (summary.get("unseen") or {}).get("clients")
        table = Table(title=f"accuracy on {clients} clients never seen in training", box=box.SIMPLE_HEAD, expand=False)
        table.add_column("method")
        table.add_column("prediction")
        for column in ("mean", "std", "worst decile"):
            table.add_column(column, justify="right", no_wrap=True)
        for method, variants in (summary.get("methods") or {}).items():
            dense = "mixture" not in variants
            for variant, figures in variants.items():
                if not isinstance(figures, Mapping) or (dense and variant.startswith(("mixture", "best"))):
                    continue
                cells = [percent(figures.get(key)) for key in ("mean", "std", "worst_decile")]
                table.add_row(Text(method_title(method)), Text(variant_title(variant, dense)), *cells)
        return table

    def _move(self, bar: Progress, method: str, line: Mapping[str, Any]) -> None:
        if method not in self.tasks:
            # A resumed run starts in the middle: those rounds took no time here and must not enter the estimate.
            self.tasks[method] = bar.add_task(
                method_title(method), total=self.num_rounds or None, completed=line["round"] - 1, latest=""
            )
        loss = (line.get("train") or {}).get("loss")
        latest = [] if loss is None else [f"loss {loss:.3f}"]
        if method in self.unseen:
            latest.append(f"unseen {percent(self.unseen[method])}")
        bar.update(self.tasks[method], completed=line["round"], latest="  ".join(latest))

    def _warn(self, record: Mapping[str, Any]) -> None:
        warning = stand_in_warning(record)
        if warning:
            self._plain(f"!! {warning}", "bold yellow")
        for note in notes_of(record):
            self._plain(f"note: {note}", "yellow")

    def _plain(self, text: str, style: str = "") -> None:
        # soft_wrap: a path that is broken over two lines cannot be copied; Text: names may hold [brackets].
        self.console.print(Text(text, style=style), soft_wrap=True)


def header_rows(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, words) for each thing that a header tells of, in the order in which a person wants them."""
    dataset, clients, experts = (header.get(key) or {} for key in ("dataset", "clients", "experts"))
    kind = "" if dataset.get("real") is None else " (real)" if dataset["real"] else " (generated)"
    parameters = experts.get("parameters")
    partition = header.get("partition")
    baselines = ", ".join(method_title(name) for name in header.get("baselines") or ())
    rows = {
        "strategy": method_title(str(header.get("strategy"))) + (f", beside it {baselines}" if baselines else ""),
        "data": f"{dataset.get('name')}{kind}",
        "partition": partition.get("name") if isinstance(partition, Mapping) else partition,
        "clients": f"{clients.get('num')} in training, {clients.get('per_round')} a round "
        f"({clients.get('anchors_per_round')} of them anchors), {clients.get('unseen')} unseen",
        "experts": f"{experts.get('num')}, {experts.get('top_k')} to a client, {experts.get('model')}"
        + (f" of {parameters:,} parameters" if isinstance(parameters, int) else ""),
        "gate": header.get("gate"),
        "rounds": header.get("rounds"),
        "device": header.get("device"),
        "seed": header.get("seed"),
    }
    told = {"data": dataset, "clients": clients, "experts": experts}
    return [(name, str(words)) for name, words in rows.items() if words is not None and told.get(name, True)]


def round_text(method: str, line: Mapping[str, Any], num_rounds: int) -> str:
    """Returns a round as one short line for a log."""
    parts = [
        f"[{method}] round {line['round']}/{num_rounds or '?'}",
        f"{line.get('completed')}/{len(line.get('clients') or ())} clients",
    ]
    loss = (line.get("train") or {}).get("loss")
    if loss is not None:
        parts.append(f"loss {loss:.3f}")
    accuracy = _unseen(line)
    if accuracy is not None:
        parts.append(f"unseen {percent(accuracy)}")
    seconds = (line.get("seconds") or {}).get("round")
    if seconds is not None:
        parts.append(f"{seconds:.1f} s")
    return "  ".join(parts)


def _unseen(line: Mapping[str, Any]) -> float | None:
    evaluation = line.get("evaluate") or {}
    figures = (evaluation.get("methods") or {}).get("zero_shot") or {}
    mean = figures.get("mean")
    return float(mean) if mean is not None else None
