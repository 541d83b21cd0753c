"""A project with records but no runs: one tame paper with every verdict, one whose every string is hostile."""

import base64
import json
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sheaf.artifact.promises import promises_file
from sheaf.artifact.record import digest, file_digest, merge, write_part
from sheaf.artifact.verdict import OUT_OF_REACH, judge

EVIL = (
    "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "\"><svg onload=window.pwned=1>",
    "'-window.pwned=1-'", "{{ 7*7 }}{% raw %}", "</style><script>window.pwned=1</script>", "javascript:window.pwned=1",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>", "<a href='javascript:window.pwned=1'>x</a>", "]]><!--",
)  # fmt: skip
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)

TOML = """
[paper]
id = "decentralized"
title = "Decentralized Training of Foundation Models in Heterogeneous Environments"
authors = ["B. Yuan", "Y. He", "J. Davis"]
venue = "NeurIPS"
year = 2022
arxiv = "2206.01288"
summary = "Where to put each stage of a model when the links between devices differ a hundredfold."
[paper.report]
scope = "Every figure of the main text, on a trace-driven simulator."
difficult = "The text of the appendix could not be had."
[[notebook]]
name = "01_network"
title = "Five networks"
[[notebook]]
name = "02_search"
title = "The search"
[[notebook]]
name = "03_live"
title = "A live check"
[profiles.smoke]
[profiles.laptop]
rounds = 4
[profiles.gpu]
[[table]]
id = "T1"
title = "Throughput per case"
where = "figure 3"
notebook = "01_network"
[[table]]
id = "T2"
title = "Two hundred rows"
where = "added"
notebook = "02_search"
[[table]]
id = "T3"
title = "Tensor parallel arm"
where = "table 4"
notebook = "03_live"
missing = "the paper gives no settings for it"
[[figure]]
id = "F1"
title = "Convergence of the search"
where = "figure 4"
notebook = "02_search"
"""
CLAIM = '[[claim]]\nid = "{}"\nsays = "{}"\nwhere = "{}"\nnotebook = "{}"\nunit = "{}"\nreproduced_if = "{}"\n{}\n'
CLAIMS = (
    # id, says, where, notebook, unit, criterion, more, samples
    ("C1", "scheduled training beats random placement in the world-wide case", "abstract", "01_network", "x", ">= 3.8",
     "published = 4.8", [4.2, 4.5, 4.4]),
    ("C2", "the search ends within two percent of the optimum", "section 4", "01_network", "%", "<= 2",
     "published = 1.1\nreported = 'memory'", [3.1, 3.4, 3.3]),
    ("C3", "a network a hundred times slower costs a factor of 1.7 to 3.5", "figure 3", "02_search", "x",
     "in [1.7, 3.5]", "published = '1.7 to 3.5x'", [3.2, 3.9, 3.4]),
    ("C4", "throughput at the paper's size", "figure 3", "02_search", "PFLOPS", "within 10% of 1.271",
     "published = 1.271\nprofiles = ['gpu']", []),
    ("C5", "the live order of placements is the model's order", "added", "03_live", "", "> 0", "published = 1", []),
    ("C6", "evaluations are much faster than plain Python", "added", "02_search", "x", ">= 300",
     "statistic = 'exact'", [5210.0, 6100.0]),
)  # fmt: skip

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="160" viewBox="0 0 400 160">'
    "<style>svg{color:#1f2329}@media(prefers-color-scheme:dark){svg{color:#e3e6ea}}</style>"
    '<path d="M20 140H380M20 140V20" stroke="currentColor" fill="none"/><path d="M20 30Q90 120 380 132" '
    'stroke="#0072B2" fill="none" stroke-width="2"/><text x="180" y="156" fill="currentColor">evaluations</text></svg>'
)
FACTS: dict[str, Any] = {
    "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "packages": {"torch": "2.13.0"},
    "python": "3.11.2", "cpu": "A processor", "gpu": None, "threads": 2, "cores": 2, "seed": 0,
    "settings": {"rounds": 4}, "data": {"data/decentralized/case1.csv": "ab" * 32}, "wall_s": 61.5, "cpu_s": 70.25,
    "peak_mb": 512, "started": "2026-01-02T03:03:04+00:00", "finished": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def notebook(path: Path, *extra: Any) -> None:
    """An executed notebook: a heading, formulas, code, a DataFrame, a picture, and what else is given."""
    cells = [
        new_markdown_cell(
            "# The network\nA link costs $c_{ij} = \\alpha_{ij} + M/\\beta_{ij}$, see [the search](02_search.ipynb), "
            "[nowhere](nowhere.md) and [the declaration](paper.toml).\n\n$$\\sum_{i=1}^{N} x_i \\le \\frac{1}{2}$$\n\n"
            "| a | b |\n|---|---|\n| 1 | 2 |\n"
        ),
        new_code_cell("profile = 'laptop'\nprint(profile)  # a comment", execution_count=1, outputs=[
            new_output("stream", name="stdout", text="laptop\n"),
        ]),
        new_code_cell("frame", execution_count=2, outputs=[
            new_output("execute_result", execution_count=2, data={
                "text/html": "<div><style scoped>.dataframe{color:red}</style><table border='1' class='dataframe'>"
                "<thead><tr style='text-align:right'><th></th><th>cost</th></tr></thead>"
                "<tbody><tr><th>0</th><td>1.5</td></tr></tbody></table></div>", "text/plain": "cost 1.5"}),
            new_output("display_data", data={"image/png": base64.b64encode(DOT).decode(), "text/plain": "<Figure>"}),
        ]),
        *extra,
    ]  # fmt: skip
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}), path)


