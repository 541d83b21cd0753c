"""Bad files and replies: parsers of what comes from elsewhere, fuzzed; they refuse with their own error, which names the file."""

import io
import json
import stat
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drive import REPO, command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from ledger import Promise
from malformed import BYTES, VALUES, mutated, places
from safetensors.torch import save_file
from watch import writes

from sheaf.common.fm import Backoff, Client, FMError, Request
from sheaf.common.fm.budget import Budget, Ledger, Spent
from sheaf.common.fm.cache import Cache
from sheaf.common.fm.fake_server import FakeServer, Fault
from sheaf.common.fm.request import Answer, Usage
from sheaf.common.fm.schema import fit
from sheaf.decentralized.network import Network
from sheaf.dejavu.checkpoint import load_checkpoint, save_checkpoint
from sheaf.dejavu.models import OPT, OPTConfig
from sheaf.laughing_hyena.modal import ModalFilters
from sheaf.wonderbread import dsl, lines
from sheaf.wonderbread.importer import main as importer
from sheaf.wonderbread.systems import fm, text
from sheaf.wonderbread.trace import TraceError, elements, parse_trace, target

sys.path.insert(0, str(REPO / "tests" / "wonderbread"))
from demo_factory import raw_trace, write_demo

pytestmark = [
    pytest.mark.promise(
        "bad-input",
        "Whatever is malformed is named in one sentence, with its file and field; nothing is written elsewhere.",
        "values no file should hold at every place of declarations, notebooks, records, tables, matrices, traces, "
        "checkpoints, archives and replies; damaged bytes; links, bombs and pickles",
    ),
    pytest.mark.filterwarnings("ignore"),
]
REFUSED = (ValueError, FileNotFoundError)


