"""Laws of the report: one page that fetches nothing, says loudly what must not be missed, and holds every figure."""

import base64
import re

import pytest

from fedmoe.errors import RunFolderError
from fedmoe.recording.gallery import GALLERY
from fedmoe.recording.report import write_report
from fedmoe.recording.run_folder import open_run_folder
from fedmoe.recording.run_record import read_run
from fedmoe.recording.verdict import verdict
from tests.recording.fake_run import fake_run, fake_settings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("runs"), num_rounds=12, every=4)


@pytest.fixture(scope="module")
def html(run):
    return write_report(run.path).read_text(encoding="utf-8")


def test_fetches_nothing(html):
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", html)
    assert len(addresses) == len(GALLERY)
    for address in addresses:
        picture = base64.b64decode(address.removeprefix("data:image/svg+xml;base64,"), validate=True).decode()
        assert not re.search(r'href="(?!#|data:)', picture)
        assert set(re.findall(r"https?://[^\"' >]*", picture)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
    assert "<script" not in html
    assert "http" not in re.sub(r'src="data:[^"]*"', "", html)


def test_the_same_run_gives_the_same_page(run, html):
    assert write_report(run.path).read_text(encoding="utf-8") == html


def test_holds_every_figure_of_the_summary(run, html):
    summary = run.read_json("summary.json")
    for method, variants in summary["methods"].items():
        for figures in variants.values() if method != "common expert" else []:
            for key in ("mean", "std", "worst_decile"):
                assert f"{100 * figures[key]:.1f}\u00a0%" in html
    for exhibit in GALLERY:
        assert f"<h2>{exhibit.title}</h2>" in html
    for note in summary["notes"]:
        assert note.replace(" %", "\u00a0%") in html
    assert summary["dataset"]["fingerprint"] in html
    assert "ValueError: loss is nan" in html
    assert str(run.path) in html


def test_tells_of_routing_and_of_the_time_to_serve_a_client(html):
    assert "Routing by FedJETs: dead experts: 3; nobody held: none; held sets that stayed: 87.5\u00a0%" in html
    assert "Cold start, Common expert: alone: 50.0\u00a0% by 1 sample at a time, 50.0\u00a0% by 10." in html
    assert "<b>12.3 ms</b><span>to rank and predict for an unseen client</span>" in html


def test_warns_of_stand_in_data_dead_experts_and_an_early_end_and_only_then(tmp_path, html):
    words = ("STAND-IN DATA: &#x27;cifar10&#x27;", "Expert 3 is dead", "This run has not ended")
    assert not any(word in html for word in words)
    sick = fake_run(tmp_path, num_rounds=5, dead=3, stand_in=True, baselines=())
    page = write_report(sick.path).read_text(encoding="utf-8")
    assert [word in page for word in words] == [True, True, False]
    killed = fake_run(tmp_path, num_rounds=2, finished=False, baselines=())
    with killed.method().rounds.open("a") as file:
        file.write('{"round": 3, "str')
    page = write_report(killed.path).read_text(encoding="utf-8")
    assert [word in page for word in words] == [False, False, True]
    assert "2 of 10 rounds" in page


@pytest.mark.parametrize("flat", [{"num_rounds": 0, "finished": False, "baselines": ()}, {"num_experts": 1}])
def test_a_run_with_little_in_it_has_a_page_all_the_same(tmp_path, flat):
    page = write_report(fake_run(tmp_path, **{"num_rounds": 3, **flat}).path).read_text(encoding="utf-8")
    assert page.count("<h2>") >= len(GALLERY)
    assert 'class="missing"' in page


def test_what_a_person_wrote_is_never_markup(tmp_path):
    run = fake_run(tmp_path, num_rounds=0, finished=False, baselines=())
    evil = "<script>alert('x')</script>"
    run.write_settings(fake_settings(**{"simulation": evil, "data.root": evil}))
    run.write_environment({evil: evil})
    assert "<script" not in write_report(run.path).read_text(encoding="utf-8")


def test_a_baseline_by_reference_keeps_its_written_name(tmp_path):
    run = fake_run(tmp_path, num_rounds=2, every=1, finished=False, baselines=("my.lab:Method",))
    assert open_run_folder(run.path).baselines() == ["Method"]
    assert list(read_run(run.path).rounds) == ["fedjets", "my.lab:Method"]
    _, grounds, _ = verdict(read_run(run.path))
    assert "points above Method" in grounds[0]


def test_a_folder_without_a_run_has_no_report(tmp_path):
    with pytest.raises(RunFolderError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
