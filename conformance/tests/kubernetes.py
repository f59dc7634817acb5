"""A real Kubernetes API of the tests' own: etcd and kube-apiserver on loopback, and the stock kubectl.

Nothing else of a cluster runs. So nothing removes what has lost its owner, ends the deletion of a namespace, makes Pods
of Jobs or runs them: what a test needs of that, `job_runner.py` does.
"""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import secrets
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from urllib.parse import urlsplit

from dvcr import free_port
from flaky_http import Authority, openssl

ISSUER = "https://kubernetes.default.svc"


class Kubernetes:
    """`cache` is the folder with the tools that conformance/setup installs."""

    def __init__(self, cache):
        self.programs = pathlib.Path(cache) / "bin"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dvcr-kubernetes-"))
        self.etcd_url, self.port = f"http://127.0.0.1:{free_port()}", free_port()
        self.server = f"https://127.0.0.1:{self.port}"
        self.etcd = self.api = self.admin = None
        self.homes = 0

    def start(self):
        self.authority = Authority(self.folder / "authority")
        self.certificate = self.authority.certify("127.0.0.1", "localhost")
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.folder / "sa.key")
        openssl("pkey", "-in", self.folder / "sa.key", "-pubout", "-out", self.folder / "sa.pub")
        token = secrets.token_hex(16)
        (self.folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        self.admin = self.kubeconfig("admin", token)
        self.start_etcd()
        return self.start_api()

    def start_etcd(self):
        peers = f"http://127.0.0.1:{free_port()}"
        self.etcd = self.process(
            "etcd",
            self.programs / "etcd",
            # No test takes the power away.
            "--unsafe-no-fsync",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )

    def start_api(self):
        """Starts kube-apiserver over what etcd has, and waits until it is ready."""
        certificate, key = self.certificate
        self.api = self.process(
            "kube-apiserver",
            self.programs / "kube-apiserver",
            f"--etcd-servers={self.etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            # An address of loopback may not stand in the endpoints of the Service `kubernetes`.
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--token-auth-file={self.folder}/tokens.csv",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.folder}/sa.pub",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            # Asked to stop, it tells those who watch to go, and does not wait a minute for them.
            "--shutdown-send-retry-after=true",
            "--shutdown-watch-termination-grace-period=1s",
            # It waits for the account `default` of each namespace, which a controller makes.
            "--disable-admission-plugins=ServiceAccount",
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.api.poll() is None and self.etcd.poll() is None:
            try:
                if Api(self.admin).answer("GET", "/readyz")[0] == 200:
                    return self
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.05)
        logs = f"{self.log('kube-apiserver')}\n{self.log('etcd')}"
        self.stop()
        raise AssertionError(f"kube-apiserver is not ready:\n{logs}")

    def process(self, name, *command):
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def stop_api(self):
        """Stops kube-apiserver alone: every watch ends, and nobody answers until it is started again."""
        self.api.terminate()
        ended(self.api)

    def restart_api(self):
        """Stops kube-apiserver and starts it again on the same port, over the same data."""
        self.stop_api()
        return self.start_api()

    def stop(self):
        # What they have is thrown away, so nothing is gained by asking them to end.
        for process in [self.api, self.etcd]:
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubeconfig(self, name, token=None, groups=(), namespace="default"):
        """A kubeconfig for whom a token is of, or else for a user of this name in these groups, by certificate."""
        if token is not None:
            user = {"token": token}
        else:
            certificate, key = self.client_certificate(name, groups)
            user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
        cluster = {"server": self.server, "certificate-authority-data": encoded(self.authority.certificate)}
        context = {"cluster": "conformance", "user": name, "namespace": namespace}
        file = self.folder / f"{name.replace(':', '_')}.kubeconfig"
        # JSON is YAML too.
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "conformance", "cluster": cluster}],
                    "users": [{"name": name, "user": user}],
                    "contexts": [{"name": "conformance", "context": context}],
                    "current-context": "conformance",
                }
            )
        )
        file.chmod(0o600)
        return file

    def client_certificate(self, name, groups):
        folder, start = self.authority.folder, f"client-{name.replace(':', '_')}"
        request, key, made = (folder / f"{start}.{end}" for end in ["csr", "key", "pem"])
        subject = f"/CN={name}" + "".join(f"/O={group}" for group in groups)
        openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject,
            "-keyout", key, "-out", request,
        )  # fmt: skip
        extensions = folder / "client.ext"
        extensions.write_text("extendedKeyUsage=clientAuth\n")
        openssl(
            "x509", "-req", "-in", request, "-CA", self.authority.certificate, "-CAkey", self.authority.key,
            "-CAcreateserial", "-days", "30", "-extfile", extensions, "-out", made,
        )  # fmt: skip
        return made, key

    def service_account(self, name, namespace="default", duration="24h"):
        """A kubeconfig with a token that the API gave for a service account, which must exist."""
        arguments = ["--namespace", namespace, "--duration", duration]
        token = self.kubectl()("create", "token", name, *arguments).stdout.strip()
        return self.kubeconfig(f"system:serviceaccount:{namespace}:{name}", token, namespace=namespace)

    def kubectl(self, kubeconfig=None):
        """kubectl as an identity, or as admin."""
        self.homes += 1
        home = self.folder / f"home{self.homes}"
        return Kubectl(self.programs / "kubectl", ["--kubeconfig", kubeconfig or self.admin], home)


