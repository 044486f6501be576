from __future__ import annotations

import html as entities
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from profile_example import ODD_NAME, profile, stage, swept

from pipeline.errors import ConfigError
from tools.profiling.compare import compare
from tools.profiling.document import Profile
from tools.profiling.report.flame_graph import tree
from tools.profiling.report.page import write_html

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
SECTIONS = ["Verdict", "Graph", "Stages", "Batches", "Engines", "Packets", "Streams", "Over time", "GPU",
            "Flame graph", "Machine"]  # fmt: skip
NASTY = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Checks that elements are nested, and collects the page's text, headings and links."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.shown += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def written(tmp_path: Path, profiles: Profile | list[Profile], **more: object) -> str:
    path = tmp_path / "report.html"
    write_html(profiles, path, **more)  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8")


def test_the_page_has_all_sections_and_needs_no_other_file(tmp_path):
    text = written(tmp_path, profile())
    page = Page(text)
    assert page.headings == SECTIONS
    assert page.links == []
    assert not re.search(r"@import|url\((?!#)|fetch\(|<link|XMLHttp", text)
    assert all(stage.name in page.shown for stage in profile().stages)
    assert profile().verdict.said in page.shown
    assert "4,212 read = 4,003 finished + 203 dropped + 6 in flight" in page.shown


def test_no_name_becomes_markup(tmp_path):
    plain = profile()
    names = [s.model_copy(update={"name": NASTY}) for s in plain.streams[:1]]
    nasty = profile(
        graph=NASTY, command=NASTY, streams=names, stages=[*plain.stages, stage(NASTY, NASTY)], notes=[NASTY],
        verdict=plain.verdict.model_copy(update={"said": NASTY, "advice": [NASTY], "stage": NASTY}),
        stacks={f"{NASTY};{NASTY} (a.py:1)": 5.0}, settings={NASTY: NASTY},
    )  # fmt: skip
    for profiles in (nasty, [nasty, nasty]):
        text = written(tmp_path, profiles)
        page = Page(text)
        assert "img" not in page.tags
        assert page.tags.count("script") == 1
        assert NASTY in page.shown
    assert ODD_NAME in Page(written(tmp_path, plain)).shown


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"use": profile().use.model_copy(update={"gpus": []})}, "GPU"),
        ({"use": profile().use.model_copy(update={"moments": []})}, "Over time"),
        ({"stacks": {}}, "Flame graph"),
        ({"engines": []}, "Engines"),
        ({"stages": [stage("decode"), stage("pose")], "edges": []}, "Batches"),
        ({"streams": []}, "Streams"),
    ],
)
def test_a_section_without_figures_is_left_out(tmp_path, changes, missing):
    page = Page(written(tmp_path, profile(**changes)))
    assert page.headings == [name for name in SECTIONS if name != missing]


def test_a_run_without_frames_can_be_shown(tmp_path):
    empty = stage("decode", packets_in=0, packets_out=0, packets_per_s=0.0, busy=0.0, computing=0.0, cores=0.0,
                  batches={}, mean_batch=0.0, latency_p50_ms=0.0, latency_p95_ms=0.0, latency_p99_ms=0.0)  # fmt: skip
    nothing = profile(
        stages=[empty], edges=[], engines=[], streams=[], stacks={}, bound=None, fps=0.0, frames=0
    )
    page = Page(written(tmp_path, nothing))
    assert "The bound was not measured" in page.shown


def test_a_comparison_follows_the_verdict(tmp_path):
    comparison = compare(profile(fps=130.0, streams_wanted=2), profile(), 0.05)
    page = Page(written(tmp_path, profile(), comparison=comparison))
    assert page.headings[:2] == ["Verdict", "Against the baseline"]
    assert comparison.said in page.shown
    assert "▼ worse" in page.shown
    assert "other streams: 2 before, 4 now" in page.shown


def test_a_sweep_has_charts_and_its_points_with_the_best_one_open(tmp_path):
    text = written(tmp_path, swept())
    page = Page(text)
    assert page.headings[0] == "Sweep"
    assert page.headings.count("Verdict") == 8
    assert text.count('<details open=""') == 1
    assert re.search(r'<details open="">\s*<summary><h2>([^<]*)<', text)[1] == "streams=4 batch=8"  # type: ignore[index]
    assert "★ best" in page.shown


def test_the_flame_graph_adds_up():
    root = tree(
        {
            "pose;_bootstrap (threading.py:9);f (a.py:1);g (a.py:2)": 30.0,
            "pose;f (a.py:1)": 12.0,
            "track": 8.0,
        }
    )
    pose = root.calls["pose"]
    assert (root.ms, pose.ms, pose.calls["f (a.py:1)"].ms) == (50.0, 42.0, 42.0)
    assert list(pose.calls) == ["f (a.py:1)"]  # the frames that begin every thread are left out
    assert pose.calls["f (a.py:1)"].calls["g (a.py:2)"].ms == 30.0


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write .*No such file"):
        write_html(profile(), tmp_path / "none" / "report.html")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is installed")
def test_a_browser_shows_it_without_an_error(tmp_path):
    text = written(tmp_path, profile())
    # The document shows what the page's script did: errors, links to the sections, a click in the flame graph.
    watched = "<script>onerror = (message) => document.documentElement.setAttribute('data-error', message);</script>"
    click = """<script>
        const box = document.querySelector('.flame button[title^="detect"]');
        box.click(); box.focus();
        </script></body>"""
    page = tmp_path / "watched.html"
    page.write_text(text.replace("<head>", f"<head>{watched}").replace("</body>", click), encoding="utf-8")
    assert BROWSER
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/browser",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=100, check=True,
    ).stdout  # fmt: skip
    assert "data-error" not in shown.partition("<head>")[0]
    links = re.findall(r'<a href="#(part-\d+)">([^<]*)</a>', shown)
    assert [name for _, name in links] == SECTIONS
    assert all(f'id="{part}"' in shown for part, _ in links)
    boxes = re.findall(r"<button[^>]*>", shown)
    hidden = [box for box in boxes if "hidden" in box]
    assert {"pose", "decode"} <= {m[1] for box in hidden if (m := re.search(r'title="(\w+) ', box))}
    (zoomed,) = [box for box in boxes if 'title="detect ' in box]
    assert "width: 100%" in zoomed
    figures = re.search(r"<output[^>]*>([^<]*)</output>", shown)
    assert figures
    assert entities.unescape(figures[1]).startswith("detect · ")
    for one in profile().stages:
        assert f">{one.name}</text>" in shown
