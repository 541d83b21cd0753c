"""The six tasks as requests to a foundation model, in words of our own, and its replies as what the metrics take.

Inputs follow the paper's settings: TD the intent, KF the key frames as images, ACT the action log in words, SOP the
reference procedure. How many images of a request are sent is up to the client.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from sheaf.common.fm import Request
from sheaf.wonderbread.configs import Concatenation
from sheaf.wonderbread.dsl import describe
from sheaf.wonderbread.systems.qna import Question
from sheaf.wonderbread.systems.text import join_sop
from sheaf.wonderbread.trace import Demo

__all__ = [
    "AnswerText", "Order", "Procedure", "Spans", "Verdict", "answering", "completion", "generation", "improvement", "labels_of",
    "procedure_of", "ranking", "segmentation", "trajectory",
]  # fmt: skip

SYSTEM = "You help an office to document, check and improve the workflows that people carry out on web pages."
LETTERS = "ABC"


class Procedure(BaseModel):
    """A procedure as a list of steps."""

    steps: list[str] = Field(description="one action in each step, in order, without numbers")


class Span(BaseModel):
    """Where one workflow lies in a long recording."""

    workflow: str = Field(description="its letter")
    first: int = Field(description="number of its first frame")
    last: int = Field(description="number of its last frame")


class Spans(BaseModel):
    """Where each workflow lies."""

    spans: list[Span]


class Verdict(BaseModel):
    """A yes or no with its reason."""

    reason: str
    yes: bool


class Order(BaseModel):
    """Procedures by quality."""

    best_to_worst: list[int] = Field(description="numbers of the procedures, the best first")


class AnswerText(BaseModel):
    """A short answer."""

    answer: str = Field(description="two or three sentences")


def _frames(demo: Demo, log: bool, pictures: bool) -> list[str | Path | bytes]:
    """Frames and actions in turn, numbered; only what the setting allows."""
    parts: list[str | Path | bytes] = []
    for k in range(len(demo.states)):
        picture = demo.screenshot(k) if pictures else None
        if picture is not None:
            parts += [f"Frame {k}:", picture]
        if log and k < len(demo.actions):
            parts.append(f"Action {k}: {describe(demo.actions[k])}")
    return parts


def generation(demo: Demo, setting: str) -> Request:
    """Write the procedure (paper, SOP generation). The model sees the intent and what the setting names, nothing else."""
    parts: list[str | Path | bytes] = [f"The workflow: {demo.intent}"]
    parts += _frames(demo, "ACT" in setting, "KF" in setting)
    parts.append("Write the standard operating procedure of this workflow: one action in each step, elements by name and place.")
    return Request(SYSTEM, parts, Procedure)


def procedure_of(demo: Demo, reply: Procedure) -> str:
    """The reply as a procedure's text with the intent as its title."""
    return join_sop(demo.intent, reply.steps)


def segmentation(recording: Concatenation, sops: Sequence[str] | None) -> Request:
    """Find three workflows in one recording (paper, demo segmentation): key frames, with or without their procedures."""
    parts: list[str | Path | bytes] = ["One recording shows three workflows, one after the other."]
    for k, letter in enumerate(LETTERS):
        parts.append(f"Workflow {letter}" + (f":\n{sops[k]}" if sops else ""))
    number = 0
    for demo in recording.demos:
        for k in range(len(demo.states)):
            picture = demo.screenshot(k)
            parts += [f"Frame {number}:", picture] if picture is not None else [f"Frame {number}: (no picture)"]
            number += 1
    order = "in whatever order they come" if sops else "A for the one that comes first, then B, then C"
    parts.append(f"Say for each workflow at which frame it begins and at which it ends, {order}.")
    return Request(SYSTEM, parts, Spans)


def labels_of(reply: Spans, frames: int) -> list[int]:
    """[frames] labels 0 to 2; -1 where no workflow was named. A later span overwrites an earlier one, as published."""
    labels = [-1] * frames
    for span in reply.spans:
        letter = span.workflow.strip()[:1].upper()
        if letter and letter in LETTERS:
            for k in range(max(0, span.first), min(frames - 1, span.last) + 1):
                labels[k] = LETTERS.index(letter)
    return labels


def completion(demo: Demo, sop: str | None) -> Request:
    """Was the workflow carried out to its end (paper, demo validation)?"""
    parts: list[str | Path | bytes] = [f"The workflow: {demo.intent}"]
    parts += [f"Its procedure:\n{sop}"] if sop else []
    parts += _frames(demo, False, True)
    parts.append("Does this recording show the workflow carried out to its end? Say yes only if its goal was reached.")
    return Request(SYSTEM, parts, Verdict)


def trajectory(demo: Demo, sop: str) -> Request:
    """Does the recording follow the procedure, with nothing left out and nothing exchanged (paper, demo validation)?"""
    parts: list[str | Path | bytes] = [f"The workflow: {demo.intent}", f"Its procedure:\n{sop}", *_frames(demo, True, True)]
    parts.append("Does the recording follow the procedure, no step left out and none out of order?")
    return Request(SYSTEM, parts, Verdict)


def answering(question: Question) -> Request:
    """Answer a question from its evidence (paper, question answering)."""
    evidence = "\n".join(question.evidence)
    return Request(SYSTEM, [f"{evidence}\n\n{question.text}\nAnswer in two or three sentences at most."], AnswerText)


def ranking(texts: Sequence[str]) -> Request:
    """Put procedures for one workflow into order, best first (paper, SOP ranking)."""
    shown = "\n\n".join(f"Procedure {k}:\n{text}" for k, text in enumerate(texts, 1))
    return Request(SYSTEM, [f"{shown}\n\nPut these procedures into order of quality, the best first."], Order)


def improvement(text: str, demo: Demo, setting: str) -> Request:
    """Rewrite a first version from its recording (paper, SOP improvement)."""
    parts: list[str | Path | bytes] = [f"The workflow: {demo.intent}", f"A first version of its procedure:\n{text}"]
    parts += _frames(demo, "ACT" in setting, "KF" in setting)
    parts.append(
        "Rewrite the procedure so that it is complete, in order, has one action in each step, and names every element "
        "and where it is. Keep it general."
    )
    return Request(SYSTEM, parts, Procedure)
