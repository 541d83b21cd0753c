"""llama.cpp as a dense peer: an engine's own weights in a GGUF file, decoded a token at a time by the library inside xllamacpp.

Of the architectures that llama.cpp knows GPT-2 is the one with OPT's block: norms before, heads that all have keys of their own,
an MLP of two matrices. It has GELU where OPT has ReLU, which costs nothing beside the weights. The library is called in this
process, on the thread that is timed; a vocabulary of a few rows keeps embeddings and output layer out, as in the other arms.
"""

import ctypes
import os
import platform
import weakref
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sheaf.common.data import cache_dir
from sheaf.dejavu.engine import Engine

__all__ = ["ROOM", "TESTED", "LlamaCpp", "library", "missing", "reference", "write"]

TESTED = "2026.10.11549"  # another release may lay out its structures differently: it is not called
ROOM = 2e9  # bytes that weights may take a second time; a notebook has 8 GB
_N_CTX, _LOAD_MODE, _READ = 0, 6, 0  # 32-bit words in the structures of parameters; read the file, rather than map it


def missing() -> str | None:
    """Why llama.cpp cannot be timed here, as a sentence; None when it can."""
    try:
        metadata.version("gguf")
        found = metadata.version("xllamacpp")
    except metadata.PackageNotFoundError as error:
        return f"llama.cpp is not timed: {error.name} is not installed (pip install -c constraints.txt xllamacpp gguf)."
    if found != TESTED:
        return f"llama.cpp is not timed: xllamacpp {found} is installed, and its interface is known for {TESTED} alone."
    if platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return "llama.cpp is not timed: its wheel needs a CPU with AVX2."
    return None