def claim_entry(claim: tuple[Any, ...], profile: str, note: str = "") -> dict[str, Any]:
    """What Study records for a claim."""
    _, says, where, name, unit, criterion, more, samples = claim
    told = dict(line.split(" = ", 1) for line in more.splitlines())
    published = told.get("published")
    if published is not None:
        published = published.strip("'") if published.startswith("'") else float(published)
    statistic = told.get("statistic", "'mean'").strip("'")
    entry = {"kind": "claim", "notebook": name, "where": where, "title": "", "says": says, "unit": unit,
             "published": published, "reported": "memory" if "memory" in more else None, "statistic": statistic,
             "criterion": criterion, "note": note, "seeds": 0, "samples": samples}  # fmt: skip
    if "profiles" in more:
        return entry | {"verdict": OUT_OF_REACH, "why": f"this profile ({profile}) cannot test it; gpu can",
                        "measured": None, "low": None, "high": None, "n": 0, "method": ""}  # fmt: skip
    found = judge(samples, criterion, statistic)
    return entry | {"verdict": found.verdict, "why": found.why, "measured": found.measured, "low": found.low,
                    "high": found.high, "n": found.n, "method": found.method}  # fmt: skip


def stored(folder: Path, name: str, content: str) -> dict[str, Any]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return {"file": name, "sha256": file_digest(path)}


