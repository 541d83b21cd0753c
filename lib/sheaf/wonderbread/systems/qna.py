"""Questions about recordings made here, with reference answers from what is known, and an answerer that only cuts out text.

The scores are overlap with the reference. They are not the paper's completeness and soundness, which need a judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sheaf.wonderbread.corpus import Corpus
from sheaf.wonderbread.metrics.qna import token_f1
from sheaf.wonderbread.systems.steps import acted_steps, realise
from sheaf.wonderbread.systems.text import content_words, split_sop
from sheaf.wonderbread.trace import Demo

__all__ = ["ANSWERERS", "Question", "overlap", "questions"]


@dataclass(frozen=True)
class Question:
    """A question of one of four kinds, modelled on the paper's.

    Attributes:
        kind: ``purpose`` or ``after`` (from a procedure), ``outcome`` (from a recording), ``efficiency`` (two recordings).
        evidence: lines that may be read to answer.
        reference: the right answer, from the procedure or from what the application's database says.
    """

    kind: str
    demo: str
    text: str
    evidence: tuple[str, ...]
    reference: str


def questions(corpus: Corpus) -> list[Question]:
    """Questions on every gold demonstration with a procedure of three lines or more."""
    found = []
    groups = corpus.by_task()
    for demo in corpus.gold():
        title, lines = split_sop(demo.sop or "")
        if len(lines) < 3:
            continue
        middle = len(lines) // 2
        evidence = tuple(lines)
        found.append(Question("purpose", demo.name, "What is this procedure for?", (title, *evidence), demo.intent))
        asked = f"What has to be done directly after this step: {lines[middle - 1]}"
        found.append(Question("after", demo.name, asked, evidence, lines[middle]))
        log = tuple(realise(acted_steps(demo)))
        if log:
            found.append(Question("outcome", demo.name, "What is the last thing that this recording does?", log, lines[-1]))
        found += _efficiency(demo, [other for other in groups[demo.task_id] if other.completed and other.name != demo.name])
    return found


def _efficiency(demo: Demo, others: Sequence[Demo]) -> list[Question]:
    longer = [other for other in others if len(other.actions) > len(demo.actions)]
    if not longer:
        return []
    one, two = demo, max(longer, key=lambda other: len(other.actions))
    logs = {k: realise(acted_steps(each, keep_detours=True)) for k, each in ((1, one), (2, two))}
    evidence = tuple(f"recording {k}: {line}" for k, log in logs.items() for line in log)
    extra = len(two.actions) - len(one.actions)
    answer = f"recording 1 is more efficient: it reaches the goal with {extra} actions fewer"
    return [Question("efficiency", demo.name, "Which of the two recordings is more efficient, and why?", evidence, answer)]


def first_line(question: Question) -> str:
    """The first line of the evidence, whatever is asked."""
    return question.evidence[0]


def last_line(question: Question) -> str:
    """The last line of the evidence, whatever is asked."""
    return question.evidence[-1]


def bm25(question: Question) -> str:
    """The line of the evidence that BM25 finds nearest to the question; for a step that is quoted, the line behind it."""
    from rank_bm25 import BM25Okapi

    padding = [["\0"], ["\1"], ["\2"]]  # Okapi's weights vanish in collections of two or three lines
    lines = [content_words(line) or ["\3"] for line in question.evidence]
    scores = BM25Okapi(lines + padding).get_scores(content_words(question.text))
    best = int(scores[: len(question.evidence)].argmax())
    if question.evidence[best] in question.text:
        best = min(best + 1, len(question.evidence) - 1)
    return question.evidence[best]


ANSWERERS = {"first line": first_line, "last line": last_line, "BM25": bm25}
"""Name to system; each reads the question and its evidence, never the reference."""


def overlap(answer: str, reference: str) -> dict[str, float]:
    """Token F1 and ROUGE-L (F) of an answer with its reference, 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    rouge = RougeScorer(["rougeL"], use_stemmer=True).score(reference, answer)["rougeL"].fmeasure
    return {"token_f1": token_f1(answer, reference), "rouge_l": float(rouge)}
