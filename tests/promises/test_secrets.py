"""Secrets: canary tokens in the environment, in addresses and in settings, printed in every way, are nowhere in what stays."""

import base64
import html
import json
import os
import urllib.parse as url
from pathlib import Path

import pytest
from drive import command
from ledger import Promise
from toy_project import Toy, build

from sheaf.artifact.scrub import find_leaks, scrub_text, secret_settings, secret_values

pytestmark = pytest.mark.promise(
    "secrets", "Keys, tokens and passwords that a notebook prints, raises or stores are in no file of a run and on no screen.",
    "canaries in variables, addresses and settings; print, repr, JSON, HTML, tracebacks, child processes, replies of a model",
)  # fmt: skip

MARK = "cnry"  # stands in every canary: any part of one that stays is found
CANARIES = {
    "OPENAI_API_KEY": "sk-cnry-6d1f0b7c2a9e4d85b3",
    "HF_TOKEN": "cnry\"quote'<&>\\back/5f1c%20é+=",
    "DB_PASSWD": "cnry-passwd-81f2c0",
    "AWS_SECRET_ACCESS_KEY": "cnry/AwS+secret/0123456789",
    "REGISTRY_CREDENTIALS": "user:cnry-registry-77",
    "GITHUB_PAT": "cnry-pat-5520ab71",
    "DEPLOY_PRIVATE_KEY": "-----BEGIN KEY-----\ncnrylineoneaaaaaaaaaaaaa\ncnrylinetwobbbbbbbbbbbbb\n-----END KEY-----",
    "DATABASE_URL": "postgresql://reader:cnry-url%2Fpass-99@db.example/x",
    "WEBHOOK": "https://hooks.example/v1?channel=a&access_token=cnry-query-4411",
    "OPENAI_BASE_URL": "https://u:cnry-base-0a9b@models.example/v1",
}
ENCODED = [base64.b64encode(v.encode()).decode().rstrip("=") for v in CANARIES.values() if "://" not in v]
ALL = f"[(k, os.environ[k]) for k in {sorted(CANARIES)!r}]"
START = f"import base64, html, json, logging, os, subprocess, sys, urllib.parse, warnings\nALL = {ALL}"
PRINTS = {
    "print": "for k, v in ALL: print(k, v)",
    "repr": "print(ALL); print(dict(ALL)); print(os.environ)",
    "JSON": "print(json.dumps(dict(ALL))); print(json.dumps(dict(ALL), ensure_ascii=False))",
    "HTML": "from IPython.display import HTML, display\nfor k, v in ALL: display(HTML(f'<p>{html.escape(v)}</p><p>{v}</p>'))",
    "address": "for k, v in ALL: print(urllib.parse.quote(v), urllib.parse.quote_plus(v))",
    "base64": "for k, v in ALL: print('Basic', base64.b64encode(v.encode()).decode())",
    "parts of an address": "for k, v in ALL: print((p := urllib.parse.urlsplit(v)).password, urllib.parse.parse_qs(p.query))",
    "stderr": "for k, v in ALL: print(k, v, file=sys.stderr)",
    "logging": "logging.warning('%s', ALL)\nwarnings.warn(str(dict(ALL)))",
    "a child": "print(subprocess.run(['env'], capture_output=True, text=True).stdout)\nsubprocess.run(['env'])",
    "lines": "for k, v in ALL:\n    for line in v.splitlines(): print(line)",
    "a value": "dict(ALL)",
    "JSON output": "display({'application/json': {v: k for k, v in ALL} | dict(ALL), 'text/plain': 'x'}, raw=True)",
    "SVG": "display({'image/svg+xml': '<svg><text>' + html.escape(str(ALL)) + '</text></svg>'}, raw=True)",
    "a progress bar": "for k, v in ALL: list(study.progress([1], v))",
    "a reply": (
        "from sheaf.common.data import cache_dir\nfrom sheaf.common.fm import Client, Request\n"
        "from sheaf.common.fm.fake_server import FakeServer, Fault\n"
        "key = os.environ['OPENAI_API_KEY']\n"
        "with FakeServer(lambda b: f'your key is {key}') as server, Client('m', server.url, key, cache=cache_dir('fm')) as c:\n"
        "    print(c.ask(Request('', ['hello'])), c)\n"
        "with FakeServer(lambda body: Fault('status', 401, text=f'no such key: {key}')) as server:\n"
        "    with Client('m', server.url, key, cache=cache_dir('fm')) as c:\n"
        "        try: c.ask(Request('', ['again']))\n        except Exception as e: print(repr(e), e)"
    ),
}  # fmt: skip