def fuzz(
    promise: Promise, full: int, fast: int, **strategies: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], None]:
    """Run a function on generated arguments, each a trial; hypothesis shrinks what breaks it."""

    def run(check: Callable[..., None]) -> None:
        found: list[str] = []

        @settings(
            max_examples=promise.size(full, fast),
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(**strategies)
        def tried(**given_: Any) -> None:
            promise.tried += 1
            check(**given_)

        try:
            tried()
        except BaseException as error:
            found.append(f"{check.__name__}: {type(error).__name__}: {str(error)[:300]}")
        promise.broken.extend(found)

    return run


def refuses(read: Callable[[], Any], *names: str, errors: tuple[type[Exception], ...] = REFUSED) -> None:
    """Reading gives something, or one of the parser's own errors that holds every one of ``names``."""
    try:
        read()
    except errors as error:
        missing = [name for name in names if name not in str(error)]
        assert not missing, f"{type(error).__name__} does not name {missing}: {error}"


# ---- matrices

CELL = st.sampled_from(
    ["0", "1", "-1", "1e400", "nan", "inf", "", " ", "x", "1_0", "0x1", "½", "1;2", "\0", '"', "1e-320", "٣"]
)
TABLE = st.lists(st.lists(CELL, max_size=4).map(",".join), max_size=4).map("\n".join)


def test_matrices(promise: Promise, tmp_path: Path) -> None:
    delay, bandwidth, regions = (tmp_path / f"{name}.csv" for name in ("delay_ms", "bandwidth_gbps", "regions"))
    good = {delay: "0,1\n1,0\n", bandwidth: "1,2\n2,1\n", regions: "device,region\n0,a\n1,b\n"}

    def write(**spoilt: bytes) -> None:
        for file, content in good.items():
            file.write_bytes(spoilt.get(file.stem, content.encode()))

    def matrix(content: str | bytes, which: Path) -> None:
        write(**{which.stem: content if isinstance(content, bytes) else content.encode()})
        refuses(lambda: Network.from_csv(delay, bandwidth, regions), which.stem.partition("_")[0])

    fuzz(promise, 400, 40, content=TABLE | st.binary(max_size=40), which=st.sampled_from([delay, bandwidth]))(matrix)

    def table(content: str | bytes) -> None:
        write(regions=content if isinstance(content, bytes) else b"device,region\n" + content.encode())
        refuses(lambda: Network.from_csv(delay, bandwidth, regions), "region")

    fuzz(promise, 200, 20, content=TABLE | st.binary(max_size=40))(table)
    for name, data in BYTES.items():
        for which in (delay, bandwidth, regions):
            with promise.attempt(f"{which.name}: {name}"):
                write(**{which.stem: data})
                refuses(
                    lambda: Network.from_csv(delay, bandwidth, regions), which.stem.partition("_")[0].removesuffix("s")
                )


# ---- traces, procedures, archives

JSON = st.recursive(
    st.sampled_from(list(VALUES.values())) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def test_traces(promise: Promise) -> None:
    sound = raw_trace(3)

    def readers(raw: str | bytes) -> None:
        try:
            trace = parse_trace(raw)
            for item in trace.trace:
                if item.type == "action":
                    dsl.describe(item), dsl.typed_text(item, apply_backspaces=True), target(item)
                else:
                    elements(item)
        except TraceError as error:
            assert str(error).strip() and len(str(error)) < 2000

    for at in places(sound):
        for name, value in list(VALUES.items())[:: promise.size(1, 9)]:
            with promise.attempt(f"trace, {name} at {'.'.join(map(str, at))}"):
                readers(json.dumps(mutated(sound, at, value)))
    for name, data in BYTES.items():
        with promise.attempt(f"trace bytes, {name}"):
            readers(data)

    def spoilt(at: tuple[Any, ...], value: Any) -> None:
        readers(json.dumps(mutated(sound, at, value)))

    fuzz(promise, 500, 40, at=st.sampled_from(list(places(sound))), value=JSON)(spoilt)
    fuzz(promise, 300, 30, raw=st.binary(max_size=60) | st.text(max_size=60))(readers)


def test_procedures(promise: Promise) -> None:
    """Texts of procedures, and keys as recorded: any text has lines, none is an error."""

    def procedure(words: str) -> None:
        title, steps = text.split_sop(words)
        assert all(s.strip() for s in steps)
        (
            text.join_sop(title, steps),
            text.quoted(words),
            text.slot_values(words),
            text.verbs(words),
            text.content_words(words),
        )
        for said in (False, True):
            lines.sop_lines(words, said), lines.sop_lines_audited(words, said)
        assert lines.unnumbered(words)["lines"] >= 0
        dsl.key_name(words)

    special = st.text("1.)*-–•'\"“” \n\r\t\\Aab\0\u2028", max_size=60)
    fuzz(promise, 800, 80, words=st.text(max_size=60) | special)(procedure)
    for name, value in VALUES.items():
        with promise.attempt(f"procedure, {name}"):
            procedure(str(value))


ONE = "7 @ 2024-01-01-10-00-00"


def archives(folder: Path) -> Iterator[tuple[str, Path]]:
    """(what it is, file or folder): archives and folders that no honest tool packs."""
    write_demo(folder / "sound", ONE)
    inside = sorted(p for p in (folder / "sound").rglob("*") if p.is_file())

    def packed(name: str, *more: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            for file in inside:
                archive.write(file, file.relative_to(folder / "sound"))
            for member, data in more:
                archive.writestr(member, data)
        return path

    def entry(name: str, mode: int) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        return info

    for k, name in enumerate(
        (
            "../evil",
            "../../evil",
            f"{ONE}/../../evil",
            "/etc/evil",
            "C:\\evil",
            "..\\evil",
            f"{ONE}/screenshots/../../x",
            f"{ONE}/a\0b.png",
            f"{ONE}/" + "x" * 300 + ".png",
            f"{ONE}/\ud800.png".encode("utf-8", "replace").decode(),
            f"{ONE}/screenshots/con.png",
            f"{ONE}/[raw] x.json",
            "\u202eevil",
            f"{ONE}/{ONE}.json/",
            ".",
        )
    ):
        yield f"member {name[:40]!r}", packed(f"member{k}", (name, b"x"))
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        yield (
            f"a member of kind {kind:o}",
            packed(f"kind{kind}", (entry(f"{ONE}/screenshots/7.png", kind | 0o777), b"/etc/passwd")),
        )
    yield "a bomb", packed("bomb", (f"{ONE}/screenshots/9.png", b"\0" * 40_000_000))
    yield (
        "a bomb in a trace",
        packed("bomb2", ("8 @ 2024-01-01-10-00-00/8 @ 2024-01-01-10-00-00.json", b"[" * 20_000_000)),
    )
    yield "many members", packed("many", *((f"{ONE}/{i}.txt", b"") for i in range(20_000)), method=zipfile.ZIP_STORED)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x", "y")
    yield "a zip in a zip", packed("nested", (f"{ONE}/inner.zip", inner.getvalue()))
    whole = packed("whole").read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 24)):
        (folder / f"flip{at}.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        yield f"byte {at} changed", folder / f"flip{at}.zip"
        (folder / f"cut{at}.zip").write_bytes(whole[:at])
        yield f"cut at {at}", folder / f"cut{at}.zip"
    lying = whole.replace(struct.pack("<L", inside[0].stat().st_size), struct.pack("<L", 2**31 - 1))
    (folder / "lying.zip").write_bytes(lying)
    yield "a stated size that lies", folder / "lying.zip"
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        archive.add(folder / "sound", "sound")
    yield "a tar", folder / "archive.tar.gz"
    for name, data in BYTES.items():
        (folder / f"bytes {name}.zip").write_bytes(data)
        yield f"bytes, {name}", folder / f"bytes {name}.zip"
        write_demo(folder / f"trace {name}", ONE)
        (folder / f"trace {name}" / ONE / f"{ONE}.json").write_bytes(data)
        yield f"trace, {name}", folder / f"trace {name}"
        write_demo(folder / f"sop {name}", ONE)
        (folder / f"sop {name}" / ONE / f"SOP - {ONE}.txt").write_bytes(data)
        (folder / f"sop {name}" / "df_rankings.csv").write_bytes(data)
        (folder / f"sop {name}" / ONE / "screenshots" / "0.png").write_bytes(data)
        yield f"procedure, ranks and picture, {name}", folder / f"sop {name}"
    linked = write_demo(folder / "linked", ONE)
    (linked / "screenshots" / "0.png").unlink()
    (linked / "screenshots" / "0.png").symlink_to("/etc/passwd")
    (folder / "linked" / "8 @ 2024-01-01-10-00-00").symlink_to("/etc")
    yield "links in a folder", folder / "linked"
    (folder / "loop").symlink_to(folder / "loop")
    yield "a link to itself", folder / "loop"


@pytest.mark.slow
def test_archives(promise: Promise, tmp_path: Path) -> None:
    every = list(archives(tmp_path / "in"))
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
    for what, path in every[:: promise.size(1, 6)]:
        with writes() as outside:
            said = command(tmp_path, str(path), run=importer)
        told = said.code == 0 or (said.code == 1 and (said.err.startswith("error: ") or "broken" in said.out))
        same = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")} == before
        kept = told and same and not said.bare and not outside
        promise.trial(kept, f"importer, {what}: exit {said.code}, {outside[:2]}, {said.text[-200:]!r}")


# ---- checkpoints, poles and residues


def small_checkpoint(folder: Path) -> None:
    save_checkpoint(
        OPT(OPTConfig(width=8, layers=1, heads=2, vocab=11, context=6, ffn=16, activation="relu"), seed=0), folder
    )


class Payload:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/sheaf-promise-payload", "w"))


def test_checkpoints(promise: Promise, tmp_path: Path) -> None:
    small_checkpoint(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    sound, whole = json.loads(config.read_text()), weights.read_bytes()
    load_checkpoint(tmp_path)

    def read() -> None:
        refuses(lambda: load_checkpoint(tmp_path), tmp_path.name)

    values = VALUES | {"a billion": 10**9, "one more": 9, "a fraction": 2.5}
    for key in sound:
        for name, value in values.items():
            with promise.attempt(f"config.json, {name} at {key}"):
                config.write_text(json.dumps(sound | {key: value}))
                read()
        with promise.attempt(f"config.json without {key}"):
            config.write_text(json.dumps({k: v for k, v in sound.items() if k != key}))
            read()
    for name, data in BYTES.items():
        with promise.attempt(f"config.json bytes, {name}"):
            config.write_bytes(data)
            read()
    config.write_text(json.dumps(sound))
    for name, data in BYTES.items():
        with promise.attempt(f"safetensors bytes, {name}"):
            weights.write_bytes(data)
            read()

    def damaged(at: int, byte: int, cut: bool) -> None:
        weights.write_bytes(whole[:at] if cut else whole[:at] + bytes([byte]) + whole[at + 1 :])
        read()

    fuzz(promise, 300, 30, at=st.integers(0, 700), byte=st.integers(0, 255), cut=st.booleans())(damaged)
    weights.unlink()
    pickles = {
        "a tensor": torch.zeros(2),
        "a list": [1],
        "code": Payload(),
        "strings": {"a": "b"},
        "other keys": {1: torch.zeros(1)},
    }
    for name, held in pickles.items():
        with promise.attempt(f"pytorch_model.bin, {name}"):
            torch.save(held, tmp_path / "pytorch_model.bin")
            read()
            assert not Path("/tmp/sheaf-promise-payload").exists(), "the pickle ran"
    for name, data in BYTES.items():
        with promise.attempt(f"pytorch_model.bin bytes, {name}"):
            (tmp_path / "pytorch_model.bin").write_bytes(data)
            read()


def test_poles_and_residues(promise: Promise, tmp_path: Path) -> None:
    file = tmp_path / "filters.safetensors"
    poles = torch.full((2, 3), 0.5 + 0.1j, dtype=torch.complex64)
    ModalFilters(poles, poles.clone(), torch.zeros(2)).save(file)
    whole = file.read_bytes()

    def read() -> None:
        refuses(lambda: ModalFilters.load(file), "filters.safetensors")

    for name, data in BYTES.items():
        with promise.attempt(f"filters bytes, {name}"):
            file.write_bytes(data)
            read()
    pairs = torch.zeros(2, 3, 2)
    for name, tensors in {
        "no pairs": {"poles": torch.zeros(2, 3), "residues": pairs, "h0": torch.zeros(2)},
        "integers": {"poles": pairs.long(), "residues": pairs, "h0": torch.zeros(2)},
        "other shapes": {"poles": pairs, "residues": torch.zeros(1, 3, 2), "h0": torch.zeros(2)},
        "empty": {"poles": torch.zeros(0, 3, 2), "residues": torch.zeros(0, 3, 2), "h0": torch.zeros(0)},
        "a scalar": {"poles": torch.tensor(1.0), "residues": pairs, "h0": torch.zeros(2)},
        "h0 missing": {"poles": pairs, "residues": pairs.clone()},
    }.items():
        for about in ({"convention": "shifted"}, {"convention": "unshifted"}, {}):
            with promise.attempt(f"filters, {name}, {about}"):
                save_file(tensors, file, about)
                read()

    def damaged(at: int, byte: int, cut: bool) -> None:
        at = min(at, len(whole) - 1)
        file.write_bytes(whole[:at] if cut else whole[:at] + bytes([byte]) + whole[at + 1 :])
        read()

    fuzz(promise, 300, 30, at=st.integers(0, 500), byte=st.integers(0, 255), cut=st.booleans())(damaged)


# ---- replies of a model, and what is kept of them

COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '{"steps": ["a"]}', "refusal": None},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


def test_bodies_of_replies(promise: Promise, tmp_path: Path) -> None:
    """Whatever an endpoint sends as a body: an answer, or an error of ours; and no answer makes the account smaller."""
    bodies = {
        f"{name} at {'.'.join(map(str, at))}": json.dumps(mutated(COMPLETION, at, value))
        for at in places(COMPLETION)
        for name, value in VALUES.items()
    }
    bodies |= {f"bytes, {name}": data.decode("utf-8", "replace") for name, data in BYTES.items()}
    bodies |= {
        f"{kind} tokens": json.dumps(mutated(COMPLETION, ("usage", "prompt_tokens"), kind))
        for kind in (-(10**9), 1e999, "7", 2.5)
    }
    chosen = list(bodies.items())[:: promise.size(1, 12)]
    sent = iter(chosen)
    budget = Budget(max_tokens=10**12)
    with FakeServer(lambda body: Fault("raw", text=next(sent)[1])) as server:
        options = {
            "cache": tmp_path / "cache",
            "budget": budget,
            "max_retries": 0,
            "reasks": 0,
            "backoff": Backoff(first=0.001, longest=0.002),
        }
        with Client("m", server.url, "k" * 12, **options) as client:
            for k, (what, _) in enumerate(chosen):
                before = client.spent().tokens
                with promise.attempt(f"reply, {what}"):
                    try:
                        client.ask(Request("", [f"question {k}"], fm.Procedure))
                    except FMError as error:
                        assert str(error).strip()
                    assert client.spent().tokens >= before, "the account became smaller"


def test_replies_against_their_schemas(promise: Promise) -> None:
    schemas = (fm.Procedure, fm.Spans, fm.Verdict, fm.Order, fm.AnswerText)
    sound = [
        '{"steps": ["a"]}',
        '{"spans": [{"workflow": "A", "first": 0, "last": 1}]}',
        '{"reason": "r", "yes": true}',
        '{"best_to_worst": [1, 2]}',
        '{"answer": "a"}',
    ]

    def reply(schema: Any, said: str) -> None:
        parsed, problem = fit(schema, said)
        assert (parsed is None) == (problem is not None) and len(problem or "") <= 500
        if isinstance(parsed, fm.Spans):
            assert len(fm.labels_of(parsed, 9)) == 9

    replies = st.text(max_size=60) | st.sampled_from(sound) | JSON.map(lambda v: json.dumps(v))
    spans = st.lists(
        st.fixed_dictionaries({"workflow": st.text(max_size=3), "first": st.integers(), "last": st.integers()}),
        max_size=4,
    )
    fuzz(
        promise, 500, 50, schema=st.sampled_from(schemas), said=replies | spans.map(lambda s: json.dumps({"spans": s}))
    )(reply)
    for name, data in BYTES.items():
        for schema in schemas:
            with promise.attempt(f"reply {name} as {schema.__name__}"):
                reply(schema, data.decode("utf-8", "replace"))


class Kept(RuleBasedStateMachine):
    """A cache and its ledger on a disk where files are damaged at any moment: what is read is what was put, or nothing."""

    folder: Path
    count = 0

    @initialize()
    def begin(self) -> None:
        Kept.count += 1
        self.cache = Cache(self.folder / str(Kept.count))
        self.put: dict[str, Answer] = {}
        self.file = self.folder / str(Kept.count) / "ledger.jsonl"
        self.ledger = Ledger(self.file)

    @rule(key=st.sampled_from(["a" * 64, "b" * 64]), said=st.text(max_size=20), tokens=st.integers(0, 10**9))
    def store(self, key: str, said: str, tokens: int) -> None:
        self.put[key] = Answer(said, "stop", "m", Usage(tokens, 1))
        self.cache.put(key, self.put[key])

    @rule(
        key=st.sampled_from(["a" * 64, "b" * 64]), at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.booleans()
    )
    def damage(self, key: str, at: int, byte: int, cut: bool) -> None:
        if (path := self.cache.path(key)).is_file():
            held = path.read_bytes()
            path.write_bytes(held[:at] if cut else held[:at] + bytes([byte]) + held[at + 1 :])

    @rule(key=st.sampled_from(["a" * 64, "b" * 64]), value=JSON)
    def replace(self, key: str, value: Any) -> None:
        path = self.cache.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    @rule(key=st.sampled_from(["a" * 64, "b" * 64]))
    def look(self, key: str) -> None:
        assert self.cache.get(key) in (None, self.put.get(key))

    @rule(tokens=st.integers(0, 1000))
    def pay(self, tokens: int) -> None:
        before = self.ledger.spent().tokens
        entry = self.ledger.reserve(Budget(), Spent(1, tokens, 0.0))
        self.ledger.settle(entry, Budget(), "answered", Spent(1, tokens, 0.0))
        assert self.ledger.spent().tokens == before + tokens

    @rule(
        junk=JSON.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=30),
        fields=st.fixed_dictionaries(dict.fromkeys(("id", "name", "outcome", "requests", "tokens", "usd"), JSON)),
        whole=st.booleans(),
    )
    def scribble(self, junk: bytes, fields: dict[str, Any], whole: bool) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as out:
            out.write(b"\n" + (json.dumps(fields).encode() if whole else junk) + b"\n")
        assert np.isfinite(self.ledger.spent().tokens)


@pytest.mark.slow
def test_cache_and_ledger_under_damage(promise: Promise, tmp_path: Path) -> None:
    Kept.folder = tmp_path
    examples = promise.size(200, 15)
    rules = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    with promise.attempt("cache and ledger under damage"):
        run_state_machine_as_test(Kept, settings=rules)
    promise.tried += examples - 1
