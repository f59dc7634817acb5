"""What a run was on, for those who read its results."""

import os
import platform
import subprocess


def machine(settings):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kind = subprocess.run(["df", "--output=fstype", settings.folder], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30)),
        "kernel": platform.release(),
        "file_system": kind.split()[-1],
        "server_cores": settings.cores[0],
        "client_cores": settings.cores[1],
        "load_at_start": os.getloadavg()[0],
    }
