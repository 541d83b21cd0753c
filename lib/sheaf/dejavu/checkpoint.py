"""OPT checkpoints in the Hugging Face layout, read and written: config.json and safetensors or PyTorch weight files."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sheaf.dejavu.models import OPT, OPTConfig

__all__ = ["config_of", "load_checkpoint", "save_checkpoint"]

_BLOCK = {  # their name within a layer -> ours
    "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2", "self_attn.q_proj": "q", "self_attn.k_proj": "k",
    "self_attn.v_proj": "v", "self_attn.out_proj": "out", "fc1": "up", "fc2": "down",
}  # fmt: skip
_TOP = {"embed_tokens.weight": "tokens.weight", "embed_positions.weight": "positions.weight",
        "final_layer_norm.weight": "norm.weight", "final_layer_norm.bias": "norm.bias"}  # fmt: skip
_TIED = "lm_head.weight"  # the same as the token embedding
_SIZES = {  # key of config.json -> the largest that is believed; OPT-175B has 12288, 96, 96, 50272, 2048 and 49152
    "hidden_size": 1 << 20, "num_hidden_layers": 1000, "num_attention_heads": 1 << 16, "vocab_size": 1 << 28,
    "max_position_embeddings": 1 << 28, "ffn_dim": 1 << 24,
}  # fmt: skip


def config_of(folder: Path) -> OPTConfig:
    """The shape of a checkpoint from its config.json.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is not an OPT of the supported form (pre-norm, biases, learned affine norms, a tied head, no projection).
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give the folder of an OPT checkpoint as Hugging Face lays it out")
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error}); download the checkpoint again") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{file}: not a JSON object; download the checkpoint again")
    wrong = [
        f"{key} is {raw.get(key, default)!r:.60}, not {wanted!r:.60}"
        for key, wanted, default in (
            ("model_type", "opt", None), ("do_layer_norm_before", True, True), ("enable_bias", True, True),
            ("layer_norm_elementwise_affine", True, True), ("tie_word_embeddings", True, True),
            ("_remove_final_layer_norm", False, False), ("word_embed_proj_dim", raw.get("hidden_size"), raw.get("hidden_size")),
        )
        if raw.get(key, default) != wanted
    ]  # fmt: skip
    if wrong:
        raise ValueError(f"{file}: {'; '.join(wrong)}; only pre-norm OPT models are read (every size but 350M)")
    for key, most in _SIZES.items():
        size = raw.get(key)
        if type(size) is not int or not 1 <= size <= most:
            raise ValueError(f"{file}: {key} is {size!r:.60}; it must be a whole number from 1 to {most}")
    activation = raw.get("activation_function", "relu")
    if not isinstance(activation, str):
        raise ValueError(f"{file}: activation_function is {activation!r:.60}; it must be a name")
    try:
        return OPTConfig(
            raw["hidden_size"], raw["num_hidden_layers"], raw["num_attention_heads"], raw["vocab_size"],
            raw["max_position_embeddings"], raw["ffn_dim"], activation,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def load_checkpoint(folder: str | Path, dtype: torch.dtype = torch.float32) -> OPT:
    """The model of a local Hugging Face OPT folder, in evaluation mode without gradients.

    Args:
        folder: holds config.json and ``*.safetensors``, or ``pytorch_model*.bin`` (read as plain tensors, never as code).
        dtype: of the weights in memory.

    Raises:
        FileNotFoundError: no config or no weights there.
        ValueError: weights are missing, not known, or of another shape than the config says.
    """
    folder = Path(folder)
    with torch.device("meta"):
        model = OPT(config_of(folder), seed=None)
    wanted, found = model.state_dict(), {}
    for name, tensor in _tensors(folder):
        ours = _our_name(name)
        if ours is None:
            continue
        if ours not in wanted:
            raise ValueError(f"{folder}: {name} is no weight of an OPT model; is config.json of the same checkpoint?")
        if tensor.shape != wanted[ours].shape:
            raise ValueError(f"{folder}: {name} is {tuple(tensor.shape)}, config.json says {tuple(wanted[ours].shape)}")
        found[ours] = tensor.to(dtype)
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"{folder}: {len(missing)} weights are missing, among them {missing[0]}; download the checkpoint again")
    model.load_state_dict(found, assign=True)
    return model.eval().requires_grad_(False)


def save_checkpoint(model: OPT, folder: str | Path) -> None:
    """Write a model in the same layout, so that other tools can read it."""
    from safetensors.torch import save_file

    folder, config = Path(folder), model.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_their_name(name): t.detach().contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": config.width,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "vocab_size": config.vocab,
        "max_position_embeddings": config.context, "ffn_dim": config.ffn, "activation_function": config.activation,
        "word_embed_proj_dim": config.width, "do_layer_norm_before": True, "enable_bias": True, "tie_word_embeddings": True,
        "layer_norm_elementwise_affine": True, "dropout": 0.0, "attention_dropout": 0.0,
    }, indent=1))  # fmt: skip


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    read = _safetensors if files else _pickled
    files = files or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin; download the weights")
    for file in files:
        yield from read(file)


def _safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  a handle, not a dictionary
                yield name, opened.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{file}: not a safetensors file ({error}); download it again") from None


def _pickled(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Weights from a PyTorch file, read as plain tensors: what asks to run code is refused, and never run."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        why = str(error).partition("\n")[0][:200]
        raise ValueError(f"{file}: not a file of plain tensors ({type(error).__name__}: {why}); download it again") from None
    if not isinstance(held, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in held.items()):
        raise ValueError(f"{file}: not a dictionary of tensors by name; is it a checkpoint of weights?")
    yield from held.items()


def _our_name(name: str) -> str | None:
    """Our name of a weight; None for one that repeats another."""
    short = name.removeprefix("model.").removeprefix("decoder.")
    if short == _TIED:
        return None
    if short in _TOP:
        return _TOP[short]
    parts = short.split(".")
    if len(parts) >= 4 and parts[0] == "layers" and (inner := ".".join(parts[2:-1])) in _BLOCK:
        return f"blocks.{parts[1]}.{_BLOCK[inner]}.{parts[-1]}"
    return name


def _their_name(name: str) -> str:
    for theirs, ours in _TOP.items():
        if ours == name:
            return f"model.decoder.{theirs}"
    _, layer, inner, kind = name.split(".")
    theirs = next(t for t, ours in _BLOCK.items() if ours == inner)
    return f"model.decoder.layers.{layer}.{theirs}.{kind}"
