"""What is done, a file for each part of the table. Each has `scenes(settings)`, in the order in which they are played."""

from bench.groups import clients, concurrent, imports, pull, push, scale, series, small

GROUPS = {
    "push": push,
    "pull": pull,
    "clients": clients,
    "concurrent": concurrent,
    "small": small,
    "import": imports,
    "series": series,
    "scale": scale,
}