def tame(root: Path, profile: str = "laptop") -> None:
    """The paper `decentralized`: six claims of all five verdicts, tables, a figure, a notebook not run."""
    home = root / "notebooks" / "decentralized"
    home.mkdir(parents=True, exist_ok=True)
    claims = "".join(CLAIM.format(*claim[:7]) for claim in CLAIMS)
    (home / "paper.toml").write_text(TOML + claims, encoding="utf-8")
    folder = root / "results" / profile / "decentralized"
    cases = "".join(f"case {i},L{24 + 8 * j},{1.3 * i + j:.3f}\n" for i in range(1, 6) for j in range(3))
    long = "step," + ",".join(f"arm_{i}" for i in range(30)) + "\n"
    long += "".join(f"{i}," + ",".join(f"{i * j / 7:.4g}" for j in range(30)) + "\n" for i in range(200))
    head = {"kind": "table", "notebook": "01_network", "where": "figure 3", "title": "Throughput per case"}
    entries = {
        "T1": head | stored(folder, "tables/T1.csv", "case,setting,PFLOPS\n" + cases)
        | {"scale": "simulated, 64 devices", "note": "Simulator calibrated on case 1 only.",
           "published_file": stored(folder, "tables/T1.published.csv", "case,setting,PFLOPS\n" + cases)["file"]},
        **{c[0]: claim_entry(c, profile, "Three seeds." if c[0] == "C1" else "") for c in CLAIMS if c[3] == "01_network"},
    }  # fmt: skip
    write_part(folder, "decentralized", profile, "01_network", entries, FACTS)
    entries = {
        "T2": head | {"notebook": "02_search", "title": "Two hundred rows", "where": "added"}
        | stored(folder, "tables/T2.csv", long),
        "F1": {"kind": "figure", "notebook": "02_search", "where": "figure 4", "title": "Convergence of the search",
               "note": "Best cost so far; the band is the range of three repetitions."}
        | stored(folder, "figures/F1.svg", SVG),
        **{c[0]: claim_entry(c, profile) for c in CLAIMS if c[3] == "02_search"},
    }  # fmt: skip
    write_part(folder, "decentralized", profile, "02_search", entries, FACTS | {"wall_s": 140.0})
    for name in ("01_network", "02_search"):
        notebook(folder / "notebooks" / f"{name}.ipynb")
    merge("decentralized", profile, root)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def hostile(root: Path, profile: str = "laptop") -> None:
    """The paper `toy_hostile`: every free string of paper.toml, records, files and notebooks is an attack."""
    home = root / "notebooks" / "toy_hostile"
    home.mkdir(parents=True, exist_ok=True)
    everything = " ".join(EVIL)
    lines = [
        "[paper]", 'id = "toy_hostile"', f"title = {quoted(EVIL[0] + ' | evil')}", f"authors = [{quoted(EVIL[1])}]",
        f"venue = {quoted(EVIL[2])}", "year = 2020", f"arxiv = {quoted(EVIL[6])}", f"summary = {quoted(everything)}",
        "[paper.report]", f"{quoted(EVIL[1])} = {quoted(everything)}", "[[notebook]]", 'name = "01_evil"',
        f"title = {quoted(EVIL[0])}", "[profiles.smoke]", "[profiles.laptop]",
    ]  # fmt: skip
    for i, text in enumerate(EVIL):
        for kind in ("table", "figure"):
            lines += [f"[[{kind}]]", f'id = "{kind}.{i}"', f"title = {quoted(text)}", f"where = {quoted(text)}",
                      'notebook = "01_evil"']  # fmt: skip
        lines += ["[[claim]]", f'id = "claim.{i}"', f"says = {quoted(text)}", f"where = {quoted(text)}",
                  'notebook = "01_evil"', f"unit = {quoted(text)}", f"published = {quoted(text)}",
                  'reproduced_if = ">= 1"', 'statistic = "exact"']  # fmt: skip
    lines += ["[[table]]", 'id = "search"', 'title = "named like a control"', 'where = "x"', 'notebook = "01_evil"']
    (home / "paper.toml").write_text("\n".join(lines), encoding="utf-8")
    folder = root / "results" / profile / "toy_hostile"
    entries: dict[str, Any] = {}
    for i, text in enumerate(EVIL):
        name = text.replace("/", "_")
        rows = f'"{text.replace(chr(34), chr(34) * 2)}",b\n"{text.replace(chr(34), chr(34) * 2)}",1\n'
        base = {"notebook": "01_evil", "where": text, "title": text, "note": text, "scale": text}
        made = stored(folder, f"tables/{name}.csv", rows)
        entries[f"table.{i}"] = base | {"kind": "table", "published_file": made["file"]} | made
        drawn = SVG.replace("<path", "<script>parent.pwned=1;window.pwned=1</script><path", 1).replace(
            "<svg", "<svg onload='parent.pwned=1'"
        )
        entries[f"figure.{i}"] = base | {"kind": "figure"} | stored(folder, f"figures/{name}.svg", drawn)
        more = f"published = '{text}'\nstatistic = 'exact'"
        claim = claim_entry((f"claim.{i}", text, text, "01_evil", text, ">= 1", more, [2.0]), profile, note=text)
        entries[f"claim.{i}"] = claim | {"published": text, "why": text, "method": text}
    entries["search"] = {"kind": "table", "notebook": "01_evil", "where": "x", "title": "x", "missing": everything}
    facts = dict.fromkeys(FACTS, everything) | {"packages": {e: e for e in EVIL}, "data": {e: e for e in EVIL}}
    facts |= {"settings": {e: e for e in EVIL}, "wall_s": "NaN", "dirty": [], "finished": EVIL[0]}
    write_part(folder, "toy_hostile", profile, "01_evil", entries, facts)
    outputs = [
        new_output(
            "display_data", data={"text/html": everything + "<script src='https://evil.example/x.js'></script>"}
        ),
        new_output(
            "display_data", data={"image/svg+xml": SVG.replace("<path", "<script>parent.pwned=1</script><path")}
        ),
        new_output("display_data", data={"text/markdown": everything + "\n\n![x](https://evil.example/a.png)"}),
        new_output("display_data", data={"text/latex": f"${EVIL[0]}$"}),
        new_output("display_data", data={"application/javascript": "window.pwned=1", "text/plain": everything}),
        new_output("display_data", data={"application/javascript": "window.pwned=1"}),
        new_output("display_data", data={"image/png": '"><script>window.pwned=1</script>'}),
        new_output("display_data", data={"text/html": "<b>x</b>"}, metadata={"text/html": {"isolated": True}}),
        new_output("stream", name="stderr", text=everything + "\x1b[31mred\x1b[0m" + "x" * 100_000),
        new_output("error", ename=EVIL[0], evalue=EVIL[1], traceback=list(EVIL)),
    ]
    links = "".join(f"\n\n[l{i}]({target})" for i, target in enumerate(
        ("javascript:window.pwned=1", "data:text/html,<script>alert(1)</script>", "../../../../etc/passwd", "//evil.example/x",
         "https://example.org/fine", "http://[bad")))  # fmt: skip
    notebook(
        folder / "notebooks" / "01_evil.ipynb",
        new_markdown_cell(everything + links + "\n\n![p](https://evil.example/t.png)\n\n$\\unknown{" + EVIL[1] + "}$"),
        new_code_cell(everything, execution_count=3, outputs=outputs),
        nbformat.v4.new_raw_cell(everything),
    )
    merge("toy_hostile", profile, root)


