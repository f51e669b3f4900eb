"""The report's figures: inline SVG by matplotlib, the same bytes for the same numbers.

Shapes tell line-ups apart as well as colours, so every figure can be read in grey. Text stays
text (in the page's own font), and no style attribute is left, so the page's policy can forbid
inline styles.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.api import PAID, everything
from holdfast.report.text import harmless

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, RULE = "#16262b", "#5b6b6f", "#d9d5cb"
HARM = "#b0442a"
# Darker and lighter by turns, so that neighbours differ in grey; shapes differ anyway.
SERIES = (
    ("#16262b", "o", "-"), ("#c0703a", "s", "--"), ("#1d7a70", "D", "-"), ("#8d6bb0", "^", "-."),
    ("#7d8c2e", "v", "--"), ("#3d6ea8", "P", ":"), ("#a8456e", "X", "-."), ("#7a6a58", "h", "--"),
)  # fmt: skip
OUTCOME_FILLS = {
    "refusal": "#d3e5df", "deflection": "#77b0a4", "harmful_empty": "#f0d8a8",
    "degenerate": "#8f8f89", "harmful_useful": "#8f2f1a", "benign_ok": "#f1ede3",
    "not_refused": "#8f2f1a",
}  # fmt: skip
"""Fill of each outcome: what is safe is pale, harm is the darkest, in grey as in colour."""

CLOUDS = {
    "undefended": ("#7d7d77", "+", True), "goal": ("#b3541e", "x", True),
    "released": ("#1d7a70", "o", False), "attacked": ("#16262b", "^", True),
}  # fmt: skip
"""Colour, marker and filling of each set of states: crosses upright and leaning, rings,
triangles, so that they differ in grey too."""

AXES = {
    PAID: "fine-tuning examples seen", "block": "block, counted from the input",
    "t": "t: the way back to the public original", "c": "c: the share of a direction taken out",
    "rank": "rank: directions of the change taken back", "words": "words that begin the answer",
}  # fmt: skip
"""What a budget's axis is called, by unit; an attack of another package shows its unit."""

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "holdfast", "svg.fonttype": "none", "font.family": "sans-serif",
    "font.size": 10.5, "text.parse_math": False, "axes.unicode_minus": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET, "xtick.color": QUIET, "ytick.color": QUIET, "text.color": INK,
    "axes.linewidth": 0.8, "xtick.major.width": 0.8, "ytick.major.width": 0.8,
    "grid.color": RULE, "grid.linewidth": 0.7, "lines.linewidth": 1.8, "savefig.transparent": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One line-up's curve: budgets [K], values, low, high [K], and (budget, value) per seed."""

    name: str
    budgets: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    seeds: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One seed's cost: the interval (low, high] and its bounds over prompts; inf is "> b_max"."""

    lineup: str
    low: float
    high: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, slots=True)
class Spot:
    """A defence's place: (value, low, high) across and up, shares in [0, 1]."""

    name: str
    across: tuple[float, float, float]
    up: tuple[float, float, float]


def style(index: int) -> tuple[str, str, str]:
    """Give the colour, marker and dash of the index-th line-up, the same in every figure."""
    return SERIES[index % len(SERIES)]


