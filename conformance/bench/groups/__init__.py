"""What is done, a file for each part of the table. Each has `scenes(settings)`, in the order in which they are played."""

from bench.groups import concurrent, pull, push, small

GROUPS = {"push": push, "pull": pull, "concurrent": concurrent, "small": small}
