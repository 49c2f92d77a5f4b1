"""The figures of a run as files: PNG for documents, SVG for both colour schemes of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from cofi.report.reading import RunFiles
from cofi.report.structure_figure import structure_figure
from cofi.report.theme import DARK, LIGHT, Theme, to_png, to_svg
from cofi.report.training_figure import training_figure
from cofi.report.values import Sizes

SOLID_AND_PALE = "Solid: kept. Pale: the dense model."
REMOVED = "A dashed frame is a sublayer without units. Where it is removed, its input passes on unchanged."
BIAS_ONLY = "Where only its bias is left, it adds that and normalizes."
TRAINING_CAPTION = (
    "A ring marks the evaluation whose weights a phase hands on. Lines of many steps are means, with the 10th to 90th "
    "percentile behind them. Dots in the sparsity panel: the deterministic masks, as exported."
)


@dataclass(frozen=True)
class Words:
    """What stands around a figure: heading, caption, and a text for those who cannot see it."""

    heading: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Drawn:
    """One figure: a PNG, and an SVG each for a light and a dark page."""

    name: str
    words: Words
    png: bytes
    light_svg: bytes
    dark_svg: bytes


def draw_figures(run: RunFiles) -> list[Drawn]:
    """The figures that the run's files are enough for, of "structure" and "training"."""
    kept, dense = run.structure, run.dense_structure
    drawn = []
    if kept is not None:
        caption = _structure_caption(kept, dense, any(run.bias_only))
        words = Words("What is left", caption, _structure_alt(kept, dense))
        drawn.append(_render("structure", words, lambda theme: structure_figure(kept, dense, theme, run.bias_only)))
    if run.steps or run.evaluations:
        words = Words("Training", TRAINING_CAPTION, _training_alt(run))
        drawn.append(_render("training", words, lambda theme: training_figure(run, theme)))
    return [figure for figure in drawn if figure is not None]


def _structure_caption(kept: Sizes, dense: Sizes | None, has_bias_only: bool) -> str:
    has_removed = 0 in kept.heads or 0 in kept.intermediate
    parts = ((dense is not None, SOLID_AND_PALE), (has_removed, REMOVED), (has_bias_only, BIAS_ONLY))
    return " ".join(sentence for applies, sentence in parts if applies)


def _render(name: str, words: Words, build: Callable[[Theme], Figure | None]) -> Drawn | None:
    with LIGHT.applied():
        figure = build(LIGHT)
        if figure is None:
            return None
        png, light = to_png(figure), to_svg(figure)
    with DARK.applied():
        figure = build(DARK)
        return None if figure is None else Drawn(name, words, png, light, to_svg(figure))


def _structure_alt(kept: Sizes, dense: Sizes | None) -> str:
    layers = ", ".join(
        f"layer {index}: {heads} heads and {dims} dims"
        for index, (heads, dims) in enumerate(zip(kept.heads, kept.intermediate, strict=True), 1)
    )
    of = f", of {max(dense.heads)} heads and {max(dense.intermediate)} intermediate dims" if dense else ""
    hidden = f"{kept.hidden} of {dense.hidden}" if dense else f"{kept.hidden}"
    return (
        f"What is kept of each layer{of} (0 means that the sublayer has no unit left): {layers}. Hidden dims: {hidden}."
    )


def _training_alt(run: RunFiles) -> str:
    phases = ", ".join(f"{phase.name} from step {phase.start} to {phase.end}" for phase in run.phases)
    return (
        f"Losses, score, sparsity and Lagrange multipliers over the steps of the run. Phases: {phases}. "
        f"{len(run.steps)} logged steps, {len(run.evaluations)} evaluations."
    )