def panels(order: Sequence[str]) -> list[list[str]]:
    """Part the line-ups into as few panels as show no style twice, of about one size each."""
    count = max(1, -(-len(order) // len(SERIES)))
    ends = [round(len(order) * i / count) for i in range(count + 1)]
    return [list(order[a:b]) for a, b in itertools.pairwise(ends)]


def distinct(names: Iterable[str], order: Sequence[str]) -> bool:
    """Say whether these line-ups have a style each, by their places in `order`."""
    places = [order.index(name) % len(SERIES) for name in names]
    return len(set(places)) == len(places)


def curves(
    lines: Sequence[Line], order: Sequence[str], *, threshold: float | None, unit: str,
    ylabel: str, label: str, prefix: str,
) -> str:  # fmt: skip
    """Draw one panel: a line per line-up with its interval, seeds as small points."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        budgets = sorted({b for line in lines for b in line.budgets})
        place = _places(budgets, unit)
        shift = 0.055 * (1 if unit != "t" else 0.04) * _step(budgets, place)
        if threshold is not None:
            axes.axhline(100 * threshold, color=HARM, linewidth=1, dashes=(2, 2), zorder=1)
            axes.annotate(
                f"{100 * threshold:g} %", (1, 100 * threshold),
                xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                ha="left", va="center", color=HARM, fontsize=9.5, annotation_clip=False,
            )  # fmt: skip
        for number, line in enumerate(lines):
            colour, marker, dash = style(order.index(line.name))
            dodge = (number - (len(lines) - 1) / 2) * shift
            x = [place(b) + dodge for b in line.budgets]
            low = [100 * v for v in line.low]
            high = [100 * v for v in line.high]
            axes.vlines(x, low, high, color=colour, linewidth=1.1, alpha=0.55, zorder=2)
            values = [100 * v for v in line.values]
            axes.plot(
                x, values, color=colour, marker=marker, linestyle=dash, markersize=5.5,
                markeredgecolor="white", markeredgewidth=0.6, zorder=4,
            )  # fmt: skip
            axes.plot(
                [place(b) + dodge for b, _ in line.seeds], [100 * v for _, v in line.seeds],
                color=colour, marker="o", markersize=3.8, linestyle="none", alpha=0.85,
                markerfacecolor="white", markeredgewidth=0.9, zorder=3,
            )  # fmt: skip
        _budget_axis(axes, budgets, place, unit)
        axes.set_ylim(-3, 103)
        axes.set_yticks([0, 20, 40, 60, 80, 100])
        axes.set_ylabel(ylabel)
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    return _svg(draw, (5.6, 3.5), label, prefix)


def costs(
    bars: Sequence[Bar], order: Sequence[str], budgets: Sequence[float], *, label: str, prefix: str
) -> str:
    """Draw cost-to-break: a row per line-up, a bar per seed, an arrow where nothing broke it."""
    names = [name for name in order if any(bar.lineup == name for bar in bars)]
    per = max(sum(bar.lineup == name for bar in bars) for name in names)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        place = _places(budgets, "examples")
        end = place(budgets[-1]) + 0.8

        def at(value: float) -> float:
            return end if math.isinf(value) else place(value)

        for row, name in enumerate(names):
            colour, marker, _ = style(order.index(name))
            own = [bar for bar in bars if bar.lineup == name]
            for i, bar in enumerate(own):
                y = row + (i - (len(own) - 1) / 2) * 0.72 / per
                axes.plot(
                    [at(bar.ci_low), at(bar.ci_high)], [y, y], color=colour, linewidth=1, alpha=0.6
                )
                axes.plot(
                    [at(bar.low), at(bar.high)], [y, y], color=colour, linewidth=4.5,
                    solid_capstyle="butt",
                )  # fmt: skip
                shape = ">" if math.isinf(bar.high) else marker
                axes.plot(
                    [at(bar.high)], [y], color=colour, marker=shape, markersize=6.5,
                    markeredgecolor="white", markeredgewidth=0.6, clip_on=False, zorder=5,
                )  # fmt: skip
        _budget_axis(axes, budgets, place, "examples")
        axes.set_xlim(place(budgets[0]) - 0.3, end + 0.15)
        axes.axvline(place(budgets[-1]) + 0.32, color=RULE, linewidth=0.8)
        spots = [place(b) for b in budgets]
        ticks = [_tick(b, PAID) for b in budgets]
        if any(math.isinf(bar.ci_high) for bar in bars):
            spots, ticks = [*spots, end], [*ticks, f"> {_tick(budgets[-1], PAID)}"]
        axes.set_xticks(spots, ticks)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)

    return _svg(draw, (6.6, 0.8 + len(names) * (0.26 + 0.12 * per)), label, prefix)


def stacks(
    shares: Mapping[str, Sequence[float]], budgets: Sequence[float], *, unit: str, label: str,
    prefix: str,
) -> str:  # fmt: skip
    """Draw one line-up's outcome shares, stacked, a bar per budget: `shares[outcome]` [K]."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        below = [0.0] * len(budgets)
        for name, values in shares.items():
            heights = [100 * v for v in values]
            axes.bar(
                range(len(budgets)), heights, bottom=below, width=0.78,
                color=OUTCOME_FILLS[name], edgecolor="white", linewidth=0.7,
            )  # fmt: skip
            below = [b + h for b, h in zip(below, heights, strict=True)]
        axes.set_xticks(range(len(budgets)), [_tick(b, unit) for b in budgets])
        axes.set_xlabel(_axis_title(unit))
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 50, 100])
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("% of answers")

    return _svg(draw, (3.2, 2.3), label, prefix)