def encoded(file):
    return base64.b64encode(file.read_bytes()).decode()


def ended(process, seconds=30):
    """Waits for a process that was asked to end."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Kubectl:
    """The stock kubectl, with a home of its own and nothing of the caller's environment.

    `arguments` say whom it speaks to: `["--kubeconfig", FILE]` or `["--server=http://127.0.0.1:PORT"]`.
    """

    def __init__(self, binary, arguments, home):
        self.command = list(map(str, [binary, *arguments]))
        self.home = pathlib.Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}

    def __call__(self, *arguments, input=None, check=True, timeout=60):
        """Runs it to its end. `input` is its standard input: text, or an object that goes as JSON."""
        if input is not None and not isinstance(input, str):
            input = json.dumps(input)
        given = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, timeout=timeout, check=False, **given,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"kubectl {arguments}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments, **options):
        """What a command gives with `-o json`."""
        return json.loads(self(*arguments, "-o", "json", **options).stdout)

    def start(self, *arguments, **options):
        """Begins a command that goes on beside the test, such as a watch."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*self.command, *map(str, arguments)], env=self.environment, text=True, **options)


class Api:
    """The API over HTTP, as the identity of a kubeconfig that `Kubernetes` wrote."""

    def __init__(self, kubeconfig):
        config = json.loads(pathlib.Path(kubeconfig).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.address = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.context = ssl.create_default_context(cadata=authority)
        self.headers = {"Authorization": f"Bearer {user['token']}", "Accept": "application/json"}

    def ask(self, method, path, body=None, kind="application/json", timeout=60):
        """Sends a request, and gives the connection with the answer that has begun."""
        connection = http.client.HTTPSConnection(
            self.address.hostname, self.address.port, timeout=timeout, context=self.context
        )
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {**self.headers, "Content-Type": kind})
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def answer(self, method, path, body=None, kind="application/json", seconds=30):
        """The status of the answer, and its bytes. Told to come again, it does so for so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            connection, response = self.ask(method, path, body, kind)
            with contextlib.closing(connection):
                status, data = response.status, response.read()
            # So it is with custom resources when the API server has just been started.
            if status != 429 or time.monotonic() > deadline:
                return status, data
            time.sleep(0.2)

    def json(self, method, path, body=None, kind="application/json"):
        """The object that is answered, which must be one."""
        status, answer = self.answer(method, path, body, kind)
        assert status < 300, f"{method} {path}: {status} {answer.decode(errors='replace')}"
        return json.loads(answer)


def version(item):
    return item["metadata"]["resourceVersion"]


class Follower:
    """Everything that the objects of a path become, as an informer learns it: by a list, and then by one watch after the
    other, each of which begins where the one before was cut. Only when that is too long ago for the API, it lists again.

    `events` are the type and the object of each, in their order.
    """

    def __init__(self, api, path):
        self.api, self.path, self.events = api, path, []
        self.version, self.lists, self.watches, self.stopping = None, 0, 0, False
        self.thread = threading.Thread(target=self.follow, daemon=True)

    def start(self):
        self.list()
        self.thread.start()
        return self

    def stop(self):
        self.stopping = True
        self.thread.join()

    def known(self):
        """The objects that are there, by their names, as far as it was told."""
        there = {}
        for kind, item in list(self.events):
            there[item["metadata"]["name"]] = item
            if kind == "DELETED":
                del there[item["metadata"]["name"]]
        return there

    def follow(self):
        while not self.stopping:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.version is None:
                    self.list()
                self.watch()
            time.sleep(0.05)

    def list(self):
        """Learns what is there, and what is no more."""
        listed = self.api.json("GET", self.path)
        before, there = self.known(), {item["metadata"]["name"]: item for item in listed["items"]}
        self.events += [("DELETED", item) for name, item in before.items() if name not in there]
        self.events += [("ADDED", item) for name, item in there.items() if name not in before]
        same = {name for name in before.keys() & there.keys() if version(before[name]) == version(there[name])}
        self.events += [("MODIFIED", there[name]) for name in before.keys() & there.keys() - same]
        self.version = version(listed)
        self.lists += 1

    def watch(self):
        """Learns what happens, until the connection breaks, or for two seconds nothing does."""
        where = f"resourceVersion={self.version}&allowWatchBookmarks=true"
        connection, answer = self.api.ask("GET", f"{self.path}?watch=true&{where}", timeout=2)
        with contextlib.closing(connection):
            if answer.status != 200:
                self.version = None if answer.status == 410 else self.version
                return
            self.watches += 1
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    # The version was too long ago.
                    self.version = None
                    return
                self.version = version(event["object"])
                if event["type"] != "BOOKMARK":
                    self.events.append((event["type"], event["object"]))
                if self.stopping:
                    return
