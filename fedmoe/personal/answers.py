"""Each image's answer as a table: `page.csv` beside the page of a served client."""

import csv
import io
from pathlib import Path

from fedmoe.personal.personalized import COMMON, MIXTURE, Personalized
from fedmoe.recording.atomic import write_atomic

__all__ = ["COLUMNS", "write_answers"]

COLUMNS = ("image", "answer", "probability", "expert", "alone", "alone_probability", "label")
WHO = {MIXTURE: "mixture", COMMON: "common expert"}


def write_answers(found: Personalized, path: Path) -> Path:
    """Writes a line an image, all of them, and returns the file's absolute path; what stood there is replaced.

    The columns: the image's name (a file's path in its folder, else its number), the answer's class and its
    probability in [0, 1], the expert that gave it, class and probability by the common expert alone, and the true
    class, empty where it is not known.

    Raises:
        RunFolderError: the file cannot be written.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    alone = found.ways["plain"]
    for row, answer in enumerate(found.predictions):
        expert, other = int(found.chosen[row]), int(alone.predictions[row])
        label = "" if found.labels is None else found.class_names[int(found.labels[row])]
        said = (found.class_names[int(answer)], f"{found.probabilities[row, answer]:.4f}", WHO.get(expert, expert))
        before = (found.class_names[other], f"{alone.probabilities[row, other]:.4f}")
        writer.writerow((found.name_of(row), *said, *before, label))
    file = path.expanduser().absolute()
    write_atomic(file, out.getvalue().encode())
    return file