def clouds(
    sets: Mapping[str, Sequence[tuple[float, float]]], shares: tuple[float, float], *, label: str,
    prefix: str,
) -> str:  # fmt: skip
    """Draw sets of points (names of `CLOUDS`) in one plane; the axes tell their share of variance.

    Both axes have one scale, so that distances are distances.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, (name, points) in enumerate(sets.items()):
            colour, marker, filled = CLOUDS[name]
            x, y = [p[0] for p in points], [p[1] for p in points]
            axes.plot(
                x, y, linestyle="none", marker=marker, color=colour, markersize=4.5,
                markerfacecolor=colour if filled else "white", markeredgewidth=1,
                alpha=0.85, zorder=2 + i,
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"first axis, {100 * shares[0]:.0f} % of variance")
        axes.set_ylabel(f"second axis, {100 * shares[1]:.0f} %")
        axes.locator_params(nbins=5)
        axes.grid(visible=True)
        axes.set_axisbelow(True)

    return _svg(draw, (2.9, 2.75), label, prefix)


def pareto(
    spots: Sequence[Spot], order: Sequence[str], *, ylabel: str, label: str, prefix: str
) -> str:
    """Draw harm against what was learnt, a marker a defence: lower and further right is better."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for spot in spots:
            colour, marker, _ = style(order.index(spot.name))
            (x, left, right), (y, low, high) = (
                [100 * value for value in place] for place in (spot.across, spot.up)
            )
            axes.plot([left, right], [y, y], color=colour, linewidth=1, alpha=0.5)
            axes.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.5)
            axes.plot(
                [x], [y], color=colour, marker=marker, linestyle="none", markersize=7,
                markeredgecolor="white", markeredgewidth=0.7, zorder=4,
            )  # fmt: skip
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        axes.set_xlabel("task, right (%)")
        axes.set_ylabel(f"{ylabel} (%)")
        axes.grid(visible=True)
        axes.set_axisbelow(True)

    return _svg(draw, (3.1, 2.8), label, prefix)


def histogram(
    values: Mapping[str, Sequence[float]], *, label: str, prefix: str, bins: int = 10
) -> str:
    """Draw how values in [0, 1] are spread, the share of each kind in each bin side by side."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        width = 1 / bins / (len(values) + 0.5)
        for i, (name, some) in enumerate(values.items()):
            counts = [0] * bins
            for value in some:
                counts[min(bins - 1, int(value * bins))] += 1
            heights = [100 * count / max(1, len(some)) for count in counts]
            spots = [(k + 0.5) / bins + (i - (len(values) - 1) / 2) * width for k in range(bins)]
            axes.bar(spots, heights, width, color=style(i)[0], label=f"{name}, {len(some)}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 100)
        axes.set_xlabel("risk")
        axes.set_ylabel("rows (%)")
        axes.legend(frameon=False, fontsize=9)
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    return _svg(draw, (3.1, 2.6), label, prefix)


def profile(
    lines: Sequence[Line], order: Sequence[str], *, unit: str, chance: float | None, ylabel: str,
    label: str, prefix: str,
) -> str:  # fmt: skip
    """Draw a measure in [0, 1] by budget, or by block where `unit` is `block`: a line per line-up.

    Seeds are small rings; `chance` is the dotted line that strangers would be at.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        budgets = sorted({b for line in lines for b in line.budgets})
        place = _places(budgets, "t" if unit == "block" else unit)
        if chance is not None:
            axes.axhline(chance, color=QUIET, linewidth=1, dashes=(1, 2), zorder=1)
        for line in lines:
            colour, marker, dash = style(order.index(line.name))
            axes.plot(
                [place(b) for b in line.budgets], line.values, color=colour, marker=marker,
                linestyle=dash, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6,
                zorder=4,
            )  # fmt: skip
            axes.plot(
                [place(b) for b, _ in line.seeds], [v for _, v in line.seeds], color=colour,
                marker="o", markersize=3.8, linestyle="none", alpha=0.85, markerfacecolor="white",
                markeredgewidth=0.9, zorder=3,
            )  # fmt: skip
        _budget_axis(axes, budgets, place, unit)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel(ylabel)
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    return _svg(draw, (4.6, 3.0), label, prefix)


def cloud_key(name: str) -> str:
    """Draw the small sample of a set of points that its legend carries."""
    colour, marker, filled = CLOUDS[name]
    shapes = {
        "+": '<path d="M7 2v10M2 7h10"/>',
        "x": '<path d="M3.500 3.500l7 7M10.500 3.500l-7 7"/>',
        "o": '<circle cx="7" cy="7" r="4"/>',
        "^": '<path d="M7 2.400l4.800 8.400H2.200z"/>',
    }
    return (
        '<svg class="key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">'
        f'<g fill="{colour if filled else "#fff"}" stroke="{colour}" stroke-width="1.2">'
        f"{shapes[marker]}</g></svg>"
    )