def leaky(root: Path) -> Toy:
    """A project whose notebooks do with the canaries whatever can be done: print, raise, write into a table, declare."""
    toy = build(root)
    toy.paper("toy_a", ["01_first", "02_second"], timeout=240)
    toml = toy.root / "notebooks/toy_a/paper.toml"
    toml.write_text(
        toml.read_text().replace("timeout = 240\n", 'timeout = 240\nenvironment = ["OPENAI_BASE_URL", "WEBHOOK"]\n')
    )
    toy.good("toy_a", "01_first")
    path = toy.root / "notebooks/toy_a/01_first.ipynb"
    nb = json.loads(path.read_text())
    shown = nb["cells"].index(nb["cells"][-1])
    for k, source in enumerate([START, *PRINTS.values()]):
        new = dict(nb["cells"][2], id=f"leak-{k}", source=source)
        nb["cells"].insert(shown + k, new)
    path.write_text(json.dumps(nb))
    toy.good("toy_a", "02_second", START, "raise RuntimeError(f'could not log in with {ALL} and {dict(ALL)!r}')")
    toy.paper("toy_b", ["01_only", "02_setting"], timeout=240)
    toy.good("toy_b", "01_only")
    toy.good("toy_b", "02_setting", module="sheaf.toy_b.only")
    toy.paper("toy_c", ["01_table"], timeout=240)
    path = toy.good("toy_c", "01_table", START, module="sheaf.toy_b.only")
    nb = json.loads(path.read_text())
    nb["cells"][4]["source"] = 'value = 3\nstudy.table("T01", pd.DataFrame({"count": [v for k, v in ALL]}))'
    path.write_text(json.dumps(nb))
    toml = toy.root / "notebooks/toy_b/paper.toml"
    declared = '[profiles.laptop]\nrounds = 4\n[profiles.laptop.02_setting]\nservice_password = "cnry-declared-1"\n'
    toml.write_text(toml.read_text().replace("[profiles.laptop]\nrounds = 4\n", declared))
    return toy


def holding(root: Path, but: str) -> dict[str, list[str]]:
    """Files below a folder that hold a part of a canary, with the lines; the declaration ``but`` aside."""
    found = {}
    for file in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        name = file.relative_to(root).as_posix()
        if name.split("/")[0] in ("lib", "kernels") or name == but:
            continue
        text = file.read_bytes().decode("utf-8", "replace")
        if MARK in text or any(form in text for form in ENCODED):
            found[name] = [line.strip()[:160] for line in text.splitlines() if MARK in line][:3]
    return found


PLACES = {  # where a run leaves something -> files of it
    "executed notebooks": "results/*/*/notebooks/*", "records": "results/**/*.json", "tables": "results/**/*.csv",
    "pages": "results/**/*.html", "failed notebooks": ".sheaf/failed/**/*", "logs": ".sheaf/logs/**/*",
    "heartbeats": ".sheaf/heartbeat/**/*", "manifests": ".sheaf/manifests/**/*", "done": ".sheaf/done/**/*",
    "caches": ".sheaf/cache/**/*", "Snakemake's own": ".snakemake/**/*",
}  # fmt: skip


