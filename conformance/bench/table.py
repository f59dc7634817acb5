"""The results in markdown: a section for each group, a line for each row and peer."""

from bench import goals
from bench.metrics import METRICS, figure, ratio, shown

OURS = "dvcr"


def cell(metric, measurements, ours):
    """The median, the least and the most, and how many times ours that is."""
    it = figure(metric, measurements)
    if it is None:
        return ""
    text = shown(metric, it.median)
    if len(measurements) > 1:
        text += f" ({shown(metric, it.least)} to {shown(metric, it.most)})"
    times = ratio(metric, measurements, ours) if measurements is not ours else None
    return text if times is None else f"{text} ×{times:.2f}"


def section(title, run, results, described, reasons):
    """A table of one group, with the settings of its run. Columns that nobody has are left out."""
    columns = [
        metric
        for metric in METRICS
        if any(figure(metric, measurements) for peers in results.values() for measurements in peers.values())
    ]
    said, machine = run["settings"], run["machine"]
    lines = [["row", "server", *(metric.title for metric in columns)], ["---", "---", *["--:"] * len(columns)]]
    for row, peers in results.items():
        ours = peers.get(OURS, [])
        for peer, measurements in peers.items():
            # Who failed in a turn has fewer.
            turns = "" if len(measurements) == said["rounds"] else f" ({len(measurements)} turns)"
            lines.append([row, f"{peer}{turns}", *(cell(metric, measurements, ours) for metric in columns)])
    of = (
        f"Large blobs of {said['size_mib']} MiB on {machine['file_system']}; median of {said['rounds']} turns; "
        f"load of the machine before the run {machine['load_at_start']:.1f}."
    )
    text = [f"## {title}", "", of, "", *("| " + " | ".join(line) + " |" for line in lines)]
    text += ["", *(f"- `{row}`: {what}" for row, what in described.items() if row in results)]
    missing = [f"- {peer} has no `{scene}`: {reason}" for scene, peers in reasons.items() for peer, reason in peers.items()]
    return "\n".join([*text, *missing, ""])


def markdown(*runs):
    """Runs of one machine after each other, with what they ran on."""
    machine, versions = runs[0]["machine"], {name: said for raw in runs for name, said in raw["versions"].items()}
    text = [
        "# Speed beside the peers",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, Linux {machine['kernel']}. "
        f"Servers on cores {machine['server_cores']}; clients, S3 servers on {machine['client_cores']}.",
        "Medians (least to most); × is a multiple of DVCR's. Bytes written, read and stored are for each byte of the blob, with what "
        "an S3 server does.",
        "",
        *(f"- {name}: {version}" for name, version in versions.items()),
        "",
    ]
    for raw in runs:
        for group in raw["groups"].values():
            text.append(section(group["title"], raw, group["results"], group["described"], group["reasons"]))
    return "\n".join([*text, goals.markdown(*runs)])
