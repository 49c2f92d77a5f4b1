"""The figure of what is left of a model: a row a layer, bars of what is kept against the dense size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cofi.errors import UserError
from cofi.report.theme import Theme
from cofi.report.values import Sizes

WIDTH_IN = 9.0
BAR = 0.62  # of a row
MAX_DRAWN_UNITS = 32  # heads are drawn as single blocks up to this many


@dataclass(frozen=True)
class Units:
    """One kind of unit, per layer: how many are kept and, where known, how many the dense model has.

    bias_only: layers without units whose sublayer is not removed: it adds a bias and normalizes
    """

    name: str
    kept: Sequence[int]
    dense: Sequence[int] | None
    bias_only: frozenset[int]
    colour: str

    @property
    def title(self) -> str:
        if not self.dense:
            return f"{self.name} kept"
        low, high = min(self.dense), max(self.dense)
        return f"{self.name} kept, of {high if low == high else f'{low} to {high}'}"


def structure_figure(
    kept: Sizes, dense: Sizes | None, theme: Theme, bias_only: Sequence[frozenset[int]] = (frozenset(), frozenset())
) -> Figure:
    """Kept heads and intermediate dims per layer, kept hidden dims. Call inside `theme.applied()`.

    bias_only: layers whose attention, whose FFN, is without units but not removed
    Raises UserError where `dense` has another number of layers. Without `dense` the bars compare the layers only.
    """
    n_layers = len(kept.heads)
    if dense is not None and len(dense.heads) != n_layers:
        raise UserError(f"structure has {n_layers} layers and dense_structure {len(dense.heads)}; they must be as deep")
    row_in = 0.29 if n_layers <= 16 else 0.22 if n_layers <= 32 else 0.17
    rows_in, top_in, bottom_in = n_layers * row_in + 0.1, 0.42, 0.95
    height_in = top_in + rows_in + bottom_in
    figure = Figure(figsize=(WIDTH_IN, height_in))
    bottom, height = bottom_in / height_in, rows_in / height_in
    font = 9.5 if n_layers <= 16 else 8.0 if n_layers <= 32 else 6.5
    heads = Units("Attention heads", kept.heads, dense.heads if dense else None, bias_only[0], theme.first)
    dims = Units(
        "FFN intermediate dims", kept.intermediate, dense.intermediate if dense else None, bias_only[1], theme.second
    )
    attention = figure.add_axes((0.075, bottom, 0.395, height))
    _rows(attention, heads, theme, font)
    _layer_names(attention, n_layers, theme, font)
    _rows(figure.add_axes((0.565, bottom, 0.365, height)), dims, theme, font)
    hidden = figure.add_axes((0.075, 0.22 / height_in, 0.855, 0.2 / height_in))
    _hidden(hidden, kept.hidden, dense.hidden if dense else None, theme)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)


def _rows(axes: Axes, units: Units, theme: Theme, font: float) -> None:
    """A bar a layer; a sublayer without units is an empty dashed frame with the reason in it."""
    _bare(axes)
    axes.set_title(units.title)
    widest = max(1, *(units.dense or ()), *units.kept)
    axes.set_xlim(0, widest)
    axes.set_ylim(len(units.kept) - 0.5, -0.5)
    for layer, count in enumerate(units.kept):
        full = units.dense[layer] if units.dense else widest
        if count == 0:
            words = "bias only" if layer in units.bias_only else "removed"
            axes.barh(layer, full, BAR, facecolor="none", edgecolor=theme.muted, linewidth=0.7, linestyle=(0, (3, 3)))
            axes.text(widest / 2, layer, words, ha="center", va="center", fontsize=font - 1, color=theme.muted)
        else:
            axes.barh(layer, full, BAR, color=theme.faint)
            axes.barh(layer, count, BAR, color=units.colour)
            if widest <= MAX_DRAWN_UNITS:
                axes.vlines(range(1, widest), layer - BAR / 2, layer + BAR / 2, color=theme.paper, linewidth=1.2)
        weight, ink = ("normal", theme.muted) if count == 0 else ("bold", theme.ink)
        axes.annotate(
            f"{count:,}", (1.0, layer), (7, 0), axes.get_yaxis_transform(), textcoords="offset points",
            va="center", fontsize=font, color=ink, fontweight=weight,
        )  # fmt: skip


def _layer_names(axes: Axes, n_layers: int, theme: Theme, font: float) -> None:
    for layer in range(n_layers):
        axes.annotate(
            f"{layer + 1}", (0.0, layer), (-8, 0), axes.get_yaxis_transform(), textcoords="offset points",
            ha="right", va="center", fontsize=font, color=theme.muted,
        )  # fmt: skip
    axes.annotate(
        "layer", (0.0, 1.0), (-8, 6), "axes fraction", textcoords="offset points", ha="right", va="bottom",
        fontsize=8.5, color=theme.muted,
    )  # fmt: skip


def _hidden(axes: Axes, kept: int, dense: int | None, theme: Theme) -> None:
    _bare(axes)
    widest = max(dense or 0, kept, 1)
    axes.set_xlim(0, widest)
    axes.barh(0, widest, 1.0, color=theme.faint)
    axes.barh(0, kept, 1.0, color=theme.third)
    of = f" of {dense:,}" if dense else ""
    axes.set_title(f"Hidden dims kept, shared by all layers: {kept:,}{of}")