PROMISE: dict[str, Any] = {
    "name": "kernel-death", "says": "A notebook whose kernel dies is reported as failed.", "tried_by": "SIGKILL in every cell",
    "tried": 1050, "failed": 0, "broken": [], "figures": {"slowest report, s": 2.345, "transport": "ipc"}, "seconds": 61.2,
}  # fmt: skip


def promised(root: Path, *promises: dict[str, Any], **changes: Any) -> Path:
    """Write a record of promises as `make prove` does, with ``changes`` to its own fields; by default one, kept."""
    body: dict[str, Any] = {"schema": 1, "provenance": FACTS, "promises": list(promises) or [PROMISE]} | changes
    body |= {"digest": digest(body)}
    file = promises_file(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body), encoding="utf-8")
    return file


def broken_promise(name: str, *what: str, failed: int = 0) -> dict[str, Any]:
    """A promise that ``what`` broke, its words as given everywhere."""
    said = " ".join(what)
    count = {"tried": 500, "failed": failed or len(what), "broken": list(what), "figures": dict.fromkeys(what, said)}
    return PROMISE | {"name": name, "says": said, "tried_by": said} | count


def build_project(root: Path) -> Path:
    """Both papers in the laptop profile, the tame one in smoke as well, promises, a README with a place for the board."""
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\nname = 'toy'\n")
    (root / "README.md").write_text("# Toy\n\n<!-- scoreboard -->\nold\n<!-- /scoreboard -->\n\nafter\n")
    tame(root)
    tame(root, "smoke")
    hostile(root)
    promised(root, PROMISE, broken_promise("report", *EVIL, failed=12))
    return root
