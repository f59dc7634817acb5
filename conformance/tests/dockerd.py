"""A real Docker daemon of the tests' own, with its data in a folder that goes away.

It has neither network nor firewall rules, so it runs wherever one is root, and touches no other daemon.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
import time


class Dockerd:
    def __init__(self):
        # Not under pytest's folder: the path of a socket is limited to 107 characters.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dvcr-docker-"))
        self.host = f"unix://{self.folder}/docker.sock"
        self.process = None

    def start(self):
        log = (self.folder / "dockerd.log").open("wb")
        self.process = subprocess.Popen(
            [
                "dockerd",
                "--iptables=false",
                "--bridge=none",
                f"--storage-driver={self.driver()}",
                f"--data-root={self.folder}/data",
                f"--exec-root={self.folder}/exec",
                f"--pidfile={self.folder}/docker.pid",
                f"--host={self.host}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        for _ in range(300):
            assert self.process.poll() is None, self.log()
            if self.run("version", check=False).returncode == 0:
                return self
            time.sleep(0.1)
        raise AssertionError(f"dockerd does not answer:\n{self.log()}")

    def driver(self):
        """How it keeps layers: `vfs` copies them whole each time, and works where overlays cannot be mounted."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            lower, upper, work, merged = (pathlib.Path(folder) / name for name in ["lower", "upper", "work", "merged"])
            for path in [lower, upper, work, merged]:
                path.mkdir()
            options = f"lowerdir={lower},upperdir={upper},workdir={work}"
            mount = ["mount", "-t", "overlay", "overlay", "-o", options, merged]
            if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
                return "vfs"
            subprocess.run(["umount", merged], check=True)
            return "overlay2"

    def log(self):
        return (self.folder / "dockerd.log").read_text(errors="replace")[-4000:]

    def run(self, *arguments, check=True, **options):
        """Runs docker, and gives what it printed."""
        environment = {
            **os.environ,
            "DOCKER_HOST": self.host,
            # The builder in the daemon: it needs neither a plugin nor the network.
            "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": str(self.folder / "config"),
        }
        options = {"capture_output": True, "text": True, "timeout": 1800, **options}
        done = subprocess.run(["docker", *map(str, arguments)], env=environment, **options)
        assert not check or done.returncode == 0, f"docker {arguments}: {done.stdout}{done.stderr}"
        return done

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        mounts = [*self.folder.glob("data/*/*/merged"), *self.folder.glob("exec/netns/*")]
        subprocess.run(["umount", "-q", "-l", *mounts], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)
