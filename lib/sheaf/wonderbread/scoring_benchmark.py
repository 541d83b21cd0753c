"""How long scoring takes: all published outputs again, and the offline matcher per pair of procedures."""

import time
from collections.abc import Callable

from sheaf.wonderbread import outputs, published, rescore
from sheaf.wonderbread.lines import sop_lines
from sheaf.wonderbread.matcher import default_matcher

__all__ = ["BENCHMARKS", "conformance", "judges", "matching", "rescoring"]

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


def judges() -> str:
    """Ways to compare lines, side by side: accuracy against the human labels, and milliseconds per pair of procedures."""
    if not outputs.available():
        return "judges: not measured, the human labels are not here (SHEAF_DATA)"
    from sheaf.wonderbread import judge

    matcher = judge.published_matcher()
    table = judge.compare(judge.labelled(matcher), matcher).dropna(subset="seconds_per_pair")
    rows = [
        f"  {row.way:<20} accuracy {row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]  AUC {row.auc:.3f}  "
        f"{1e3 * row.seconds_per_pair:8.2f} ms a pair" for row in table.itertuples()
    ]  # fmt: skip
    return "judges, against 586 human line labels (majority 0.549), cuts chosen without the pair at hand:\n" + "\n".join(rows)


def conformance() -> str:
    """Alignment to procedures as a validator: ours and pm4py's optimal one on the shipped recordings, time per recording."""
    from sheaf.wonderbread import configs
    from sheaf.wonderbread.corpus import shipped_corpus
    from sheaf.wonderbread.systems.validation import TRAJECTORY

    items = configs.trajectory_items(shipped_corpus())
    parts = []
    for validator in TRAJECTORY:
        if validator.name in ("alignment", "process model (pm4py)"):
            validator.score(items[0].demo)
            start = time.perf_counter()
            for item in items:
                validator.score(item.demo)
            parts.append(f"{validator.name} {1e3 * (time.perf_counter() - start) / len(items):.1f} ms")
    return f"conformance: {', '.join(parts)} a recording; balanced accuracy stands in table T5-here"


BENCHMARKS: dict[str, Callable[[], str]] = {
    "wonderbread/rescore": rescoring, "wonderbread/matcher": matching, "wonderbread/judges": judges,
    "wonderbread/conformance": conformance,
}  # fmt: skip
"""Run by ``make bench``."""
