"""A profile as tables for people."""

from __future__ import annotations

import statistics

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable

from cofi.profile.profile import Profile, Table


def profile_table(profile: Profile) -> Group:
    """Milliseconds of a sublayer by its size, and how well they add up."""
    tables = profile.tables
    parts = [
        _of_sublayer("attention", "heads", tables.attention),
        _of_sublayer("FFN", "dims", tables.ffn),
        _totals(profile),
    ]
    lengths, machine = profile.lengths, profile.machine
    place = f"{profile.threads} threads of {machine.get('cpu')}" if profile.on_cpu else str(machine["device"])
    title = (
        f"{profile.source}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens (median "
        f"{statistics.median(lengths):.0f}), {profile.precision}, {place}. ms of one sublayer; passes lie "
        f"{100 * profile.spread:.0f} % apart, the machine made {profile.gflops:,.0f} GFLOP/s in a plain product."
    )
    return Group(escape(title), *parts)


def _of_sublayer(name: str, units: str, table: Table) -> RichTable:
    shown = RichTable(title=name, box=box.SIMPLE_HEAD, title_justify="left")
    shown.add_column(units, justify="right")
    for hidden in table.hidden:
        shown.add_column(f"{hidden} hidden", justify="right")
    for count, row in zip(table.units, table.ms, strict=True):
        shown.add_row(str(count), *(f"{ms:.4f}" for ms in row))
    return shown


def _totals(profile: Profile) -> RichTable:
    tables = profile.tables
    shown = RichTable(title="whole models", box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("model", "predicted ms", "measured ms", "off by"):
        shown.add_column(header, justify="left" if header == "model" else "right")
    for parts, whole in list(zip(tables.parts_ms, tables.whole_ms, strict=True))[1:]:
        shown.add_row("sum of parts", f"{parts:.3f}", f"{whole:.3f}", f"{100 * (parts / whole - 1):+.1f} %")
    for check in profile.checks:
        error = f"{100 * check.error:+.1f} %"
        shown.add_row("unseen structure", f"{check.predicted_ms:.3f}", f"{check.measured_ms:.3f}", error)
    return shown
