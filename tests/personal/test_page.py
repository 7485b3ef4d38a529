"""The command and its page: all that was found is on it, and it fetches nothing."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmoe import cli
from fedmoe.personal import Personalized, Personalizer, write_page
from fedmoe.personal.wording import cost_rows, experts_text, fetched, headline, total, whole_pool
from fedmoe.recording.wording import percent
from tests.small import run_small, small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = small_config(num_server_rounds=2, evaluate__baselines="fedavg,ifca,ensemble")
    return run_small(tmp_path_factory.mktemp("run"), settings=settings)


@pytest.fixture(autouse=True)
def home(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caches of the run."""
    monkeypatch.setenv("FEDMOE_HOME", str(run.parents[1] / "home"))
    return run


def fedmoe(*words: object) -> int:
    """Returns the exit status of a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fedmoe", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def page_of(found: Personalized, tmp_path: Path) -> str:
    return write_page(found, tmp_path / "page.html").read_text()


def test_every_image_is_on_the_page_as_it_is_with_its_answer_and_expert(run: Path, tmp_path: Path) -> None:
    found = Personalizer(run).client(1)
    text = page_of(found, tmp_path)
    cards = re.findall(r'<div class="card (right|wrong)">.*?</div></div>', text)
    assert len(cards) == len(found.images) == 60
    right = cards.count("right") / 60
    assert right == pytest.approx(found.accuracies["zero_shot"])
    pictures = re.findall(r'alt="image (\d+)" title="image \d+" src="data:image/png;base64,([^"]+)"', text)
    for (number, content), image in zip(pictures, found.images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), image[0])
        answer = found.class_names[found.predictions[int(number)]]
        card = text[text.index(f'alt="image {number}"') :][:1500]
        assert f"<b>{answer}</b>" in card
        assert f"expert {found.chosen[int(number)]}</span>" in card
    for share in found.accuracies.values():
        assert percent(share).replace(" ", "\u00a0") in text


@pytest.mark.parametrize("method", ["fedjets", "fedavg", "ifca", "ensemble"])
def test_the_page_stands_alone_whatever_the_method(run: Path, tmp_path: Path, method: str) -> None:
    text = page_of(Personalizer(run, method).client(0), tmp_path)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert not re.findall(r"https?://|url\(|@import|<script", text)
    assert ("How the experts rank" in text) == (method in ("fedjets", "ifca"))
    assert ("the model" in text) == (method == "fedavg")
    assert ("No gate" in text) == (method in ("ifca", "ensemble"))
    assert ("<br>mixture<br>" in text) == (method == "ensemble")


def test_names_are_told_as_text(run: Path, tmp_path: Path) -> None:
    found = Personalizer(run).client(0)
    names = tuple(f"<b>{name}&" for name in found.class_names)
    text = page_of(replace(found, class_names=names, who="<i>me</i>"), tmp_path)
    assert "<b>class" not in text
    assert "&lt;b&gt;class" in text
    assert "&lt;i&gt;me&lt;/i&gt;" in text


def test_of_many_images_some_are_shown_and_the_page_says_so(run: Path, tmp_path: Path) -> None:
    personalizer = Personalizer(run)
    images = np.concatenate([personalizer.client(number).images for number in range(3)] * 2)
    found = personalizer.images(images)
    text = page_of(found, tmp_path)
    assert len(re.findall(r'<div class="card', text)) == 200 + 1  # and the grid around them
    assert "200 of the 360 images" in text
    assert "Before and after" not in text


def test_what_is_said_of_the_costs_adds_up(run: Path) -> None:
    routed, dense, asked = (Personalizer(run, name).client(0) for name in ("fedjets", "fedavg", "ifca"))
    assert experts_text(routed) == f"the gate and experts {routed.experts[0]} and {routed.experts[1]}"
    assert (experts_text(dense), experts_text(asked)) == ("the model", "all experts")
    assert dense.bytes["experts"] == dense.bytes["pool"]
    assert asked.bytes["experts"] == asked.bytes["pool"] == 3 * dense.bytes["pool"]
    assert (dense.bytes["common"], dense.bytes["gate"]) == (0, 0)
    assert fetched(asked) == whole_pool(asked)  # all are fetched, and with them nothing else
    assert whole_pool(routed) - fetched(routed) == dense.bytes["pool"]  # one of three experts less
    steps = ("embed", "rank", "fetch", "predict")
    assert total(routed) == pytest.approx(sum(routed.seconds[step] for step in steps))
    assert total(dense) == pytest.approx(sum(dense.seconds[step] for step in steps[1:]))
    assert all(len(cells) == 3 for found in (routed, dense, asked) for _, cells in cost_rows(found))


def test_the_headline_tells_a_loss_as_one(run: Path) -> None:
    found = Personalizer(run).client(0)
    for shift, words in ((0, "better than the common expert"), (1, "worse than the common expert")):
        first, second = found.ways["zero_shot"], found.ways["plain"]
        assert found.labels is not None
        good = replace(first, predictions=found.labels)
        bad = replace(second, predictions=(found.labels + 1) % 6)
        pair = (good, bad) if not shift else (bad, good)
        told = replace(found, ways={**found.ways, "zero_shot": pair[0], "plain": pair[1]})
        assert words in " ".join(headline(told))


def test_the_command_writes_the_page_into_the_run_folder_and_says_where(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedmoe("personalize", run, "--client", 2, "--method", "ifca") == 0
    out = capsys.readouterr().out
    page = run / "personalized" / "ifca-client-2.html"
    assert out.splitlines()[-1] == f"page: {page}"
    assert "right answers on 60 images" in out
    assert "IFCA for unseen client 2 (14 in clients.csv)" in page.read_text()
    assert fedmoe("personalize", run, "--samples", 9, "--output", tmp_path / "deep/own.html") == 0
    assert (tmp_path / "deep/own.html").is_file()
    assert "9 images" in capsys.readouterr().out
    Image.fromarray(np.zeros((5, 6), dtype=np.uint8)).save(tmp_path / "deep/1.png")
    assert fedmoe("personalize", run, "--images", tmp_path / "deep") == 0
    out = capsys.readouterr().out
    assert "note: 1 of 1 pictures were resized to 4 x 4" in out
    assert "right answers" not in out
    assert (run / "personalized/fedjets-deep.html").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--client", 3], "fedmoe: --client must be the number of an unseen client, 0 to 2, got 3; hint: "),
        (["--method", "scaffold"], "fedmoe: --method must be a method of the run, got 'scaffold'; "),
        (["--images", "nowhere"], "fedmoe: --images must be a folder or a tar archive of pictures, got "),
        (["--images", "nowhere", "--client", 0], "fedmoe: give --images or --client, not both, got "),
    ],
)
def test_what_cannot_be_done_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[object], told: str
) -> None:
    assert fedmoe("personalize", run, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == 1
