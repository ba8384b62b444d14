"""How the recommender's cost grows with the fleet, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_SHOWN = {
    "round_processor_seconds": "a round of all evaluations, s of one core",
    "scrape_processor_seconds": "one scrape of all pods, s of one core",
    "resident_mib": "resident, MiB",
    "disk_mib": "history of 48 h, MiB",
}


def plot(measured: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Each figure over the number of pods, with a line of slope 1 through the first."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures make the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "recommender"})
    from matplotlib import pyplot

    pods = sorted(measured)
    figure, places = pyplot.subplots(1, len(_SHOWN), figsize=(12, 3), constrained_layout=True)
    for place, (name, title) in zip(places, _SHOWN.items(), strict=True):
        values = [measured[count][name] for count in pods]
        place.loglog(pods, [values[0] * count / pods[0] for count in pods], color="0.7", linestyle="--", linewidth=1)
        place.loglog(pods, values, marker="o", color="#1f77b4")
        for count, value in zip(pods, values, strict=True):
            place.annotate(f"{value:.3g}", (count, value), textcoords="offset points", xytext=(-4, 6), fontsize=7)
        place.set_title(title, fontsize=9)
        place.set_xlabel("pods", fontsize=8)
        place.tick_params(labelsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
