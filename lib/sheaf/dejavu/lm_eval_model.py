"""A decoder of ours, dense, masked or reading only chosen rows, as a model class of lm-evaluation-harness (optional).

    from sheaf.dejavu.lm_eval_model import harness_model
    lm_eval.simple_evaluate(harness_model(model, encode, decode), tasks=[...], task_manager=...)

lm_eval is imported only here and only when asked for: ``pip install "lm-eval>=0.4"``.
"""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sheaf.dejavu.models import OPT
from sheaf.dejavu.sparsify import SparseOPT

HARNESS = "lm_eval.api.model"  # not among the project's dependencies

__all__ = ["Scorer", "harness_model", "write_tasks"]


class Scorer:
    """Log-likelihoods and continuations of token ids, by a dense or masked pass, or token by token by a sparse decoder.

    Args:
        model: an `OPT`, or what `sparsify` returned: then the context is read densely and every later token sparsely.
        tap: makes a fresh tap for a dense model's pass, so that masks can be evaluated; None for none.
    """

    def __init__(self, model: OPT | SparseOPT, tap: Callable[[], Any] | None = None) -> None:
        if tap is not None and isinstance(model, SparseOPT):
            raise ValueError("a sparse decoder chooses its units itself; give masks to a dense model")
        self.model, self.tap = model, tap

    @torch.no_grad()
    def __call__(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Log-probability of a continuation in nats, and whether it is what the model would have said.

        Raises:
            ValueError: an empty context or continuation.
        """
        if not context or not continuation:
            raise ValueError("scoring needs at least one token of context and one of continuation")
        room = self.model.config.context
        ids = torch.tensor([[*context, *continuation][-room:]])
        start = ids.shape[1] - len(continuation)
        if start < 1:
            raise ValueError(f"a continuation of {len(continuation)} tokens leaves no room for context in {room}")
        logits = self._logits(ids, start)
        logprobs = logits.log_softmax(-1).gather(-1, ids[0, start:, None])
        return float(logprobs.sum()), bool((logits.argmax(-1) == ids[0, start:]).all())

    def _logits(self, ids: Tensor, start: int) -> Tensor:
        """Logits that predict the tokens from ``start`` on, [n, vocab]."""
        if isinstance(self.model, SparseOPT):
            rows = [self.model.prefill(ids[:, :start], ids.shape[1])]
            rows += [self.model.step(ids[:, t]) for t in range(start, ids.shape[1] - 1)]
            return torch.cat(rows)
        options = {} if self.tap is None else {"tap": self.tap()}
        return self.model(ids, **options)[0, start - 1 : -1]

    @torch.no_grad()
    def generate(self, context: Sequence[int], tokens: int, stop: Callable[[list[int]], bool]) -> list[int]:
        """The most likely continuation, until ``stop`` of what was said is true or there is no room."""
        room, said = self.model.config.context, list[int]()
        ids = list(context)[-(room - 1) :]
        logits = self._next(ids, None)
        while len(said) < tokens and len(ids) < room:
            said.append(int(logits.argmax()))
            ids.append(said[-1])
            if stop(said):
                break
            if len(ids) < room:
                logits = self._next(ids, said[-1])
        return said

    def _next(self, ids: list[int], last: int | None) -> Tensor:
        """Logits after a text, [1, vocab]; a sparse decoder goes on from the ``last`` token it has not seen."""
        if isinstance(self.model, SparseOPT):
            return self.model.prefill(torch.tensor([ids])) if last is None else self.model.step(torch.tensor([last]))
        options = {} if self.tap is None else {"tap": self.tap()}
        return self.model(torch.tensor([ids]), **options)[:, -1]


def harness_model(
    model: OPT | SparseOPT, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str],
    *, tap: Callable[[], Any] | None = None, prefix: int = 0, between: str = " ",
) -> Any:  # fmt: skip
    """An ``lm_eval.api.model.LM`` around a model and its tokenizer, for ``lm_eval.simple_evaluate``.

    Args:
        model, tap: of `Scorer`.
        encode, decode: text -> ids and back, such as a Corpus or a Hugging Face tokenizer gives.
        prefix: token put before a text that has no context.
        between: what joins a text and what was generated after it.

    Raises:
        ModuleNotFoundError: lm_eval is not installed.
    """
    try:
        base = importlib.import_module(HARNESS).LM
    except ModuleNotFoundError:
        raise ModuleNotFoundError('lm_eval is not installed; run: pip install "lm-eval>=0.4"') from None
    scorer = Scorer(model, tap)

    class HarnessModel(base):  # type: ignore[misc,valid-type]
        """One request at a time; batch size 1 is the case of the paper."""

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [scorer(encode(r.args[0]) or [prefix], encode(r.args[1])) for r in requests]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return [self._whole(encode(r.args[0])) for r in requests]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [self._until(*r.args) for r in requests]

        def _whole(self, ids: list[int]) -> float:
            """Log-probability of a text cut into windows, every token scored once."""
            room = model.config.context
            ids, total, at = [prefix, *ids], 0.0, 1
            while at < len(ids):
                end = min(len(ids), at + room - 1 if at == 1 else at + room // 2)
                total += scorer(ids[max(0, end - room) : at], ids[at:end])[0]
                at = end
            return total

        def _until(self, text: str, options: dict[str, Any]) -> str:
            stops = options.get("until") or []
            stops = [stops] if isinstance(stops, str) else stops

            def done(said: list[int]) -> bool:
                return any(s and s in decode(said) + between for s in stops)

            said = decode(scorer.generate(encode(text) or [prefix], int(options.get("max_gen_toks", 32)), done))
            for stop in stops:
                said = said.split(stop.strip() or stop)[0] if stop else said
            return said

    return HarnessModel()


def write_tasks(folder: Any, questions: dict[str, Sequence[Any]]) -> list[str]:
    """Multiple-choice questions as local files that lm_eval reads: a JSON-lines file and a YAML file a task; their names.

    Args:
        folder: an existing folder, for ``lm_eval.tasks.TaskManager(include_path=folder)``.
        questions: task -> items with ``context``, ``choices`` and ``answer``.
    """
    folder, names = Path(folder), []
    for task, items in questions.items():
        name = f"sheaf_{task}"
        file = folder / f"{name}.jsonl"
        rows = [{"context": i.context, "choices": list(i.choices), "answer": i.answer} for i in items]
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        (folder / f"{name}.yaml").write_text(json.dumps({  # JSON is YAML
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}", "target_delimiter": " ", "metric_list": [{"metric": "acc"}],
        }), encoding="utf-8")  # fmt: skip
        names.append(name)
    return names
