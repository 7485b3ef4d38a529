"""Laws of the console: paths can be copied, names are not markup, a stand-in is never missed, a log has short lines."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedmoe.recording.console import ConsoleLogger
from fedmoe.recording.loggers import LoggerGroup
from fedmoe.recording.run_folder import RunFolder
from tests.recording.fake_run import fake_header, fake_rounds, fake_summary

FOLDER = Path("/" + "/".join(["a-long-name"] * 20))


def told(terminal: bool = False, stand_in: bool = False, width: int = 60) -> tuple[str, str, str]:
    """Returns what is written at the start, during the rounds and at the end."""
    out = io.StringIO()
    logger = LoggerGroup([ConsoleLogger(Console(file=out, force_terminal=terminal, width=width, no_color=True))])
    run = RunFolder(FOLDER)
    methods = {"fedjets": fake_rounds(), "fedavg": fake_rounds("fedavg", num_experts=1)}
    parts = []
    logger.start(fake_header(run, stand_in))
    parts.append(out.getvalue())
    for method, rounds in methods.items():
        for line in rounds:
            logger.round(method, line)
    parts.append(out.getvalue()[len(parts[0]) :])
    logger.end(fake_summary(run, methods, stand_in))
    parts.append(out.getvalue()[len(parts[0]) + len(parts[1]) :])
    return parts[0], parts[1], parts[2]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_run_folder_is_one_unbroken_line_at_both_ends(terminal):
    start, _, end = told(terminal)
    for text in (start, end):
        assert f"run folder: {FOLDER}\n" in text


@pytest.mark.parametrize("stand_in", [False, True])
def test_stand_in_data_is_said_at_both_ends_and_never_else(stand_in):
    start, _, end = told(stand_in=stand_in)
    for text in (start, end):
        assert ("!! STAND-IN DATA: 'cifar10'" in text) is stand_in


def test_notes_are_told_at_both_ends():
    start, _, end = told()
    note = "note: The common expert reached 61.0 % on held-out public samples.\n"
    assert note in start
    assert note in end


def test_a_log_has_one_plain_line_a_round():
    _, rounds, _ = told()
    lines = [line for line in rounds.splitlines() if not line.startswith("!!")]
    assert [line.split("/")[0] for line in lines] == [
        f"[{method}] round {r}" for method in ("fedjets", "fedavg") for r in range(1, 41)
    ]
    assert max(map(len, lines)) <= 80
    assert [("unseen" in line) for line in lines[:10]] == [False] * 4 + [True] + [False] * 4 + [True]
    assert "\x1b" not in rounds


def test_a_failed_client_is_named():
    _, rounds, _ = told()
    assert "!! client 17 in round 3 (train) failed, its update is left out: ValueError: loss is nan\n" in rounds


def test_the_closing_table_has_every_method_with_its_figures():
    _, _, end = told(width=100)
    summary = fake_summary(RunFolder(FOLDER), {"fedjets": fake_rounds()}, False)
    for figures in [*summary["methods"]["fedjets"].values(), *summary["methods"]["common expert"].values()]:
        row = [f"{100 * figures[key]:.1f} %" for key in ("mean", "std", "worst_decile")]
        assert any(all(cell in line for cell in row) for line in end.splitlines())


def test_the_end_tells_of_routing_and_of_the_time_to_serve_a_client():
    _, _, end = told(width=100)
    assert "routing by FedJETs: dead experts: 3; nobody held: none; held sets that stayed: 87.5 %" in end
    assert "cold start, Common expert: alone: 50.0 % by 1 sample at a time, 50.0 % by 10" in end
    assert "to rank and predict for one unseen client: FedJETs 12.3 ms" in end


def test_a_terminal_has_a_bar_with_time_left_and_gives_the_cursor_back():
    _, rounds, end = told(terminal=True, width=120)
    assert "time left" in rounds
    assert "40/40" in rounds + end
    assert (rounds + end).rindex("\x1b[?25h") > (rounds + end).rfind("\x1b[?25l")


def test_a_header_and_summary_with_little_in_them_are_told_all_the_same():
    out = io.StringIO()
    logger = ConsoleLogger(Console(file=out, width=80))
    logger.start({"strategy": "[bold]", "run_folder": "/x"})
    logger.round("[red]", {"round": 1})
    logger.end({"methods": {"[red]": {"zero_shot": {"mean": None}}}, "run_folder": "/x"})
    assert "[bold]" in out.getvalue().lower()
    assert "[[red]] round 1/?" in out.getvalue()