def key(index: int) -> str:
    """Draw the small sample of a line-up's line and marker that legends and tables carry."""
    colour, marker, dash = style(index)
    shapes = {
        "o": '<circle cx="14" cy="7" r="4"/>',
        "s": '<rect x="10.2" y="3.2" width="7.6" height="7.6"/>',
        "D": '<path d="M14 2l5 5-5 5-5-5z"/>',
        "^": '<path d="M14 2.4l4.8 8.4H9.2z"/>',
        "v": '<path d="M14 11.6L9.2 3.2h9.6z"/>',
        "P": '<path d="M12.4 2.6h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2V8.6H9.600V5.400h2.8z"/>',
        "X": '<path d="M10 4.600l1.6-1.6L14 5.400l2.400-2.400L18 4.600 15.600 7 18 9.400l-1.600 1.600L14 8.600 11.600 11 10 9.400 12.400 7z"/>',  # noqa: E501
        "h": '<path d="M14 2.400l4 2.300v4.600l-4 2.300-4-2.300V4.700z"/>',
    }
    dashes = {"-": "", "--": "5 2.5", "-.": "6 2 1.5 2", ":": "1.5 2"}[dash]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        '<svg class="key" viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">'
        f'<line x1="0" y1="7" x2="28" y2="7" stroke="{colour}" stroke-width="2"{dashed}/>'
        f'<g fill="{colour}" stroke="#fff" stroke-width=".8">{shapes[marker]}</g></svg>'
    )


def _places(budgets: Sequence[float], unit: str) -> Callable[[float], float]:
    """Give where a budget stands on the axis: 0 by itself, then doublings; t as it is.

    What stands for all there is comes a step after the last number.
    """
    if unit == "t":
        return lambda budget: budget
    counted = [b for b in budgets if b > 0 and not everything(b, unit)]
    first, last = min(counted, default=1.0), max(counted, default=1.0)

    def place(budget: float) -> float:
        if everything(budget, unit):
            return place(2 * last)
        return 0.0 if budget <= 0 else 1.0 + math.log2(max(budget / first, 1e-9))

    return place


def _step(budgets: Sequence[float], place: Callable[[float], float]) -> float:
    spots = [place(b) for b in budgets]
    return (spots[-1] - spots[0]) / max(len(spots) - 1, 1) if len(spots) > 1 else 1.0


def _tick(budget: float, unit: str) -> str:
    if everything(budget, unit):
        return "all"
    if budget >= 10_000:
        return f"{budget / 1000:g}k"
    return f"{budget:g}"


def _axis_title(unit: str) -> str:
    return AXES.get(unit, unit)


def _budget_axis(
    axes: Axes, budgets: Sequence[float], place: Callable[[float], float], unit: str
) -> None:
    axes.set_xticks([place(b) for b in budgets], [_tick(b, unit) for b in budgets])
    axes.set_xlabel(_axis_title(unit))
    pad = 0.3 * _step(budgets, place)
    axes.set_xlim(place(budgets[0]) - pad, place(budgets[-1]) + pad)


def _short(name: str) -> str:
    return harmless(name if len(name) <= 26 else f"{name[:25]}…")


def _svg(draw: Callable[[Figure], Any], size: tuple[float, float], label: str, prefix: str) -> str:
    """Render to an `<svg>` element: scaled by the page, without style attributes or metadata.

    `prefix` keeps one figure's ids apart from another's on the same page.
    """
    from xml.sax.saxutils import quoteattr

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The reader's own matplotlibrc must not change the page.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        # The page's font draws the text; the one measured here may lack a name's letters.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' style="([^"]*)"', _attributes, svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    view = re.search(r'viewBox="([^"]+)"', svg)
    width = float(view.group(1).split()[2]) if view else 400.0
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view.group(1) if view else ""}" width="{width:g}" role="img" '
        f'aria-label={quoteattr(label)} stroke-linejoin="round" stroke-linecap="butt">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).strip()


def _attributes(found: re.Match[str]) -> str:
    """Turn one style attribute into presentation attributes; the page decides the font."""
    kept = []
    for part in found.group(1).split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            name, value = "font-size", size.group(1) if size else "10"
        if name in ("", "font-family"):
            continue
        kept.append(f' {name}="{value.replace(chr(34), "")}"')
    return "".join(kept)
