"""Charts as plain SVG, without a library: bars for speed, lines for curves."""

from collections.abc import Sequence
from html import escape

_COLOURS = ("#9aa5b1", "#2f7de1", "#e1812f", "#3a923a", "#c03d3e", "#845bb3")
_FONT = "font-family='system-ui,sans-serif' font-size='12' fill='#444'"


def bars(title: str, groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str) -> str:
    """Return a chart of grouped bars: one group for each kind, one colour for each series."""
    left, top, height, wide, gap = 60, 60, 240, 26, 24
    span = len(series) * wide + gap
    width = left + span * len(groups) + 20
    highest = max((value for _, values in series for value in values), default=1.0) or 1.0
    parts = [f"<text x='{left}' y='24' {_FONT} font-weight='bold'>{escape(title)}</text>", _legend(series, left)]
    parts += _scale(highest, unit, left, top, height, width)
    for i, group in enumerate(groups):
        x = left + i * span + gap / 2
        for j, (_, values) in enumerate(series):
            tall = height * values[i] / highest
            parts.append(
                f"<rect x='{x + j * wide:.1f}' y='{top + height - tall:.1f}' width='{wide - 4}' height='{tall:.1f}' "
                f"fill='{_COLOURS[j % len(_COLOURS)]}'><title>{escape(group)}: {values[i]:.1f} {unit}</title></rect>"
            )
        parts.append(f"<text x='{x:.1f}' y='{top + height + 18}' {_FONT}>{escape(group)}</text>")
    return _svg(width, top + height + 40, parts)


def lines(
    title: str, xs: Sequence[float], series: Sequence[tuple[str, Sequence[float]]], x_unit: str, unit: str
) -> str:
    """Return a chart with one line for each series over a common x axis."""
    left, top, height, width = 60, 60, 260, 560
    highest = max((value for _, values in series for value in values), default=1.0) or 1.0
    span = (max(xs) - min(xs)) or 1.0
    parts = [f"<text x='{left}' y='24' {_FONT} font-weight='bold'>{escape(title)}</text>", _legend(series, left)]
    parts += _scale(highest, unit, left, top, height, left + width)
    for j, (_, values) in enumerate(series):
        points = [
            (left + width * (x - min(xs)) / span, top + height * (1 - value / highest))
            for x, value in zip(xs, values, strict=True)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = _COLOURS[j % len(_COLOURS)]
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
    for x in (xs[0], xs[-1]):
        place = left + width * (x - min(xs)) / span
        parts.append(f"<text x='{place:.1f}' y='{top + height + 18}' {_FONT}>{x:g} {x_unit}</text>")
    return _svg(left + width + 40, top + height + 40, parts)


def _scale(highest: float, unit: str, left: int, top: int, height: int, right: int) -> list[str]:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        parts.append(f"<line x1='{left}' y1='{y}' x2='{right}' y2='{y}' stroke='#ddd'/>")
        parts.append(f"<text x='4' y='{y + 4}' {_FONT}>{highest * share:.1f} {escape(unit)}</text>")
    return parts


def _legend(series: Sequence[tuple[str, Sequence[float]]], left: int) -> str:
    parts, x = [], left
    for j, (name, _) in enumerate(series):
        parts.append(f"<rect x='{x}' y='36' width='10' height='10' fill='{_COLOURS[j % len(_COLOURS)]}'/>")
        parts.append(f"<text x='{x + 14}' y='45' {_FONT}>{escape(name)}</text>")
        x += 30 + 7 * len(name)
    return "".join(parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}'><rect width='100%' height='100%' fill='white'/>\n{body}\n</svg>\n"
    )
