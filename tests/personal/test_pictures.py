"""A person's own pictures: brought to the run's shape, labelled only by folders that name its classes."""

import csv
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmoe.cli import main
from fedmoe.errors import DataError, SettingsError
from fedmoe.personal import Personalizer
from fedmoe.personal.pictures import open_images
from tests.small import run_small, small_config

CLASSES = ("cat", "dog")


def draw(path: Path, size: tuple[int, int] = (4, 4), colour: bool = False, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(path)


def test_class_folders_label_and_the_order_is_that_of_the_paths(tmp_path: Path) -> None:
    for number, name in enumerate(("dog/b.png", "cat/z.png", "dog/a.png")):
        draw(tmp_path / name, value=number)
    own = open_images(tmp_path, (1, 4, 4), CLASSES)
    assert own.labels is not None
    assert own.labels.tolist() == [0, 1, 1]
    assert own.images[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert (own.images.shape, own.images.dtype, own.notes) == ((3, 1, 4, 4), np.uint8, ())


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("1.png", "2.png"), "No labels are known"),
        (("holiday/1.png", "home/2.png"), "No labels are known"),
        (("cat/1.png", "2.png"), r"No labels are used.* 1 of 2 pictures lie in no folder, which .* \(cat, dog\)"),
        (("cat/1.png", "Dog/2.png"), "1 of 2 pictures lie in the folder 'Dog', which names no class"),
        (("dog/cow/1.png", "cat/2.png"), "lie in the folder 'cow', which"),
        (("cat/1.png", "cow/2.png", "ox/2.png"), "2 of 3 pictures lie in the folder 'cow' or others, which"),
    ],
)
def test_without_a_class_folder_for_each_there_are_no_labels_and_a_note_says_why(
    tmp_path: Path, files: tuple[str, ...], told: str
) -> None:
    for name in files:
        draw(tmp_path / name)
    own = open_images(tmp_path, (1, 4, 4), CLASSES)
    assert own.labels is None
    (note,) = own.notes
    assert re.search(told, note), note


@pytest.mark.parametrize("channels", [1, 3])
def test_size_and_colour_become_those_of_the_run_and_notes_say_so(tmp_path: Path, channels: int) -> None:
    draw(tmp_path / "cat/1.png", value=200)
    draw(tmp_path / "cat/2.png", size=(9, 5), value=200)
    draw(tmp_path / "cat/3.png", colour=True, value=200)
    own = open_images(tmp_path, (channels, 4, 4), CLASSES)
    assert own.images.shape == (3, channels, 4, 4)
    assert (own.images == 200).all()
    colour = "1 of 3 pictures were brought to grey" if channels == 1 else "2 of 3 pictures were brought to three"
    assert [
        note.startswith(start)
        for note, start in zip(own.notes, ("1 of 3 pictures were resized to 4 x 4", colour), strict=True)
    ] == [True, True]


def test_an_archive_is_read_like_a_folder(tmp_path: Path) -> None:
    draw(tmp_path / "own/cat/1.png", value=7)
    draw(tmp_path / "own/dog/2.png", value=9)
    with tarfile.open(tmp_path / "own.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "own", "own")
    folder, packed = (open_images(tmp_path / name, (1, 4, 4), CLASSES) for name in ("own", "own.tar.gz"))
    np.testing.assert_array_equal(folder.images, packed.images)
    assert packed.labels is not None
    assert packed.labels.tolist() == [0, 1]


def test_what_holds_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"--images must be .* with pictures in it, got none in .*; hint: "):
        open_images(tmp_path, (1, 4, 4), CLASSES)
    with pytest.raises(DataError, match=r"--images must be a folder or a tar archive .* no such file or folder"):
        open_images(tmp_path / "nowhere", (1, 4, 4), CLASSES)
    with pytest.raises(DataError, match=r"1 or 3 channels, got a run of images with 2; hint: --client"):
        open_images(tmp_path, (2, 4, 4), CLASSES)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMOE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("seed", range(3))
def test_a_clients_samples_as_files_are_served_like_the_client(place: Path, seed: int) -> None:
    personalizer = Personalizer(run_small(place, settings=small_config(seed=seed, num_server_rounds=2)))
    client = personalizer.client(1)
    assert client.labels is not None
    for number, (image, label) in enumerate(zip(client.images, client.labels, strict=True)):
        for folder in ("flat", f"sorted/class {label}"):
            path = place / folder / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
    flat, labelled = personalizer.folder(place / "flat"), personalizer.folder(place / "sorted")
    assert flat.experts == labelled.experts == client.experts
    np.testing.assert_array_equal(flat.images, client.images)
    np.testing.assert_array_equal(flat.predictions, client.predictions)
    np.testing.assert_array_equal(flat.chosen, client.chosen)
    assert flat.accuracies == {}
    assert labelled.accuracies == pytest.approx(client.accuracies)
    assert labelled.who == "the owner of 60 pictures in sorted"
    assert flat.files == tuple(f"{number:03d}.png" for number in range(60))
    assert client.files == ()
    some = personalizer.folder(place / "flat", samples=7)
    assert len(some.images) == len(some.files) == 7
    for name, image in zip(some.files, some.images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(place / "flat" / name)), image[0])


def test_each_files_answer_stands_on_the_page_and_in_a_table_beside_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_small(place, settings=small_config(num_server_rounds=2))
    client = Personalizer(run).client(0)
    assert client.labels is not None
    for number, (image, label) in enumerate(zip(client.images, client.labels, strict=True)):
        path = place / "mine" / f"class {label}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    found = Personalizer(run).folder(place / "mine")
    page = place / "out" / "page.html"
    words = ["fedmoe", "personalize", str(run), "--images", str(place / "mine"), "--output", str(page)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        main()
    assert f"each image's answer: {page.with_suffix('.csv')}" in capsys.readouterr().out
    lines = list(csv.DictReader(page.with_suffix(".csv").read_text().splitlines()))
    assert [line["image"] for line in lines] == list(found.files) == sorted(found.files)
    assert all(f'alt="{line["image"]}"' in page.read_text() for line in lines)
    answers = [found.class_names[label] for label in found.predictions]
    assert [line["answer"] for line in lines] == answers
    assert [line["label"] for line in lines] == [line["image"].split("/")[0] for line in lines]
    right = [line["answer"] == line["label"] for line in lines]
    assert sum(right) / len(right) == pytest.approx(found.accuracies["zero_shot"])
    alone = [line["alone"] == line["label"] for line in lines]
    assert sum(alone) / len(alone) == pytest.approx(found.accuracies["plain"])
    assert {int(line["expert"]) for line in lines} <= set(found.experts)
    assert [float(line["probability"]) for line in lines] == pytest.approx(found.probabilities.max(axis=1), abs=1e-4)


def test_a_gate_by_lot_serves_pictures_and_one_that_is_told_the_group_cannot(place: Path) -> None:
    config = small_config(num_server_rounds=1)
    draw(place / "own/1.png")
    by_lot = Personalizer(run_small(place / "lot", settings=config | {"gate.name": "random"}, home=place / "home"))
    one, two = by_lot.folder(place / "own"), by_lot.folder(place / "own")
    assert one.experts == two.experts
    np.testing.assert_array_equal(one.routing, two.routing)
    told = Personalizer(run_small(place / "told", settings=config | {"gate.name": "oracle"}, home=place / "home"))
    with pytest.raises(SettingsError, match=r"'oracle' is told each sample's true label group.*; hint: --client"):
        told.folder(place / "own")
