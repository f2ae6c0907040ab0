"""Figures as pictures: horizontal bars, shortest first, as SVG that looks the same each time it is drawn from the same figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OURS = "#1f6f8b"
OTHERS = "#b8c4cc"


def bars(path: Path, title: str, seconds: Mapping[str, float], floor: float) -> None:
    """One bar for each way; ours stand out, and a line shows what the server alone takes.

    Args:
        path: The SVG file.
        title: Above the bars.
        seconds: The label of each way and its median, in seconds.
        floor: Seconds of the server alone.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "arrow-ferry", "svg.fonttype": "none", "font.family": "sans-serif"}
    ordered = sorted(seconds.items(), key=lambda one: -one[1])
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.34 * len(ordered)), layout="constrained")
    drawn = axes.barh(
        [label for label, _ in ordered], [s for _, s in ordered], color=[OURS if label.startswith("arrow-ferry") else OTHERS for label, _ in ordered]
    )
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.axvline(floor, color="#555555", linestyle="--", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title} (dashed: the server alone)", x=0.01, ha="left", fontsize=11)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
