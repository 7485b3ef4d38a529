"""`fedmoe personalize`: a fresh client of a trained pool, served before your eyes, and a page about it."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedmoe.errors import SettingsError
from fedmoe.flower.results import dataset_table
from fedmoe.personal.album import write_page
from fedmoe.personal.answers import write_answers
from fedmoe.personal.personalized import Personalized
from fedmoe.personal.personalizer import Personalizer
from fedmoe.personal.wording import accuracy_rows, cost_rows, headline
from fedmoe.recording.run_folder import folder_name
from fedmoe.recording.wording import method_title, stand_in_warning

__all__ = ["run_personalize"]


def run_personalize(
    run: Path,
    images: Path | None,
    client: int | None,
    method: str = "",
    samples: int = 0,
    seed: int | None = None,
    output: Path | None = None,
) -> Path:
    """Serves one fresh client, tells what it got and what that cost, and returns the page that shows it.

    Args:
        run: a run folder.
        images: the client's pictures, a folder or a tar archive; `None`: an unseen client of the run.
        client: that client's number; `None`: 0.
        method: a method of the run; empty: the main one.
        samples: how many of the samples, by lot; 0: all.
        seed: of that lot; `None`: the run's.
        output: the page's file; `None`: in the run folder, below `personalized/`.

    Raises:
        FedmoeError: what went wrong, in one line.
    """
    if images is not None and client is not None:
        raise SettingsError(f"give --images or --client, not both, got '{images}' and {client}")
    if output is not None and output.suffix == ".csv":
        raise SettingsError(f"--output names the page, beside which a .csv of the answers is written, got '{output}'")
    console = Console(highlight=False)
    personalizer = Personalizer(run.absolute(), method, lambda text: _plain(console, f"[set-up] {text}"))
    trained = personalizer.trained
    if images is not None:
        found, name = personalizer.folder(images.absolute(), samples, seed), folder_name(images.absolute().name)
    else:
        found, name = personalizer.client(client or 0, samples, seed), f"client-{client or 0}"
    record = {"dataset": dataset_table(trained.preparation)}
    file = output or trained.folder.path / "personalized" / f"{trained.name}-{name}.html"
    page = write_page(found, file, record)
    answers = write_answers(found, page.with_suffix(".csv"))
    _tell(console, found, stand_in_warning(record))
    _plain(console, f"each image's answer: {answers}")
    _plain(console, f"page: {page}")
    return page


def _tell(console: Console, found: Personalized, warning: str | None) -> None:
    """Writes the headline, the warning and notes, and the tables."""
    title = Text(f"{method_title(found.method)} for {found.who}")
    console.print(Panel(Text("\n".join(headline(found))), title=title, title_align="left", expand=False))
    if warning:
        _plain(console, f"!! {warning}", "bold yellow")
    for note in found.notes:
        _plain(console, f"note: {note}", "yellow")
    costs = Table(title="what was fetched (from disk), and how long it took", box=box.SIMPLE_HEAD, expand=False)
    _fill(console, costs, ["", "bytes", "time"], cost_rows(found), 1)
    if found.labels is not None:
        table = Table(title=f"right answers on {len(found.images)} images", box=box.SIMPLE_HEAD, expand=False)
        _fill(console, table, ["who answers", "prediction", "right"], accuracy_rows(found), 2)


def _fill(console: Console, table: Table, header: list[str], rows: list[tuple[str, list[str]]], texts: int) -> None:
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < texts else "right", no_wrap=place >= texts)
    for kind, cells in rows:
        table.add_row(*(Text(cell) for cell in cells), style="bold" if kind == "main" else None)
    console.print(table)


def _plain(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)  # soft_wrap: a path in two lines cannot be copied
