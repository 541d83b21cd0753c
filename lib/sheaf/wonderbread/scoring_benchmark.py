"""How long scoring takes: all published outputs again, and the offline matcher per pair of procedures."""

import time
from collections.abc import Callable

from sheaf.wonderbread import outputs, published, rescore
from sheaf.wonderbread.lines import sop_lines
from sheaf.wonderbread.matcher import default_matcher

__all__ = ["BENCHMARKS", "matching", "rescoring"]

RESCORE_GOAL, MATCH_GOAL = 10.0, 20.0  # seconds for everything; pairs a second on one core


def rescoring() -> str:
    """Every published table from the published items, reading the files included."""
    if not outputs.available():
        return "re-score: not measured, the published outputs are not here (SHEAF_DATA)"
    start = time.perf_counter()
    items = rescore.generation_items()
    equal = int(rescore.equal_cells(rescore.generation_table(items)).sum())
    rescore.generation_pooled(items)
    answers = outputs.judged_answers()
    rescore.worst_difference(rescore.qna_table(answers), published.qna())
    rescore.qna_table(rescore.improvement_questions(answers))
    rescore.ranking_table(rescore.ranking_by_workflow(outputs.rankings()))
    rescore.human_correlations()
    rescore.reconstructed_table()
    outputs.improvement_marks()
    took = time.perf_counter() - start
    verdict = "met" if took <= RESCORE_GOAL else "missed"
    return f"re-score: {took:.1f} s for all published outputs (goal {RESCORE_GOAL:.0f} s: {verdict}); {equal} of 54 cells equal"


def matching() -> str:
    """The matcher on the published pairs, or on procedures that ship; its accuracy stands in the audit's table of judges."""
    if outputs.available():
        rows = outputs.generation()[["pred", "gold"]].head(400)
        pairs = [(sop_lines(str(p)), sop_lines(str(g))) for p, g in zip(rows["pred"], rows["gold"], strict=True)]
        what = "published pairs"
    else:
        from sheaf.wonderbread.corpus import shipped_corpus

        texts = [sop_lines(demo.sop or "", title=True) for demo in shipped_corpus().demos]
        pairs, what = [(a, b) for a in texts for b in texts], "pairs of shipped procedures"
    start = time.perf_counter()
    matcher = default_matcher(line for pair in pairs for text in pair for line in text)
    fitted = time.perf_counter()
    for a, b in pairs:
        matcher.match(a, b)
    done = time.perf_counter()
    rate = len(pairs) / (done - start)
    verdict = "met" if rate >= MATCH_GOAL else "missed"
    return (
        f"matcher: {rate:.0f} pairs/s with fitting its spaces, {len(pairs) / (done - fitted):.0f} without "
        f"(goal {MATCH_GOAL:.0f}: {verdict}); {len(pairs)} {what}"
    )


BENCHMARKS: dict[str, Callable[[], str]] = {"wonderbread/rescore": rescoring, "wonderbread/matcher": matching}
"""Run by ``make bench``."""
