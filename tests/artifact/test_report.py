"""The report without a browser: what it is built from, what it refuses to show, that it is the same every time."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from report_project import CLAIMS, EVIL, FACTS, PROMISE, broken_promise, build_project, promised, tame

from sheaf.artifact import report
from sheaf.artifact.check import check
from sheaf.artifact.record import digest, file_digest
from sheaf.artifact.report.formula import formula
from sheaf.artifact.report.view import PAPERS, load_run
from sheaf.artifact.verdict import INCONCLUSIVE, NO_VERDICT, NOT_REPRODUCED, OUT_OF_REACH, REPRODUCED


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return build_project(tmp_path / "a folder's été")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Only the tame paper, in the laptop profile."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\nname = 'toy'\n")
    tame(root)
    return root


def pages(root: Path) -> list[Path]:
    return sorted((root / "results").rglob("*.html"))


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def words(path: Path) -> str:
    return " ".join(soup(path).get_text(" ").split())


def edit_record(root: Path, change, honest_digest: bool = True) -> Path:
    """Change the merged record of the tame paper, and, unless told otherwise, make its digest fit again."""
    path = root / "results/laptop/decentralized/record.json"
    record = json.loads(path.read_text())
    change(record["entries"])
    if honest_digest:
        record["digest"] = digest(record)
    path.write_text(json.dumps(record))
    return path


def paper_page(root: Path) -> Path:
    report.build(root)
    return root / "results/laptop/decentralized.html"


def test_same_records_same_bytes_and_nothing_written_twice(project: Path, tmp_path: Path) -> None:
    index = report.build(project)
    assert index == project / "results/index.html"
    first = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in [*pages(project), index.parent / "scoreboard.svg"]}
    report.build(project)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in first} == first
    for page in first:
        page.unlink()
    report.build(project)
    assert {p: p.read_bytes() for p in first} == {p: content for p, (content, _) in first.items()}


def test_every_page_is_small_and_every_link_leads_to_a_file(project: Path) -> None:
    report.build(project)
    assert len(pages(project)) == 11
    for page in pages(project):
        assert page.stat().st_size <= 2_000_000
        document = soup(page)
        ids = {tag["id"] for tag in document.find_all(id=True)}
        for tag in document.find_all(["a", "img"]):
            target = tag.get("href") if tag.name == "a" else tag.get("src")
            if target is None or target.startswith(("https://", "data:")):
                continue
            parts = urlsplit(target)
            assert not parts.scheme and not parts.netloc, target
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert file.is_file() and file.is_relative_to(project.resolve()), (page, target)
            if parts.fragment:
                names = ids if file == page else {t["id"] for t in soup(file).find_all(id=True)}
                assert unquote(parts.fragment) in names, (page, target)


def test_no_id_is_used_twice_and_no_machine_path_is_written(project: Path) -> None:
    report.build(project)
    for page in pages(project):
        ids = [tag["id"] for tag in soup(page).find_all(id=True)]
        assert len(ids) == len(set(ids)), page
        assert str(project) not in page.read_text() and str(Path.home()) + "/" not in page.read_text()


def test_hostile_text_stays_text(project: Path) -> None:
    report.build(project)
    for page in pages(project):
        document = soup(page)
        scripts = document.find_all("script")
        assert len(scripts) == (0 if "notebooks" in page.parts or page.name == "promises.html" else 1), page
        assert not document.find_all(["iframe", "object", "embed", "form", "base"])
        for tag in document.find_all(True):
            for name, value in tag.attrs.items():
                assert not name.startswith("on") and name not in ("style", "srcdoc"), (page, tag)
                assert not str(value).lower().startswith("javascript:") or name == "aria-label", (page, tag)
        assert not any(i["src"].startswith(("http", "//")) for i in document.find_all("img"))
        assert "49" not in [t for t in document.stripped_strings if "7*7" in t]
    shown = words(project / "results/laptop/toy_hostile.html")
    for attack in EVIL:
        assert attack in shown and attack in words(project / "results/promises.html")


def test_the_page_says_what_was_published_measured_and_decided(plain: Path) -> None:
    page = paper_page(plain)
    text = words(page)
    for claim in CLAIMS:
        assert claim[1] in text and claim[5] in text
    for part in (
        "4.8x", "4.367x", "95% interval 3.987 to 4.746", "n = 3", "reported from memory, unverified", "1.7 to 3.5x",
        "range 5210 to 6100", "the paper gives no settings for it", "its notebook has not been run",
        "this profile (laptop) cannot test it; gpu can", "simulated, 64 devices", "Every figure of the main text",
        "2 of 3 tables", "1 of 1 figure", "first 20 of 200 rows; first 24 of 31 columns", "Student t", "3 min 22 s",
        "0123456789abcdef0123456789abcdef01234567", "ab" * 32, "peak 512 MB", "Three seeds.",
    ):  # fmt: skip
        assert part in text, part
    verdicts = [row.select_one(".badge").get_text(strip=True) for row in soup(page).select("table.claims tbody tr")]
    # C5, whose notebook was not run, comes last
    assert verdicts == [REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, OUT_OF_REACH, REPRODUCED, NO_VERDICT]
    sheets = soup(page).select("article#T1 .sheet")
    assert [s.select_one(".sheet-title").get_text(" ", strip=True).split()[0] for s in sheets] == [
        "published",
        "measured",
    ]
    image = soup(page).select_one("article#F1 img")
    assert (image["src"], image["width"], image["height"]) == ("decentralized/figures/F1.svg", "400", "160")
    measured = [" ".join(cell.get_text(" ").split()) for cell in soup(page).select("table.claims td.wide")]
    assert measured[4].startswith("● 5655x range 5210 to 6100 n = 2") and measured[3] == "–"


def test_an_interval_picture_puts_each_mark_where_its_number_is(plain: Path) -> None:
    row = soup(paper_page(plain)).select_one("tr#C1 svg.interval")
    bound = float(re.match(r"M([\d.]+)", row.select_one(".bound")["d"])[1])
    low, high = map(float, re.match(r"M([\d.]+) 22H([\d.]+)", row.select_one(".bar")["d"]).groups())
    measured, good = float(row.select_one(".measured")["cx"]), row.select_one(".good")
    published = float(re.match(r"M([\d.]+)", row.select_one(".published")["d"])[1])
    assert bound < low < measured < high and published > high  # 3.8 < 3.99 < 4.37 < 4.75 < 4.8
    assert float(good["x"]) == bound and float(good["x"]) + float(good["width"]) == pytest.approx(234)
    scale = (published - bound) / (4.8 - 3.8)
    assert measured == pytest.approx(bound + scale * (4.36667 - 3.8), abs=0.2)
    assert "counts as reproduced: >= 3.8" in row["aria-label"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 9, "digest": "x"}', "\0\xff"])
def test_a_damaged_record_shows_no_number(plain: Path, text: str) -> None:
    (plain / "results/laptop/decentralized/record.json").write_text(text, encoding="latin-1")
    page = paper_page(plain)
    assert "cannot be trusted, so no number of it is shown" in words(page)
    assert "4.367" not in page.read_text() and "1.300" not in page.read_text()
    assert "record damaged" in words(plain / "results/index.html")
    assert "record damaged" in report.scoreboard_markdown(plain) and "record damaged" in report.scoreboard_svg(plain)


def test_one_changed_number_is_noticed(plain: Path) -> None:
    edit_record(plain, lambda entries: entries["C1"].update(measured=4.9), honest_digest=False)
    assert "changed after it was written" in words(paper_page(plain))


@pytest.mark.parametrize(("change", "said"), [
    ({"verdict": REPRODUCED}, "its interval and criterion give 'not reproduced'"),
    ({"verdict": "splendid"}, "none of Sheaf's"),
    ({"low": None}, "its interval and criterion give 'no verdict'"),
    ({"measured": "nan"}, "its interval and criterion give 'no verdict'"),
    ({"criterion": "<= 9", "verdict": REPRODUCED}, "the criterion was '<= 9' and is '<= 2'"),
    ({"criterion": "fine"}, "criterion cannot be used"),
    ({"unit": "kg"}, "the unit was 'kg' and is '%'"),
    ({"published": 3.2}, "the published value was 3.2 and is 1.1"),
    ({"statistic": "exact"}, "the statistic was 'exact' and is 'mean'"),
])  # fmt: skip
def test_a_verdict_that_does_not_follow_is_withdrawn(plain: Path, change: dict, said: str) -> None:
    edit_record(plain, lambda entries: entries["C2"].update(change))
    claim = next(c for c in load_run("decentralized", "laptop", plain).claims if c.id == "C2")
    assert claim.verdict == NO_VERDICT and said in claim.why
    assert "warning" in str(soup(paper_page(plain)).select_one("tr#C2"))


@pytest.mark.parametrize("entry", [None, 3, [], "x", {}, {"kind": "table"}, {"kind": "claim", "verdict": []}])
def test_an_entry_of_the_wrong_shape_is_no_verdict(plain: Path, entry: object) -> None:
    edit_record(plain, lambda entries: entries.update(C1=entry))
    claim = next(c for c in load_run("decentralized", "laptop", plain).claims if c.id == "C1")
    assert claim.verdict == NO_VERDICT and claim.measured is None
    paper_page(plain)


def test_files_that_changed_or_lie_elsewhere_are_withheld(plain: Path) -> None:
    folder = plain / "results/laptop/decentralized"
    (folder / "tables/T1.csv").write_text("case\n99999\n")
    (folder / "figures/F1.svg").unlink()
    (folder / "figures/F1.svg").symlink_to(plain / "pyproject.toml")
    text = words(paper_page(plain))
    assert "99999" not in text and "its file changed after it was recorded" in text
    assert "its file is not in the results folder" in text
    for name in ("../../../pyproject.toml", "/etc/passwd", "tables", "a\0b", 7, None):
        edit_record(plain, lambda entries, name=name: entries["T2"].update(file=name))
        assert "its file is not in the results folder" in words(paper_page(plain))


def test_an_entry_added_or_dropped_since_the_run_is_said(plain: Path) -> None:
    toml = plain / "notebooks/decentralized/paper.toml"
    toml.write_text(toml.read_text().replace('id = "F1"', 'id = "F9"').replace('id = "C6"', 'id = "C9"'))
    text = words(paper_page(plain))
    assert "F9" in text and "the record has nothing for it" in text
    assert text.count("paper.toml no longer lists") == 2
    toml.write_text("nonsense")
    assert "shown from the record alone" in words(paper_page(plain))


def test_a_broken_notebook_is_said_and_the_rest_is_shown(plain: Path) -> None:
    (plain / "results/laptop/decentralized/notebooks/01_network.ipynb").write_text("{")
    (plain / "results/laptop/decentralized/notebooks/02_search.ipynb").unlink()
    text = words(paper_page(plain))
    assert "01_network.ipynb is not a notebook" in text and "not in the results folder" in text and "4.367x" in text


def test_an_executed_notebook_is_readable(plain: Path) -> None:
    report.build(plain)
    page = soup(plain / "results/laptop/decentralized/notebooks/01_network.html")
    assert page.find("h1").get_text().startswith("The network")
    assert len(page.select("svg.tex")) == 2 and "α" not in page.get_text()
    links = {a.get_text(): a.get("href") for a in page.select(".rendered_html a")}
    assert links["the search"] == "02_search.html" and links["nowhere"] is None
    assert links["the declaration"].endswith("notebooks/decentralized/paper.toml")
    assert page.select_one(".highlight").get_text().startswith("profile = 'laptop'")
    assert page.select_one("table.dataframe td").get_text() == "1.5" and ".dataframe" not in page.get_text()
    assert page.select_one(".output_png img")["src"].startswith("data:image/png;base64,")


def test_pictures_too_large_for_a_page_are_left_out(plain: Path) -> None:
    path = plain / "results/laptop/decentralized/notebooks/01_network.ipynb"
    nb = json.loads(path.read_text())
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBO" * 200_000}}
    nb["cells"][1]["outputs"] += [picture] * 4
    path.write_text(json.dumps(nb))
    report.build(plain)
    page = plain / "results/laptop/decentralized/notebooks/01_network.html"
    assert page.stat().st_size <= 2_000_000
    assert page.read_text().count("[a picture too large for this page") == 2 and "iVBO" * 200_000 in page.read_text()


def test_a_page_of_many_wide_tables_keeps_to_its_size(plain: Path) -> None:
    folder = plain / "results/laptop/decentralized"
    toml = plain / "notebooks/decentralized/paper.toml"
    wide = ",".join(f"column {i}" for i in range(60)) + "\n" + (",".join(["x" * 300] * 60) + "\n") * 60
    (folder / "tables/T2.csv").write_text(wide)
    toml.write_text(toml.read_text() + "".join(
        f'[[table]]\nid = "W{i}"\ntitle = "wide"\nwhere = "added"\nnotebook = "02_search"\n' for i in range(60)))  # fmt: skip

    def widen(entries: dict) -> None:
        entries["T2"]["sha256"] = file_digest(folder / "tables/T2.csv")
        entries.update({f"W{i}": dict(entries["T2"]) for i in range(60)})

    edit_record(plain, widen)
    page = paper_page(plain)
    assert page.stat().st_size <= 2_000_000 and "first 3 of 60 rows" in words(page)


def test_promises_show_what_was_tried_and_what_broke(plain: Path) -> None:
    promised(plain, PROMISE, broken_promise("crash-safety", "after operation 3: T01.csv differs"))
    report.build(plain)
    page, index = plain / "results/promises.html", soup(plain / "results/index.html")
    text = words(page)
    for part in (
        "1 of 2 promises kept", "1 of 1,550 trials failed", "kernel-death A notebook whose kernel dies is reported as failed.",
        "SIGKILL in every cell", "kept 0 of 1,050 failed", "slowest report, s 2.345", "transport ipc", "61 s",
        "broken 1 of 500 failed", "after operation 3: T01.csv differs", "commit 0123456789", "2026-01-02 03:04 UTC",
    ):  # fmt: skip
        assert part in text, part
    assert "uncommitted" not in text.partition("Where it was tried")[0]
    link = index.select_one('a[href="promises.html"]')
    assert link and "1 of 2 kept, 1 of 1,550 trials failed" in words(plain / "results/index.html")
    assert soup(page).select_one(".crumbs a")["href"] == "index.html"


def test_promises_that_were_never_tried_have_no_page(plain: Path) -> None:
    file = promised(plain)
    report.build(plain)
    file.unlink()
    report.build(plain)
    assert not (plain / "results/promises.html").exists() and "romises" not in words(plain / "results/index.html")


PROMISE_RECORDS: dict[str, tuple[dict, str]] = {
    "more failed than were tried": ({"promises": [PROMISE | {"failed": 2000}]}, "promises.0: 2000 of 1050 trials cannot"),
    "failures without a name": ({"promises": [PROMISE | {"failed": 2}]}, "promises.0: 2 trials failed but 0 are named"),
    "nothing was tried": ({"promises": [PROMISE | {"tried": 0}]}, "promises.0.tried: Input should be greater"),
    "a count that is text": ({"promises": [PROMISE | {"tried": "9"}]}, "promises.0.tried: Input should be a valid integer"),
    "a figure that is no number": ({"promises": [PROMISE | {"figures": {"x": float("nan")}}]}, "promises.0.figures.x"),
    "a promise twice": ({"promises": [PROMISE, PROMISE]}, "the file: a promise is listed twice"),
    "no promises": ({"promises": []}, "promises: List should have at least 1 item"),
    "an unknown key": ({"extra": 1}, "extra: Extra inputs are not permitted"),
    "another schema": ({"schema": 2}, "schema: Input should be 1"),
    "no provenance": ({"provenance": None}, "provenance: Input should be"),
    "no date": ({"provenance": FACTS | {"finished": "yesterday"}}, "provenance: Invalid isoformat"),
}


@pytest.mark.parametrize("kind", PROMISE_RECORDS)
def test_a_malformed_record_of_promises_is_refused_and_not_shown(plain: Path, kind: str) -> None:
    changes, said = PROMISE_RECORDS[kind]
    promised(plain, **changes)
    report.build(plain)
    text = words(plain / "results/promises.html")
    assert "cannot be trusted, so nothing of it is shown" in text and "SIGKILL" not in text
    assert f"results/promises/record.json: {said}" in text and "run 'make prove' again" in text
    assert "record damaged" in words(plain / "results/index.html")
    found = [problem for problem in check(plain) if problem.file == "results/promises/record.json"]
    assert len(found) == 1 and said in str(found[0]) and found[0].fix == "run 'make prove' again"


@pytest.mark.parametrize("edit", [lambda t: t.replace("1050", "9999"), lambda t: t[:-9], lambda t: "", lambda t: "[" * 99999])
def test_an_edited_record_of_promises_is_refused(plain: Path, edit) -> None:
    file = promised(plain)
    assert not [problem for problem in check(plain) if "promises" in problem.file]
    file.write_text(edit(file.read_text()))
    found = [problem for problem in check(plain) if "promises" in problem.file]
    assert len(found) == 1 and "the file: c" in str(found[0])
    report.build(plain)
    assert "cannot be trusted" in words(plain / "results/promises.html")


def test_smoke_runs_have_a_board_of_their_own(project: Path) -> None:
    report.build(project)
    assert "smoke" not in words(project / "results/index.html")
    scratch = words(project / "results/smoke/index.html")
    assert "They test no claim" in scratch and "toy_hostile" not in [t.get_text() for t in soup(
        project / "results/smoke/index.html").select("tr:not(.quiet) .id")]  # fmt: skip
    assert "smoke" not in report.scoreboard_markdown(project) and "smoke" not in report.scoreboard_svg(project)


def test_pages_can_go_elsewhere(plain: Path, tmp_path: Path) -> None:
    index = report.build(plain, tmp_path / "site")
    assert index == tmp_path / "site/index.html"
    source = soup(tmp_path / "site/laptop/decentralized.html").select_one("article#F1 img")["src"]
    assert (tmp_path / "site/laptop" / unquote(source)).resolve().is_file()
    assert not list((plain / "results").rglob("*.html"))


def test_the_board_lists_all_ten_papers(plain: Path) -> None:
    report.build(plain)
    shown = [row.get_text(" ", strip=True) for row in soup(plain / "results/index.html").select(".board tbody tr")]
    assert len(shown) == 10 and shown[0].startswith("Decentralized Training")
    assert shown[1:] == [f"{paper} not yet" for paper in PAPERS[1:]]


def test_readme_table(project: Path) -> None:
    table = report.scoreboard_markdown(project)
    rows = table.splitlines()
    assert {row.count("|") - row.count("\\|") for row in rows} == {rows[0].count("|")}
    assert "| laptop | 2 of 3 | 1 of 1 | 2 | 1 | 1 | 1 | 1 | 2026-01-02 | 3 min 22 s |" in rows[2]
    assert "<script" not in table
    assert report.update_readme(project) is True
    text = (project / "README.md").read_text()
    assert text == f"# Toy\n\n<!-- scoreboard -->\n{table}<!-- /scoreboard -->\n\nafter\n"
    stamp = (project / "README.md").stat().st_mtime_ns
    assert report.update_readme(project) is False and (project / "README.md").stat().st_mtime_ns == stamp
    (project / "README.md").write_text("# Toy\n<!-- /scoreboard --> <!-- scoreboard -->\n")
    with pytest.raises(ValueError, match="add the lines <!-- scoreboard -->"):
        report.update_readme(project)
    (project / "README.md").unlink()
    assert report.update_readme(project) is False


def test_the_picture_of_the_board_is_well_formed_and_self_contained(project: Path) -> None:
    text = report.scoreboard_svg(project)
    picture = ElementTree.fromstring(text)
    assert picture.attrib["width"] == "880" and "prefers-color-scheme:dark" in text
    marks = [g.attrib["class"] for g in picture.iter("{http://www.w3.org/2000/svg}g")]
    assert marks[:6] == ["yes", "yes", "no", "open", "far", "none"] and len(marks) == 6 + len(EVIL) + 5
    assert not re.search(r"href|url\(|<script", text)


@pytest.mark.parametrize(("tex", "drawn"), [
    (r"c_{ij} = \alpha + \frac{M}{\beta}", True), (r"a \le b", True), (r"\operatorname{argmin}_x f(x)", True),
    (r"\frac12 \lVert x \rVert", True), (r"\begin{aligned}a\end{aligned}", False), (r"\nosuch{<b>}", False), ("", False),
])  # fmt: skip
def test_formulas(tex: str, drawn: bool) -> None:
    html = str(formula(tex))
    assert html.startswith("<svg" if drawn else "<code") and "<b>" not in html
    assert "nan" not in html and formula(tex) == html
