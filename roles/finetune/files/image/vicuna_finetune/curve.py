# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The loss curve as one SVG file that needs nothing else. Pure, and the same bytes for the same log."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 56, 48
# More points than pixels tell nothing.
MOST_POINTS = 600
# Okabe and Ito's blue and vermilion, told apart by colour-blind readers, in a lighter blue on dark.
STYLE = """\
svg { color-scheme: light dark; background: #ffffff; }
text { font: 12px system-ui, sans-serif; fill: #444444; }
.title { font-size: 14px; font-weight: 600; fill: #111111; }
.grid { stroke: #e4e4e4; } .axis { stroke: #888888; }
.raw { stroke: #0072b2; stroke-opacity: 0.3; fill: none; }
.smooth { stroke: #0072b2; stroke-width: 2; fill: none; }
.heldout { stroke: #d55e00; stroke-width: 2; fill: none; stroke-dasharray: 6 3; } .dot { fill: #d55e00; }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c; } text { fill: #b8bcc4; } .title { fill: #f2f2f2; }
  .grid { stroke: #2c2f36; } .axis { stroke: #6a6f78; }
  .raw, .smooth { stroke: #56b4e9; }
}
"""
Point = tuple[float, float]


def svg(log: Sequence[Mapping[str, t.Any]], heldout: Mapping[str, float | None]) -> str:
    """Draw the training loss, itself and smoothed, and the held-out loss from the base's to the result's."""
    train = points(log, "loss")
    last = max((point[0] for point in train), default=1.0)
    held = points(log, "heldout_loss")
    ends = {0.0: heldout.get("base"), last: heldout.get("tuned")}
    held = [point for point in held if point[0] not in ends or ends[point[0]] is None]
    held = sorted([*held, *((step, loss) for step, loss in ends.items() if loss is not None)])
    # What is drawn decides the axis, and the raw loss's rare peaks do not.
    smooth = smoothed(train)
    shown = [loss for _, loss in [*smooth, *held]] or [1.0]
    rows = ticks(min(0.0, *shown) if len(shown) > 1 else 0.0, max(shown) * 1.08 or 1.0, 5)
    columns = ticks(0.0, last, 6)
    top, right = rows[-1], max(last, columns[-1])

    def place(point: Point) -> str:
        x = LEFT + point[0] / right * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - min(point[1], top) / top * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>Loss by step: {describe(smooth, held)}</title>",
        f"<style>\n{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="22">Loss (mean cross entropy of a token, nats)</text>',
    ]
    for value in rows:
        y = place((0, value)).split(",")[1]
        out.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    floor = HEIGHT - BOTTOM
    for value in columns:
        x = place((value, 0)).split(",")[0]
        out.append(f'<path class="axis" d="M{x} {floor}v5"/>')
        out.append(f'<text x="{x}" y="{floor + 20}" text-anchor="middle">{number(value)}</text>')
    out.append(f'<path class="axis" d="M{LEFT} {floor}H{WIDTH - RIGHT}"/>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    legend = [("raw", "training"), ("smooth", "training, smoothed"), ("heldout", "held out")]
    for index, (kind, name) in enumerate(legend if held else legend[:2]):
        start = LEFT + 140 * index
        out.append(f'<path class="{kind}" d="M{start} 40h24"/><text x="{start + 30}" y="44">{name}</text>')
    for kind, line in (("raw", thinned(train)), ("smooth", thinned(smooth)), ("heldout", thinned(held))):
        if line:
            out.append(f'<polyline class="{kind}" points="{" ".join(place(point) for point in line)}"/>')
    for point in thinned(held):
        x, y = place(point).split(",")
        out.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3"/>')
    return "\n".join([*out, "</svg>"]) + "\n"


def points(log: Sequence[Mapping[str, t.Any]], name: str) -> list[Point]:
    """Return step and value of the lines that have it."""
    found = [(float(line["step"]), line[name]) for line in log if isinstance(line.get(name), (int, float))]
    return [(step, float(value)) for step, value in found if math.isfinite(value)]


def smoothed(line: Sequence[Point]) -> list[Point]:
    """Return an exponential mean over about a twentieth of the steps, without the bias of its start."""
    weight = 1.0 - 1.0 / max(1.0, len(line) / 20)
    mean = share = 0.0
    out = []
    for step, value in line:
        mean, share = weight * mean + (1 - weight) * value, weight * share + (1 - weight)
        out.append((step, mean / share))
    return out


def thinned(line: Sequence[Point]) -> list[Point]:
    """Return at most MOST_POINTS points, the first and the last among them."""
    if len(line) <= MOST_POINTS:
        return list(line)
    return [line[round(index * (len(line) - 1) / (MOST_POINTS - 1))] for index in range(MOST_POINTS)]


def ticks(least: float, greatest: float, count: int) -> list[float]:
    """Return round numbers, 1, 2 or 5 times a power of ten apart, from at most ``least`` to at least ``greatest``."""
    rough = max(greatest - least, 1e-6) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(least / step)
    return [index * step for index in range(first, max(math.ceil(greatest / step - 1e-9), first + 1) + 1)]


def number(value: float) -> str:
    """Write a tick's number without noise of the floating point."""
    return f"{value:.6g}"


def describe(train: Sequence[Point], held: Sequence[Point]) -> str:
    """Say in words what is drawn, for those who do not see it."""
    said = [
        f"{name} from {line[0][1]:.3f} to {line[-1][1]:.3f}"
        for name, line in (("training", train), ("held out", held))
        if line
    ]
    return ", ".join(said) or "no steps"