@pytest.mark.slow
def test_nothing_that_a_run_leaves_holds_a_canary(promise: Promise, tmp_path: Path) -> None:
    toy = leaky(tmp_path / "project")
    done = toy.sheaf("reproduce", "--jobs", "2", timeout=280, **CANARIES)
    promise.trial(done.returncode == 1, f"three of the notebooks fail: exit code {done.returncode}")
    kept = toy.results("toy_a", "laptop") / "notebooks/01_first.ipynb"
    promise.trial(kept.is_file(), f"the one that only prints is kept: {done.stdout[-800:]}")
    why = toy.sheaf("why", **(CANARIES | {"OPENAI_BASE_URL": "https://u:cnry-other-12@models.example/v1"}))
    rest = [toy.sheaf(word, **CANARIES) for word in ("status", "report", "check", "data")]
    for name, said in (
        ("reproduce", done),
        ("why", why),
        *zip(("status", "report", "check", "data"), rest, strict=True),
    ):
        text = said.stdout + said.stderr
        promise.trial(
            MARK not in text, f"`sheaf {name}` shows {[line for line in text.splitlines() if MARK in line][:2]}"
        )
    held = holding(toy.root, "notebooks/toy_b/paper.toml")
    for place, pattern in PLACES.items():
        files = {p.relative_to(toy.root).as_posix() for p in toy.root.glob(pattern) if p.is_file()}
        promise.trial(not files & held.keys(), f"{place}: {[(f, held[f]) for f in sorted(files & held.keys())][:2]}")
        held = {f: lines for f, lines in held.items() if f not in files}
    promise.trial(not held, f"elsewhere: {list(held.items())[:3]}")
    for failed, reason in (("toy_a/02_second", "raised RuntimeError"), ("toy_c/01_table", "holds a secret"),
                           ("toy_b/02_setting", "named like a secret")):  # fmt: skip
        told = [line for line in done.stdout.splitlines() if f"{failed} failed" in line and reason in line]
        promise.trial(bool(told), f"{failed} fails because it {reason}: {done.stdout[-600:]}")


@pytest.mark.slow
def test_no_stored_output_holds_a_canary(promise: Promise, tmp_path: Path) -> None:
    """`sheaf store`: notebooks that go into the repository. Its kernels do not get the variables that name a secret."""
    toy = leaky(tmp_path / "project")
    for paper, name in (("toy_a", "01_first"), ("toy_a", "02_second")):
        path = toy.root / "notebooks" / paper / f"{name}.ipynb"
        text = path.read_text().replace("os.environ[k]", "os.environ.get(k, '')")
        path.write_text(text.replace("os.environ['OPENAI_API_KEY']", "'x' * 9"))
    said = toy.sheaf("store", "toy_a", timeout=280, **CANARIES)
    text = said.stdout + said.stderr
    promise.trial(MARK not in text, f"`sheaf store` shows {[line for line in text.splitlines() if MARK in line][:2]}")
    promise.trial("01_first.ipynb: written" in text, f"the one that only prints is stored: {text[-500:]}")
    held = holding(toy.root, "notebooks/toy_b/paper.toml")
    promise.trial(not held, f"{list(held.items())[:3]}")


@pytest.mark.parametrize("name", CANARIES)
def test_every_spelling_of_a_canary_is_taken_out(promise: Promise, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = CANARIES[name]
    monkeypatch.setenv(name, value)
    shown = url.urlsplit(value)
    secret = shown.password or (url.parse_qs(shown.query).get("access_token") or [value])[0]
    spelt = [
        secret, repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False), html.escape(secret), url.quote(secret),
        url.quote_plus(secret), f"x{secret}y", f"https://a:{url.quote(secret, safe='')}@h/",
    ]  # fmt: skip
    if shown.scheme:
        spelt.append(url.unquote(secret))
    else:
        spelt += [base64.b64encode(value.encode()).decode(), base64.urlsafe_b64encode(value.encode()).decode()]
        spelt += [line for line in value.splitlines() if MARK in line]
    root = Path("/srv/project")
    for text in spelt:
        clean = scrub_text(f"before {text} after", root)
        gone = MARK not in clean and not any(form in clean for form in ENCODED)
        promise.trial(gone and bool(find_leaks(text, root)), f"{name} as {text!r}: {clean!r}")


def test_settings_and_names_that_speak_of_a_secret(promise: Promise, tmp_path: Path) -> None:
    for settings, found in (
        ({"api_key": "cnry-0123456"}, ["api_key"]), ({"a": {"db_password": "cnry-0123456"}}, ["a.db_password"]),
        ({"tokens": 64, "key": "short", "password": None, "keys": ["a"]}, []), ({}, []), (None, []),
    ):  # fmt: skip
        promise.trial(secret_settings(settings) == found, f"{settings}")
    ordinary = {
        "PWD": "/srv/x/y/zzzz",
        "PATH": "/usr/bin:/bin",
        "COMPASS_X": "northwards",
        "SSH_AUTH_SOCK": "/run/agent.1",
    }
    for name, value in ordinary.items():
        at = {k: v for k, v in os.environ.items() if k != name}
        promise.trial(value not in secret_values(at | {name: value}), f"{name} is no secret")
    promise.trial(MARK not in command(tmp_path, "status", **CANARIES).text, "an error before anything runs")
