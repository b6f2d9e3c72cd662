"""The aims of a suite, judged on its stored rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qat.evaluation.significance import Difference
from qat.report.cells import p_text
from qat.report.tables import markdown_lines
from qat.suite.spec import FLOAT, Aim
from qat.suite.view import View

SIGNIFICANT = 0.05
WORDS = {True: "yes", False: "**no**", None: "not measured"}
PICKED_ON_DEV = (
    "Where an aim has several variants, the one with the lowest error rate on dev counts (in bold)."
)
PICKED_ON_TEST = (
    "Where an aim has several variants, the one with the lowest error rate on dev counts (in bold), where "
    "that is stored for all of them. Marked * it was picked on {split} itself, the test set that the aim is judged on: "
    "there was nothing else to pick on. Such an aim is judged too kindly; the single rows below are not affected."
)
ON_TEST = " \\*"  # marks an aim


@dataclass(frozen=True)
class Judgement:
    """An aim for one model.

    Attributes:
        measured: in words; empty where nothing was measured.
        met: None where nothing was measured.
        variants: measured rows among which one was picked.
        on_dev: whether it was picked by error rates on dev.
    """

    measured: str = ""
    met: bool | None = None
    variants: int = 0
    on_dev: bool = False

    @property
    def is_picked_on_test(self) -> bool:
        """Whether it is judged on what it was picked by."""
        return self.variants > 1 and not self.on_dev


def acceptance(view: View) -> str:
    """The aims, met or not, for each model, and why where not; on the first split."""
    judged = [
        (aim, model, judge(view, aim, model))
        for aim in view.suite.aims
        for model in aim.models or view.suite.configs
    ]
    lines = [
        [aim.text, model, found.measured, WORDS[found.met] + ON_TEST * found.is_picked_on_test]
        for aim, model, found in judged
    ]
    text = markdown_lines(["aim", "model", "measured", "met"], lines)
    if any(found.is_picked_on_test for _, _, found in judged):
        text += f"\n{PICKED_ON_TEST.format(split=view.splits[0])}\n"
    elif any(found.variants > 1 for _, _, found in judged):
        text += f"\n{PICKED_ON_DEV}\n"
    reasons = [
        f"- {aim.text} ({model}): {aim.missed[model].strip()}\n"
        for aim, model, found in judged
        if found.met is False and model in aim.missed
    ]
    return text + ("\nWhy aims were missed:\n\n" + "".join(reasons) if reasons else "")


def judge(view: View, aim: Aim, model: str) -> Judgement:
    """What was measured for an aim, and whether that meets it."""
    gaps = differences(view, aim, model)
    if not gaps:
        return Judgement()
    return KINDS[aim.kind](view, aim, model, gaps)


def differences(view: View, aim: Aim, model: str) -> dict[str, Difference]:
    """Difference to float on the first split, of each row of the aim that was measured for the model."""
    split = view.splits[0] if view.splits else ""
    known = {row.id for row in view.suite.rows}
    cells = {name: view.cell(f"{model}/{name}", split) for name in aim.rows if f"{model}/{name}" in known}
    return {
        name: cell.difference
        for name, cell in cells.items()
        if cell is not None and cell.difference is not None
    }


def dev_wers(view: View, model: str, names: Iterable[str]) -> dict[str, float]:
    """Error rate on dev of each row, by which one is picked; empty where one is not stored."""
    found = {name: view.dev_wer(f"{model}/{name}") for name in names}
    return {} if None in found.values() else {name: wer for name, wer in found.items() if wer is not None}


def judge_insignificant(view: View, aim: Aim, model: str, gaps: Mapping[str, Difference]) -> Judgement:
    """Whether the best variant loses nothing significant to float."""
    texts = {name: f"{gap.mean:+.2f} ({p_text(gap.p_value)})" for name, gap in gaps.items()}
    holds = {name: gap.p_value >= SIGNIFICANT or gap.mean < 0 for name, gap in gaps.items()}
    on_dev = dev_wers(view, model, gaps)
    best = min(gaps, key=lambda name: on_dev[name] if on_dev else (not holds[name], gaps[name].mean))
    return Judgement(listed(view, model, texts, best), holds[best], len(gaps), bool(on_dev))


def judge_relative(view: View, aim: Aim, model: str, gaps: Mapping[str, Difference]) -> Judgement:
    """Whether the best variant loses at most the limit, as a share of the float error rate."""
    shares = {name: relative_loss(view, f"{model}/{name}") for name in gaps}
    on_dev = dev_wers(view, model, gaps)
    best = min(shares, key=(on_dev or shares).__getitem__)
    texts = {name: f"{100 * value:+.1f} %" for name, value in shares.items()}
    titled = {name: f"{view.suite.row(f'{model}/{name}').title} {text}" for name, text in texts.items()}
    return Judgement(emphasised(titled, best), shares[best] <= aim.limit, len(shares), bool(on_dev))


def judge_recovers(view: View, aim: Aim, model: str, gaps: Mapping[str, Difference]) -> Judgement:
    """Whether the first row wins back at least the limit of what the second one loses."""
    if len(gaps) < 2:
        return Judgement()
    ours, theirs = (gaps[name] for name in aim.rows)
    if theirs.p_value >= SIGNIFICANT:
        return Judgement(f"nearest loses nothing significant ({theirs.mean:+.2f}); AdaRound {ours.mean:+.2f}")
    share = 1.0 - ours.mean / theirs.mean
    return Judgement(
        f"{100 * share:.0f} % ({theirs.mean:+.2f} -> {ours.mean:+.2f})", share >= aim.limit, variants=1
    )


KINDS: Mapping[str, Callable[[View, Aim, str, Mapping[str, Difference]], Judgement]] = {
    "insignificant": judge_insignificant,
    "relative": judge_relative,
    "recovers": judge_recovers,
}


def listed(view: View, model: str, texts: Mapping[str, str], best: str) -> str:
    """One text as it is; several with the titles of their rows, the best in bold."""
    if len(texts) == 1:
        return texts[best]
    return emphasised(
        {name: f"{view.suite.row(f'{model}/{name}').title} {text}" for name, text in texts.items()}, best
    )


def emphasised(texts: Mapping[str, str], best: str) -> str:
    """Several texts in a row, the best in bold."""
    return "; ".join(
        f"**{text}**" if name == best and len(texts) > 1 else text for name, text in texts.items()
    )


def relative_loss(view: View, row_id: str) -> float:
    """Loss over the float error rate, on the first split."""
    split = view.splits[0]
    cell, base = view.cell(row_id, split), view.cell(f"{row_id.partition('/')[0]}/{FLOAT}", split)
    assert cell is not None and base is not None
    return (cell.wer - base.wer) / base.wer
