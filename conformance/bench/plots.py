"""Plots in SVG for the documentation: bars for each row and server, with the least and the most as a line. No library is needed.

Colours go with servers and are the same in every plot. The ground is white, on dark pages too.
"""

import html
import re

from bench.metrics import BY_KEY, figure, shown

COLOURS = {
    "dvcr": "#1f77b4",
    "dvcr-whole": "#7fb2d9",
    "distribution": "#ff7f0e",
    "docker-registry": "#ffbb78",
    "zot": "#2ca02c",
    "nginx": "#7f7f7f",
    "floor": "#c7c7c7",
}
LEFT, WIDTH, RIGHT, BAR, GAP, TOP = 270, 460, 110, 14, 12, 46


def text(x, y, words, anchor="start", weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{html.escape(words)}</text>'


def plot(title, metric, results):
    """Bars of one metric; None where no row has it."""
    rows = {}
    for row, peers in results.items():
        if figures := {peer: it for peer, many in peers.items() if (it := figure(metric, many))}:
            rows[row] = figures
    most = max((it.most for figures in rows.values() for it in figures.values()), default=0)
    if most <= 0:
        return None
    drawn, y = [], TOP
    for row, figures in rows.items():
        drawn.append(text(LEFT - 8, y + BAR * len(figures) / 2 + 4, row, "end"))
        for peer, it in figures.items():
            length, middle = WIDTH * it.median / most, y + BAR / 2
            drawn.append(
                f'<rect x="{LEFT}" y="{y:.1f}" width="{length:.1f}" height="{BAR - 2}" fill="{COLOURS.get(peer, "#999")}"/>'
            )
            ends = [LEFT + WIDTH * value / most for value in (it.least, it.most)]
            drawn.append(f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="#222"/>')
            drawn.append(text(max(LEFT + length, ends[1]) + 5, y + BAR - 4, shown(metric, it.median)))
            y += BAR
        y += GAP
    better = "more is better" if metric.more_is_better else "less is better"
    head = [text(8, 16, f"{title}: {metric.title}, {better}", weight="bold")]
    x = 8
    for peer in dict.fromkeys(peer for figures in rows.values() for peer in figures):
        head.append(f'<rect x="{x}" y="25" width="10" height="10" fill="{COLOURS.get(peer, "#999")}"/>')
        head.append(text(x + 14, 34, peer))
        x += 34 + 7 * len(peer)
    size = f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {y}" width="{LEFT + WIDTH + RIGHT}" height="{y}"'
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *head,
            *drawn,
            "</svg>",
            "",
        ]
    )


PLOTTED = ("speed", "requests", "p99", "cpu", "cpu_each", "peak", "stored", "seconds")


def together(runs):
    """The groups of several runs, with the rows of all of them."""
    groups = {}
    for raw in runs:
        for name, group in raw["groups"].items():
            groups.setdefault(name, {"title": group["title"], "results": {}})["results"].update(group["results"])
    return groups


def plots(*runs):
    """The plots of runs, by file name: one for each group, store and metric."""
    drawn = {}
    for group in together(runs).values():
        # A scene is the first two words of a row's name: push/filesystem, small/seaweedfs.
        parts = {}
        for row, peers in group["results"].items():
            part, _, rest = re.match(r"([^/]+/[^/]+)(/)?(.*)", row).groups()
            parts.setdefault(part, {})[rest or row] = peers
        for part, results in parts.items():
            # Seconds say the same as MB/s and requests, where there are any.
            timed = not any(
                "payload" in one or "requests" in one for peers in results.values() for many in peers.values() for one in many
            )
            for key in PLOTTED:
                if key == "seconds" and not timed:
                    continue
                if svg := plot(f"{group['title']}, {part.split('/')[1]}", BY_KEY[key], results):
                    drawn[f"{part.replace('/', '-')}-{key}.svg"] = svg
    return drawn