def write(path: Path, engine: Engine, tokens: Tensor, blocks: int, positions: int) -> None:
    """The first blocks of an engine as a GPT-2 of llama.cpp: matrices in the engine's type, all else in float32.

    Args:
        path: the GGUF file to write.
        engine: in float32, bfloat16 or float16, on the CPU, with ``copies``.
        tokens: what the tokens are embedded as, [n, d]; the output layer is the same. Positions are embedded as zeros.
        blocks: how many.
        positions: how many the model has.
    """
    import gguf

    d, config = engine.config.width, engine.config
    file = gguf.GGUFWriter(path, "gpt2")
    file.add_context_length(positions)
    file.add_embedding_length(d)
    file.add_block_count(blocks)
    file.add_feed_forward_length(config.ffn)
    file.add_head_count(config.heads)
    file.add_layer_norm_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("no_vocab")

    def add(name: str, value: Tensor, matrix: bool = False) -> None:
        if matrix and value.dtype == torch.bfloat16:
            file.add_tensor(name, value.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            file.add_tensor(name, (value if matrix else value.float()).numpy())

    def norm(name: str) -> None:
        add(f"{name}.weight", torch.ones(d))
        add(f"{name}.bias", torch.zeros(d))

    add("token_embd.weight", tokens)
    add("position_embd.weight", torch.zeros(positions, d))
    norm("output_norm")
    for i, w in enumerate(engine.blocks[:blocks]):
        assert w.wo is not None and w.w2 is not None
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        parts = {"attn_qkv": (w.wqkv.view(3 * d, d), w.bqkv.view(3 * d)), "attn_output": (w.wo, w.bo),
                 "ffn_up": (w.w1, w.b1), "ffn_down": (w.w2, w.b2)}  # fmt: skip
        for name, (weight, bias) in parts.items():
            add(f"blk.{i}.{name}.weight", weight, matrix=True)
            add(f"blk.{i}.{name}.bias", bias)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def reference(engine: Engine, tokens: Tensor, blocks: int) -> Tensor:
    """Logits that the model of `write` has after each of its tokens in turn, by torch in float32: [n, d] -> [n, n]."""
    n, d, config = len(tokens), engine.config.width, engine.config
    x = tokens.float()
    for w in engine.blocks[:blocks]:
        assert w.wo is not None and w.w2 is not None
        h = F.linear(F.layer_norm(x, (d,)), w.wqkv.view(3 * d, d).float(), w.bqkv.view(3 * d).float())
        q, k, v = h.view(n, 3, config.heads, config.head).permute(1, 2, 0, 3)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(n, d)
        x = x + F.linear(out, w.wo.float(), w.bo.float())
        h = F.gelu(F.linear(F.layer_norm(x, (d,)), w.w1.float(), w.b1.float()), approximate="tanh")
        x = x + F.linear(h, w.w2.float(), w.b2.float())
    return F.layer_norm(x, (d,)) @ tokens.float().T


class LlamaCpp:
    """A dense step by llama.cpp with an engine's weights, on one thread.

    It keeps its weights a second time. Where those of all blocks would take more than `ROOM`, it has fewer and a step goes
    through them ``passes`` times: as many bytes from memory, and what a pass costs beside its blocks is paid more than once.
    Its cache holds float16, the library's default.

    Args:
        engine: whose weights.
        tokens: the inputs of steps, [n, d].
        capacity: tokens of the cache; room for the further passes is added.

    Raises:
        RuntimeError: llama.cpp is missing, refuses the model, or computes something else than torch.
        ValueError: in `prompt` and `step`, more tokens than the cache has room for.
    """

    def __init__(self, engine: Engine, tokens: Tensor, capacity: int) -> None:
        if why := missing():
            raise RuntimeError(why)
        layers = engine.config.layers
        size = sum(t.nbytes for w in engine.blocks[:1] for t in (w.wqkv, w.wot, w.w1, w.w2t))
        self.blocks = max(n for n in range(1, layers + 1) if layers % n == 0 and (n == 1 or n * size <= ROOM))
        self.passes = layers // self.blocks
        self.vocab, self.length, self._prompt = len(tokens), 0, 0  # tokens in the cache, and how many are a prompt's
        self._c = library()
        parameters = self._c.llama_model_default_params()
        parameters.words[_LOAD_MODE] = _READ
        positions = self.capacity = capacity + self.passes * len(tokens)
        with TemporaryDirectory(dir=cache_dir("dejavu")) as folder:
            file = Path(folder) / "model.gguf"
            write(file, engine, tokens, self.blocks, positions)
            model = self._c.llama_model_load_from_file(os.fsencode(file), parameters)
        if not model:
            raise RuntimeError("llama.cpp refuses the model that was written for it; nothing was timed")
        parameters = self._c.llama_context_default_params()
        parameters.words[_N_CTX] = positions
        self._context = self._c.llama_init_from_model(model, parameters)
        weakref.finalize(self, _free, self._c, self._context, model)
        self._c.llama_set_n_threads(self._context, 1, len(os.sched_getaffinity(0)))  # of a step, and of a prompt
        self._memory = self._c.llama_get_memory(self._context)
        self._check(reference(engine, tokens, self.blocks))

    def prompt(self, length: int) -> None:
        """The state after a prompt of ``length`` tokens: what is beyond is forgotten, what lacks is read, by all cores."""
        keep = min(length, self._prompt)
        self._c.llama_memory_seq_rm(self._memory, 0, keep, -1)
        self.length = self._prompt = keep
        for start in range(keep, length, 512):
            self._decode([i % self.vocab for i in range(start, min(start + 512, length))])
        self._prompt = length

    def step(self, token: int) -> None:
        """One token through all blocks."""
        for _ in range(self.passes):
            self._decode([token])

    def logits(self) -> Tensor:
        """What followed the last token read, [n]."""
        found = self._c.llama_get_logits_ith(self._context, -1)
        return torch.tensor(found[: self.vocab])

    def _decode(self, tokens: list[int]) -> None:
        if self.length + len(tokens) > self.capacity:  # llama.cpp would end the process
            raise ValueError(f"{self.length} + {len(tokens)} tokens do not fit a cache of {self.capacity}; give more capacity")
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        if code := self._c.llama_decode(self._context, self._c.llama_batch_get_one(ids, len(ids))):
            raise RuntimeError(f"llama.cpp could not decode: code {code}")
        self.length += len(tokens)

    def _check(self, right: Tensor) -> None:
        for token, row in enumerate(right):
            self._decode([token])
            if not (self.logits() - row).norm() <= 1e-2 * row.norm():
                raise RuntimeError("llama.cpp's step and torch's give different results; nothing was timed")
        self.prompt(0)


# ------------------------------------------------------------------------------------------------------- the C interface


class _Parameters(ctypes.Structure):
    """Parameters of a model or a context, whose defaults the library fills in: more than either takes."""

    _fields_ = [("words", ctypes.c_int32 * 128)]


class _Batch(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int32), *((name, ctypes.c_void_p) for name in ("ids", "rows", "at", "n_seq", "seq", "out"))]


def _signatures() -> Iterator[tuple[str, Any, list[Any]]]:
    integer, pointer = ctypes.c_int32, ctypes.c_void_p
    yield "llama_model_default_params", _Parameters, []
    yield "llama_context_default_params", _Parameters, []
    yield "llama_model_load_from_file", pointer, [ctypes.c_char_p, _Parameters]
    yield "llama_init_from_model", pointer, [pointer, _Parameters]
    yield "llama_set_n_threads", None, [pointer, integer, integer]
    yield "llama_get_memory", pointer, [pointer]
    yield "llama_memory_seq_rm", ctypes.c_bool, [pointer, integer, integer, integer]
    yield "llama_batch_get_one", _Batch, [pointer, integer]
    yield "llama_decode", integer, [pointer, _Batch]
    yield "llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, integer]
    yield "llama_free", None, [pointer]
    yield "llama_model_free", None, [pointer]
    yield "llama_log_set", None, [pointer, pointer]


def library() -> ctypes.CDLL:
    """The functions of llama.cpp that are called here; its log goes nowhere."""
    import xllamacpp

    found = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    for name, result, arguments in _signatures():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    found.llama_log_set(ctypes.cast(found.llama_time_us, ctypes.c_void_p), None)  # a function that does nothing with a message
    return found


def _free(c: ctypes.CDLL, context: int, model: int) -> None:
    c.llama_free(context)
    c.llama_model_free(model)
