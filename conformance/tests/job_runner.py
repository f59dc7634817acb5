"""What a cluster does with Jobs, beside an API that has nothing of it: Pods are made of Jobs, and run as processes.

It stands for the controllers of Jobs, of claims, of namespaces that go and of what has lost its owner, for the scheduler
and for the kubelet.
A container is a process with mounts and a root of its own: it sees the binary under test, the libraries of this machine
and its volumes, and the images that Jobs name are not pulled. All share the network, where each Pod has an address of its
own, whichever process of the tests runs it. Needs root.

What is not done: more than one container or Pod a Job, init containers, probes (what runs is ready), limits on
resources, `kubectl logs` and `exec`, changes of a Secret in a volume that is mounted. What it cannot run makes `stop`
fail, and says why.
"""

import base64
import contextlib
import datetime
import http.client
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
import traceback

from kubernetes import Api

NETWORK = f"127.{1 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])}"
NUMBERS = itertools.count(1)
"""Pods have addresses below the network of their process. Two of one address would be asked for each other's progress."""
NODE = "conformance"
"""Pods that name this node are run."""
USER = 65532
"""The USER of the image, for Pods that do not say who they are."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BINARY = "/usr/local/bin/dvcr"
"""Where a container finds the binary under test."""
MERGE = "application/merge-patch+json"

JOBS, PODS, CLAIMS = "/apis/batch/v1/jobs", "/api/v1/pods", "/api/v1/persistentvolumeclaims"
NAMESPACES = "/api/v1/namespaces"
OWNED = [PODS, CLAIMS, JOBS, "/api/v1/secrets", "/api/v1/configmaps", "/api/v1/services"]


class Later(Exception):
    """The API does not answer as it should at the moment: it is started again, or somebody was faster."""


class NotYet(Exception):
    """A container cannot start before something else is there. Has the reason and the sentence of the kubelet."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason, self.message = reason, message


class JobRunner:
    """`volumes` is the folder with the claims: `NAMESPACE/CLAIM`, a folder, or a sparse file for a block device.

    A Pod that failed is followed by another after `backoff` seconds, which are doubled with each that fails; a cluster
    begins with 10. When `room` Pods run, others wait for one of them to end.
    """

    def __init__(self, kubeconfig, binary, volumes, backoff=0.5, room=None):
        self.api, self.binary, self.volumes, self.backoff = Api(kubeconfig), binary, pathlib.Path(volumes), backoff
        self.room, self.kinds, self.watches = room, [], {}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dvcr-pods-"))
        self.folder.chmod(0o755)
        self.jobs, self.containers, self.claims, self.loops, self.addresses = {}, {}, {}, {}, {}
        self.changed, self.stopping, self.errors = threading.Event(), False, []
        self.thread = threading.Thread(target=self.work, daemon=True)

    # What a test asks for.

    def start(self):
        for path in [JOBS, PODS, CLAIMS, NAMESPACES]:
            threading.Thread(target=self.watch, args=(path,), daemon=True).start()
        self.thread.start()
        return self

    def stop(self):
        """Kills what runs, and fails when there was something it could not do."""
        self.stopping = True
        self.changed.set()
        for connection in self.watches.values():
            # Closed, it would go on to wait for what comes.
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(60)
        for container in self.containers.values():
            container.kill()
        for device in self.loops.values():
            subprocess.run(["losetup", "--detach", device], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not self.errors, "\n".join(self.errors)

    def running(self, job, namespace="default", seconds=30):
        """The container of a Job that runs, once it does. Has its `pid` and `address`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for container in list(self.containers.values()):
                if container.job == (namespace, job) and container.code() is None and container.is_in():
                    return container
            time.sleep(0.02)
        raise AssertionError(f"{namespace}/{job} does not run: {self.errors}\n{self.logs(job, namespace)}")

    def crash(self, job, namespace="default"):
        """Kills the process of a Job that runs, as the kernel does when memory is short."""
        self.running(job, namespace).kill()

    def logs(self, job, namespace="default"):
        """What the containers of a Job wrote, the first one first."""
        files = sorted(self.folder.glob(f"{namespace}/{job}/*.log"), key=lambda file: file.stat().st_ctime_ns)
        return "".join(file.read_text(errors="replace") for file in files)

    def collect(self, *more):
        """Deletes what has lost all its owners, and then what that owned; gives the names. `more` is further paths."""
        gone = []
        while True:
            found = [
                (path, item)
                for path in [*OWNED, *more]
                for item in self.list(path)
                if item["metadata"].get("ownerReferences") and "deletionTimestamp" not in item["metadata"]
                if not any(self.lives(owner, item) for owner in item["metadata"]["ownerReferences"])
            ]
            if not found:
                return gone
            for path, item in found:
                self.delete(path, item)
                gone.append(f"{path.rpartition('/')[2]}/{item['metadata']['name']}")

    # The API.

    def call(self, method, path, body=None, kind="application/json"):
        """The object that is answered; nothing when there is no such object, or it is another one by now."""
        try:
            status, answer = self.api.answer(method, path, body, kind)
        except (OSError, http.client.HTTPException) as broken:
            raise Later(f"{method} {path}: {broken}") from broken
        # Forbidden to an admin is what is to be made where everything is being deleted.
        if status in (403, 404, 409):
            return None
        if status in (429, 500, 503, 504):
            raise Later(f"{method} {path}: {status}")
        assert status < 300, f"{method} {path}: {status} {answer.decode(errors='replace')}"
        return json.loads(answer)

    def address(self, pod):
        """The address of a Pod: it stays the same while the Pod waits for something."""
        uid = pod["metadata"]["uid"]
        if uid not in self.addresses:
            number = next(NUMBERS)
            self.addresses[uid] = f"{NETWORK}.{number >> 8}.{number & 255}"
        return self.addresses[uid]

    def list(self, path):
        return self.call("GET", path)["items"]

    def patch(self, path, item, change, subresource=""):
        """Changes an object if it still is the one that was seen."""
        change.setdefault("metadata", {})["uid"] = item["metadata"]["uid"]
        return self.call("PATCH", named(path, item) + subresource, change, MERGE)

    def delete(self, path, item, **options):
        uid = {"uid": item["metadata"]["uid"]}
        item["metadata"].setdefault("deletionTimestamp", now())
        self.call("DELETE", named(path, item), {"preconditions": uid, "propagationPolicy": "Background", **options})

    def lives(self, owner, item):
        """Whether an owner of an object is there."""
        version = owner["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in (self.call("GET", root) or {"resources": []})["resources"]:
            if resource["kind"] == owner["kind"] and "/" not in resource["name"]:
                there = item if resource["namespaced"] else {"metadata": {}}
                found = self.call("GET", f"{named(f'{root}/' + resource['name'], there, owner['name'])}")
                return found is not None and found["metadata"]["uid"] == owner["uid"]
        # Of a kind that is not known, nothing is known to be gone.
        return True

    def watch(self, path):
        """Wakes the work when something changed. What it is, the work lists: so it misses nothing when this is cut."""
        while not self.stopping:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection, answer = self.api.ask("GET", f"{path}?watch=true&timeoutSeconds=45")
                self.watches[path] = connection
                with contextlib.closing(connection):
                    for _ in answer:
                        self.changed.set()
            time.sleep(0.1)

    def work(self):
        while not self.stopping:
            # Not before the lists: what changes while they are made is seen in the next round.
            self.changed.clear()
            try:
                self.round()
            except Later:
                pass
            except Exception:
                self.fault()
            # Deadlines are kept without anything changing.
            self.changed.wait(0.5)

    def fault(self):
        if (text := traceback.format_exc()) not in self.errors:
            self.errors.append(text)

    def attempt(self, work, *arguments):
        """Does something that, if it cannot be done, keeps nothing else from being done."""
        try:
            work(*arguments)
        except Later:
            raise
        except Exception:
            self.fault()

    def round(self):
        # In this order: a Pod that is seen and whose Job is not has lost it.
        pods, jobs, claims = self.list(PODS), self.list(JOBS), self.list(CLAIMS)
        self.bind(claims, pods)
        owned = {job["metadata"]["uid"]: [] for job in jobs}
        for pod in pods:
            owner = controller(pod)
            if owner and owner["kind"] == "Job":
                if owner["uid"] in owned:
                    owned[owner["uid"]].append(pod)
                elif "deletionTimestamp" not in pod["metadata"]:
                    self.delete(PODS, pod)
        for job in jobs:
            self.attempt(self.attend, job, owned[job["metadata"]["uid"]])
        for pod in pods:
            if pod["spec"].get("nodeName") == NODE:
                self.attempt(self.run, pod, claims)
        there = {pod["metadata"]["uid"] for pod in pods}
        for uid, container in list(self.containers.items()):
            # Deleted without waiting for it.
            if uid not in there and container.end(5):
                container.clean()
                del self.containers[uid]
        for namespace in self.list(NAMESPACES):
            if "deletionTimestamp" in namespace["metadata"]:
                self.attempt(self.empty, namespace["metadata"]["name"])

    # Namespaces.

    def empty(self, namespace):
        """Deletes all that is in a namespace, which goes when there is nothing left."""
        self.kinds = self.kinds or list(self.namespaced())
        left = [path for path in self.kinds if self.list(path.format(namespace))]
        for path in left:
            self.call("DELETE", path.format(namespace))
        if not left:
            finalize(self.call, namespace)

    def namespaced(self):
        """Where each kind is that is in namespaces."""
        groups = self.call("GET", "/apis")["groups"]
        for root in ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]:
            for kind in self.call("GET", root)["resources"]:
                if kind["namespaced"] and "deletecollection" in kind["verbs"]:
                    yield f"{root}/namespaces/{{}}/{kind['name']}"

    # Claims.

    def bind(self, claims, pods):
        there = set()
        for claim in claims:
            meta, key = claim["metadata"], name_of(claim)
            there.add(key)
            # The finalizer of the API server: a volume stays while there is a Pod that has it, even one that has ended.
            finalizers = meta.get("finalizers", [])
            used = any(key in claims_of(pod) for pod in pods)
            if "deletionTimestamp" in meta and "kubernetes.io/pvc-protection" in finalizers and not used:
                left = [finalizer for finalizer in finalizers if finalizer != "kubernetes.io/pvc-protection"]
                change = {"finalizers": left, "resourceVersion": meta["resourceVersion"]}
                self.patch(CLAIMS, claim, {"metadata": change})
            if claim["spec"].get("storageClassName") == "never":
                continue
            if self.claims.get(key) != meta["uid"]:
                # A new claim of an old name has a new volume.
                if key in self.claims:
                    self.forget(key)
                self.provide(claim)
                self.claims[key] = meta["uid"]
            storage = claim["spec"]["resources"]["requests"]["storage"]
            # Also what was asked to grow: the API lets nobody ask for less, nor for more where the class does not allow it.
            if claim["status"].get("phase") != "Bound" or claim["status"]["capacity"]["storage"] != storage:
                modes = claim["spec"]["accessModes"]
                status = {"phase": "Bound", "capacity": {"storage": storage}, "accessModes": modes}
                self.patch(CLAIMS, claim, {"status": status}, "/status")
        for key in self.claims.keys() - there:
            self.forget(key)

    def provide(self, claim):
        """The volume of a claim: a folder, or a sparse file with a block device over it."""
        key = name_of(claim)
        volume = self.volumes.joinpath(*key)
        if claim["spec"].get("volumeMode") != "Block":
            volume.mkdir(parents=True, exist_ok=True)
            return
        volume.parent.mkdir(parents=True, exist_ok=True)
        with volume.open("ab") as file:
            file.truncate(bytes_of(claim["spec"]["resources"]["requests"]["storage"]))
        done = subprocess.run(["losetup", "--find", "--show", volume], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self.loops[key] = done.stdout.strip()

    def forget(self, key):
        """Removes a volume."""
        if device := self.loops.pop(key, None):
            subprocess.run(["losetup", "--detach", device], check=False)
        volume = self.volumes.joinpath(*key)
        shutil.rmtree(volume) if volume.is_dir() else volume.unlink(missing_ok=True)
        del self.claims[key]

    # Jobs.

    def attend(self, job, pods):
        """Makes the Pods of a Job, and says how it goes."""
        meta, spec, status = job["metadata"], job["spec"], job.get("status", {})
        active = [pod for pod in pods if not ended(pod) and "deletionTimestamp" not in pod["metadata"]]
        if "deletionTimestamp" in meta:
            self.dismiss(job, pods)
            return
        if any(condition["type"] in ("Complete", "Failed") for condition in status.get("conditions", [])):
            return
        if spec.get("parallelism", 1) != 1 or spec.get("completions", 1) != 1:
            raise AssertionError(f"{meta['name']}: more than one Pod a Job")
        nothing = {"pods": set(), "counted": set(), "failed": 0, "failed_at": 0, "why": None}
        known = self.jobs.setdefault(meta["uid"], nothing)
        self.count(known, spec, pods)

        terminating = [pod for pod in pods if not ended(pod) and pod not in active]
        succeeded = [pod for pod in pods if pod["status"].get("phase") == "Succeeded"]
        conditions = status.get("conditions", [])
        started = status.get("startTime") or now()
        restarts = sum(entry["restartCount"] for pod in pods for entry in pod["status"].get("containerStatuses", []))
        if any(condition["type"] == "FailureTarget" for condition in conditions):
            target = next(condition for condition in conditions if condition["type"] == "FailureTarget")
            known["why"] = target["reason"], target["message"]
        elif known["why"] is None and not succeeded:
            limit = spec.get("backoffLimit", 6)
            # Beginning again in the same Pod counts too, and one less of it is allowed.
            if known["failed"] > limit or restarts >= max(limit, 1):
                known["why"] = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
            elif time.time() - moment(started) >= spec.get("activeDeadlineSeconds", float("inf")):
                known["why"] = "DeadlineExceeded", "Job was active longer than specified deadline"

        change = {"startTime": started, "active": len(active), "failed": known["failed"], "succeeded": len(succeeded)}
        change |= {"ready": sum(ready(pod) for pod in active), "terminating": len(terminating)}
        if known["why"]:
            for pod in active:
                self.delete(PODS, pod)
            conditions = with_condition(conditions, "FailureTarget", *known["why"])
            if not active and not terminating:
                conditions = with_condition(conditions, "Failed", *known["why"])
        elif succeeded and not active and not terminating:
            reached = "CompletionsReached", "Reached expected number of succeeded pods"
            conditions = with_condition(conditions, "SuccessCriteriaMet", *reached)
            conditions = with_condition(conditions, "Complete", *reached)
            change["completionTime"] = now()
        elif not active and not succeeded and not spec.get("suspend"):
            pause = self.backoff * 2 ** (known["failed"] - 1) if known["failed"] else 0
            waits = known["failed"] and time.monotonic() < known["failed_at"] + pause
            if not waits and not (terminating and spec.get("podReplacementPolicy") == "Failed"):
                self.make_pod(job, known)
        if conditions:
            change["conditions"] = conditions
        change["uncountedTerminatedPods"] = {}
        if any(status.get(key, 0 if isinstance(value, int) else None) != value for key, value in change.items()):
            self.patch(JOBS, job, {"status": change}, "/status")

    def count(self, known, spec, pods):
        """Counts each Pod that failed once, as the policy of the Job wants it."""
        seen = {pod["metadata"]["uid"]: pod for pod in pods}
        for uid in sorted((known["pods"] | seen.keys()) - known["counted"]):
            pod = seen.get(uid)
            # One that is not there any more was deleted before it ended.
            if pod is not None and pod["status"].get("phase") != "Failed":
                continue
            known["counted"].add(uid)
            rule = self.rule(spec, pod)
            if rule and rule["action"] == "Ignore":
                continue
            known["failed"] += 1
            known["failed_at"] = time.monotonic()
            if rule and rule["action"] == "FailJob":
                code = terminated(pod)["exitCode"]
                container = pod["spec"]["containers"][0]["name"]
                failed = f"Container {container} for pod {'/'.join(name_of(pod))} failed with exit code {code}"
                index = spec["podFailurePolicy"]["rules"].index(rule)
                known["why"] = "PodFailurePolicy", f"{failed} matching FailJob rule at index {index}"

    @staticmethod
    def rule(spec, pod):
        """The rule about exit codes of the Job's policy that holds for a Pod."""
        code = (terminated(pod) or {}).get("exitCode") if pod else None
        for rule in spec.get("podFailurePolicy", {}).get("rules", []):
            codes = rule.get("onExitCodes")
            if codes and code and (code in codes["values"]) == (codes["operator"] == "In"):
                return rule
        return None

    def make_pod(self, job, known):
        meta, template = job["metadata"], job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        pod = {
            "metadata": {
                "generateName": f"{meta['name']}-",
                # The API server has put the name and the uid of the Job there.
                "labels": template["metadata"]["labels"],
                "annotations": template["metadata"].get("annotations", {}),
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": {**template["spec"], "nodeName": NODE},
        }
        made = self.call("POST", f"/api/v1/namespaces/{meta['namespace']}/pods", pod)
        if made:
            known["pods"].add(made["metadata"]["uid"])

    def dismiss(self, job, pods):
        """A Job that goes takes its Pods along, or leaves them without an owner when that was asked for."""
        finalizers = job["metadata"].get("finalizers", [])
        for pod in pods:
            if "orphan" in finalizers:
                others = [o for o in pod["metadata"]["ownerReferences"] if o["uid"] != job["metadata"]["uid"]]
                self.patch(PODS, pod, {"metadata": {"ownerReferences": others}})
            elif "deletionTimestamp" not in pod["metadata"]:
                self.delete(PODS, pod)
        left = [f for f in finalizers if f != "orphan" and (f != "foregroundDeletion" or pods)]
        if left != finalizers:
            version = job["metadata"]["resourceVersion"]
            self.patch(JOBS, job, {"metadata": {"finalizers": left, "resourceVersion": version}})

    # Pods.

    def run(self, pod, claims):
        """Starts, ends and tells of the process of a Pod."""
        uid, going = pod["metadata"]["uid"], "deletionTimestamp" in pod["metadata"]
        container = self.containers.get(uid)
        if container is None:
            if going:
                self.delete(PODS, pod, gracePeriodSeconds=0)
            elif pod["status"].get("phase") == "Pending":
                self.begin(pod, claims)
            elif not ended(pod):
                self.lose(pod)
            return
        if going:
            container.end(min(5, pod["metadata"].get("deletionGracePeriodSeconds", 5)))
        code = container.code()
        policy = pod["spec"].get("restartPolicy", "Always")
        if code is not None and not going and (policy == "Always" or (policy == "OnFailure" and code != 0)):
            if time.monotonic() < container.finished + self.backoff:
                return
            container.again()
            code = None
        if not ended(pod):
            status = container.status(code)
            if not same(pod["status"], status):
                self.patch(PODS, pod, {"status": status}, "/status")
        if code is not None:
            container.clean()
            if going:
                self.delete(PODS, pod, gracePeriodSeconds=0)

    def begin(self, pod, claims):
        try:
            if self.is_full():
                raise NotYet("Unschedulable", "0/1 nodes are available: 1 Too many pods.")
            container = Container(self, pod, claims)
        except NotYet as why:
            # The phase stays Pending.
            if why.reason == "Unschedulable":
                status = {"conditions": [condition("PodScheduled", "False", why.reason, why.message)]}
            else:
                waiting = {"waiting": {"reason": why.reason, "message": why.message}}
                status = {"containerStatuses": [entry(pod["spec"]["containers"][0], waiting)]}
                status["startTime"] = pod["status"].get("startTime") or now()
            if not same(pod["status"], status):
                self.patch(PODS, pod, {"status": status}, "/status")
            return
        container.start()
        self.containers[pod["metadata"]["uid"]] = container
        self.patch(PODS, pod, {"status": container.status(None)}, "/status")

    def is_full(self):
        running = sum(container.code() is None for container in self.containers.values())
        return self.room is not None and running >= self.room

    def lose(self, pod):
        """A Pod that ran before this runner was started."""
        state = {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "The container could not be located"}
        first = entry(pod["spec"]["containers"][0], {"terminated": state})
        self.patch(PODS, pod, {"status": {"phase": "Failed", "containerStatuses": [first]}}, "/status")


class Container:
    """The process of a Pod, in a folder that is its root, with the mounts it asks for."""

    def __init__(self, runner, pod, claims):
        meta, spec = pod["metadata"], pod["spec"]
        if len(spec["containers"]) != 1 or spec.get("initContainers"):
            raise AssertionError(f"{meta['name']}: not exactly one container")
        self.runner, self.pod, self.spec = runner, pod, spec["containers"][0]
        self.namespace, self.name = meta["namespace"], meta["name"]
        owner = controller(pod)
        self.job = self.namespace, (owner or meta)["name"]
        self.claims = {name_of(claim): claim for claim in claims}
        self.asked = self.ended_with = None
        self.restarts, self.began, self.last = 0, pod["status"].get("startTime") or now(), {}
        self.folder = runner.folder / meta["uid"]
        self.root, self.message = self.folder / "root", self.folder / "termination-log"
        self.log = runner.folder / self.job[0] / self.job[1] / f"{self.name}.log"
        asked = {**spec.get("securityContext", {}), **self.spec.get("securityContext", {})}
        self.user, self.read_only = asked.get("runAsUser", USER), asked.get("readOnlyRootFilesystem", False)
        self.group = asked.get("runAsGroup", 0 if "runAsUser" in asked else USER)
        self.files = asked.get("fsGroup")
        # Volumes first, as the kubelet does: which of two missing things is told depends on it.
        try:
            self.volumes = {volume["name"]: self.volume(volume) for volume in spec.get("volumes", [])}
            self.address = runner.address(pod)
            self.environment = self.variables()
            self.lines = self.mounts()
        except BaseException:
            self.clean()
            raise

    # What it is made of.

    def secret(self, kind, reference):
        """The data of a Secret or ConfigMap, as bytes."""
        name = reference.get("name") or reference.get("secretName")
        found = self.runner.call("GET", f"/api/v1/namespaces/{self.namespace}/{kind}s/{name}")
        if found is None:
            if reference.get("optional"):
                return {}
            raise NotYet("CreateContainerConfigError", f'{kind} "{name}" not found')
        data = found.get("data", {})
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in data.items()}
        binary = {key: base64.b64decode(value) for key, value in found.get("binaryData", {}).items()}
        return {key: value.encode() for key, value in data.items()} | binary

    def field(self, path):
        """A field of the Pod, for the downward API."""
        mine = {"status.podIP": getattr(self, "address", ""), "status.podIPs": getattr(self, "address", "")}
        mine |= {"status.hostIP": "127.0.0.1", "status.hostIPs": "127.0.0.1"}
        if path in mine:
            return mine[path]
        if keyed := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return self.pod["metadata"].get(keyed[1], {}).get(keyed[2], "")
        top, _, key = path.partition(".")
        return self.pod[top].get(key, "")

    def variables(self):
        """The environment, of the container alone."""
        found = {"PATH": PATH, "HOME": "/", "HOSTNAME": self.name}
        for source in self.spec.get("envFrom", []):
            for kind, key in [("secret", "secretRef"), ("configmap", "configMapRef")]:
                if key in source:
                    data = self.secret(kind, source[key])
                    found |= {source.get("prefix", "") + name: value.decode() for name, value in data.items()}
        for variable in self.spec.get("env", []):
            source = variable.get("valueFrom")
            value = expanded(variable.get("value", ""), found) if source is None else self.value(source)
            if value is not None:
                found[variable["name"]] = value
        return found

    def value(self, source):
        if "fieldRef" in source:
            return self.field(source["fieldRef"]["fieldPath"])
        for kind, key in [("secret", "secretKeyRef"), ("configmap", "configMapKeyRef")]:
            if key in source:
                data = self.secret(kind, source[key])
                if source[key]["key"] in data:
                    return data[source[key]["key"]].decode()
                if source[key].get("optional"):
                    return None
                where = f"{kind.capitalize()} {self.namespace}/{source[key]['name']}"
                raise NotYet("CreateContainerConfigError", f"couldn't find key {source[key]['key']} in {where}")
        raise AssertionError(f"{self.name}: an environment of {list(source)}")

    def volume(self, volume):
        """The folder, or the device, that a volume of the Pod is."""
        if "persistentVolumeClaim" in volume:
            return self.claimed(volume["persistentVolumeClaim"]["claimName"])
        place = self.folder / "volumes" / volume["name"]
        place.mkdir(parents=True)
        try:
            files = self.projected(volume)
        except NotYet as why:
            failed = f'MountVolume.SetUp failed for volume "{volume["name"]}"'
            raise NotYet("ContainerCreating", f"{failed}: {why.message}") from None
        if files is None:
            place.chmod(0o777)
            self.belongs(place, 0o2070)
            return place
        for path, (content, mode) in files.items():
            file = place / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(mode)
            self.belongs(file, 0o040)
        return place

    def belongs(self, file, mode):
        """Gives a file to the group of the Pod's volumes, if it has one."""
        if self.files is not None:
            os.chown(file, -1, self.files)
            file.chmod(file.stat().st_mode | mode)

    def claimed(self, claim):
        key = (self.namespace, claim)
        if key not in self.claims:
            raise NotYet("Unschedulable", f'persistentvolumeclaim "{claim}" not found')
        if "deletionTimestamp" in self.claims[key]["metadata"]:
            raise NotYet("Unschedulable", f'persistentvolumeclaim "{claim}" is being deleted')
        if self.claims[key]["status"].get("phase") != "Bound":
            raise NotYet("Unschedulable", "pod has unbound immediate PersistentVolumeClaims")
        volume = self.runner.volumes.joinpath(*key)
        if volume.is_dir():
            self.belongs(volume, 0o2070)
        return volume

    def projected(self, volume):
        """Path, content and mode of each file of a volume; nothing for an empty folder."""
        files = {}
        if "emptyDir" in volume:
            return None
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        for source in sources:
            given = volume.get("projected", {})
            for kind, key in [("secret", "secret"), ("configmap", "configMap")]:
                if key in source:
                    data, mode = self.secret(kind, source[key]), {**given, **source[key]}.get("defaultMode", 0o644)
                    for i in source[key].get("items") or [{"key": name, "path": name} for name in data]:
                        if i["key"] in data:
                            files[i["path"]] = data[i["key"]], i.get("mode", mode)
                        elif not source[key].get("optional"):
                            raise NotYet("ContainerCreating", f"references non-existent {kind} key: {i['key']}")
            if "downwardAPI" in source:
                for i in source["downwardAPI"]["items"]:
                    files[i["path"]] = self.field(i["fieldRef"]["fieldPath"]).encode(), i.get("mode", 0o644)
            if not source.keys() & {"secret", "configMap", "downwardAPI"}:
                raise AssertionError(f"{self.name}: a volume of {list(source)}")
        return files

    def mounts(self):
        """The shell commands that make the root, in mounts that nobody else sees."""
        self.make_root()
        root = str(self.root)
        lines = [["mount", "--bind", root, root]]
        for part in ["bin", "sbin", "lib", "lib32", "lib64", "libexec", "share"]:
            if os.path.isdir(f"/usr/{part}"):
                lines += bound(f"/usr/{part}", f"{root}/usr/{part}", read_only=True)
            if os.path.isdir(f"/{part}") and not os.path.islink(f"/{part}"):
                lines += bound(f"/{part}", f"{root}/{part}", read_only=True)
        lines += bound(self.runner.binary, root + BINARY, read_only=True)
        lines += [["mount", "--rbind", f"/{part}", f"{root}/{part}"] for part in ["proc", "sys"]]
        lines += [["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{root}/dev"]]
        for device in ["null", "zero", "full", "random", "urandom", "tty"]:
            lines += bound(f"/dev/{device}", f"{root}/dev/{device}")
        for mount in sorted(self.spec.get("volumeMounts", []), key=lambda mount: mount["mountPath"]):
            source = self.volumes[mount["name"]] / mount.get("subPath", "")
            if not source.exists():
                self.make_sub_path(self.volumes[mount["name"]], source)
            lines += bound(source, root + mount["mountPath"], mount.get("readOnly") or mount["name"] in self.kept())
        for device in self.spec.get("volumeDevices", []):
            lines += self.device(self.volumes[device["name"]], root + device["devicePath"])
        self.message.touch()
        self.message.chmod(0o666)
        lines += bound(self.message, root + self.spec.get("terminationMessagePath", "/dev/termination-log"))
        if self.read_only:
            # Last, when all the places are made; what is mounted there stays as it is.
            lines += [["mount", "-o", "remount,bind,ro", root]]
        return lines

    @staticmethod
    def make_sub_path(volume, folder):
        """Makes a folder in a volume, which whoever may write to the volume may write to."""
        for part in reversed([folder, *folder.relative_to(volume).parents]):
            made = volume / part
            if not made.exists():
                made.mkdir()
                made.chmod(stat.S_IMODE(volume.stat().st_mode))

    def kept(self):
        """The volumes that cannot be written to."""
        kinds = {"secret", "configMap", "projected", "downwardAPI"}
        return {volume["name"] for volume in self.pod["spec"].get("volumes", []) if volume.keys() & kinds}

    def make_root(self):
        """The folders of the root, and the few files that programs look for."""
        for part in ["usr/local/bin", "etc/ssl/certs", "proc", "sys", "dev", "tmp"]:
            (self.root / part).mkdir(parents=True, exist_ok=True)
        (self.root / "tmp").chmod(0o1777)
        for part in ["bin", "sbin", "lib", "lib32", "lib64"]:
            if os.path.islink(f"/{part}"):
                (self.root / part).symlink_to(os.readlink(f"/{part}"))
        for file in ["etc/resolv.conf", "etc/ld.so.cache", "etc/ssl/certs/ca-certificates.crt"]:
            if os.path.exists(f"/{file}"):
                shutil.copy(f"/{file}", self.root / file)
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        # Where the image has it.
        (self.root / "dvcr").symlink_to(BINARY)

    def device(self, volume, place):
        """A block device of the container's own user, or its file where there are no loop devices."""
        loop = self.runner.loops.get((volume.parent.name, volume.name))
        if loop is None:
            return bound(volume, place)
        number = os.stat(loop).st_rdev
        return [
            ["mkdir", "-p", os.path.dirname(place)],
            ["mknod", "-m", "660", place, "b", str(os.major(number)), str(os.minor(number))],
            ["chown", f"{self.user}:{self.group}", place],
        ]

    # How it runs.

    def start(self):
        command = [*self.spec.get("command", []), *self.spec.get("args", [])]
        # Without a command it is the image's, which is the binary.
        if not self.spec.get("command"):
            command.insert(0, BINARY)
        command = [expanded(argument, self.environment) for argument in command]
        groups = [f"--groups={self.files}"] if self.files is not None else []
        inside = ["/usr/bin/env", "--chdir", self.spec.get("workingDir", "/"), "-i"]
        inside += [f"{name}={value}" for name, value in self.environment.items()]
        root = ["chroot", f"--userspec={self.user}:{self.group}", *groups, self.root, *inside, *command]
        lines = [shlex.join(map(str, line)) for line in self.lines]
        script = self.folder / "start"
        script.touch(0o600)
        script.write_text("\n".join(["set -eu", *lines, "exec " + shlex.join(map(str, root)), ""]))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # Each of these becomes the next: the process that is started is the one that runs in the end.
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.running_since = now()
        self.waiting = threading.Thread(target=self.wait, args=(self.process,), daemon=True)
        self.waiting.start()

    def wait(self, process):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # What it has started ends with it, as in a container. It is still there, so nobody else has its number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = process.returncode
        code = 128 - code if code < 0 else code
        self.last_word, self.finished, self.finished_at = self.told(code), time.monotonic(), now()
        # Last: who sees it finds the rest.
        self.ended_with = code
        self.runner.changed.set()

    def again(self):
        """Starts it once more in the same Pod."""
        self.last = self.state(self.code())
        self.restarts += 1
        self.ended_with = None
        self.message.write_bytes(b"")
        self.start()

    @property
    def pid(self):
        return self.process.pid

    def is_in(self):
        """Whether it is past its mounts."""
        process = pathlib.Path(f"/proc/{self.pid}")
        with contextlib.suppress(OSError):
            inside = os.path.samefile(process / "root", self.root)
            return inside and (process / "comm").read_text().strip() not in ("chroot", "env")
        return False

    def code(self):
        """How it ended, as a shell says it; nothing while it runs."""
        return self.ended_with

    def end(self, seconds):
        """Asks it to end, and kills it when it has not in so many seconds. Whether it has."""
        if self.code() is None:
            if self.asked is None:
                self.asked = time.monotonic()
                self.send(signal.SIGTERM)
            elif time.monotonic() > self.asked + seconds:
                self.kill()
        return self.code() is not None

    def kill(self):
        """Kills the process, and with it what it has started."""
        if self.code() is None:
            self.send(signal.SIGKILL)
            # It alone waits for the process, and tells of its end.
            self.waiting.join()

    def send(self, number):
        # It may have ended by itself just now.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def clean(self):
        """Removes what it had but for its log."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is told of it.

    def state(self, code):
        if code is None:
            return {"running": {"startedAt": self.running_since}}
        reason = "Completed" if code == 0 else "Error"
        told = {"exitCode": code, "reason": reason, "startedAt": self.running_since, "finishedAt": self.finished_at}
        if self.last_word:
            told["message"] = self.last_word
        return {"terminated": told}

    def told(self, code):
        """What it left as its last word, cut as the kubelet cuts it."""
        with contextlib.suppress(FileNotFoundError):
            if message := self.message.read_bytes()[-4096:]:
                return message.decode(errors="replace")
        if code != 0 and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            lines = self.log.read_bytes()[-2048:].splitlines(keepends=True)
            return b"".join(lines[-80:]).decode(errors="replace")
        return ""

    def status(self, code):
        """The status of the Pod."""
        runs = code is None
        why = () if runs else ("PodCompleted" if code == 0 else "PodFailed", "")
        conditions = [condition("PodScheduled", "True"), condition("Initialized", "True")]
        conditions += [condition(kind, str(runs), *why) for kind in ("Ready", "ContainersReady")]
        status = entry(self.spec, self.state(code), ready=runs, restarts=self.restarts, last=self.last)
        return {
            "phase": "Running" if runs else "Succeeded" if code == 0 else "Failed",
            "startTime": self.began,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": "127.0.0.1",
            "hostIPs": [{"ip": "127.0.0.1"}],
            "conditions": conditions,
            "containerStatuses": [status],
        }


def now():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text):
    return datetime.datetime.fromisoformat(text).timestamp()


def name_of(item):
    return item["metadata"]["namespace"], item["metadata"]["name"]


def named(path, item, name=None):
    """The path of an object, of the path of all of its kind."""
    root, _, resource = path.rpartition("/")
    namespace = item["metadata"].get("namespace")
    place = f"{root}/namespaces/{namespace}" if namespace else root
    return f"{place}/{resource}/{name or item['metadata']['name']}"


def finalize(call, namespace):
    """Lets a namespace go that is being deleted. `call` speaks to the API."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}}
    call("PUT", f"{NAMESPACES}/{namespace}/finalize", body)


def controller(item):
    return next((owner for owner in item["metadata"].get("ownerReferences", []) if owner.get("controller")), None)


def claims_of(pod):
    claims = [volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes", [])]
    return {(pod["metadata"]["namespace"], claim["claimName"]) for claim in claims if claim}


def ended(pod):
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def terminated(pod):
    """How the container of a Pod ended."""
    states = [status["state"] for status in pod["status"].get("containerStatuses", [])]
    return next((state["terminated"] for state in states if "terminated" in state), None)


def ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def condition(kind, status, reason="", message=""):
    made = {"type": kind, "status": status, "lastTransitionTime": now(), "reason": reason, "message": message}
    return {key: value for key, value in made.items() if value}


def with_condition(conditions, kind, reason, message):
    if any(present["type"] == kind for present in conditions):
        return conditions
    return [*conditions, {**condition(kind, "True", reason, message), "lastProbeTime": now()}]


def entry(container, state, ready=False, restarts=0, last=None):
    """The status of a container."""
    given = {"name": container["name"], "image": container.get("image", ""), "imageID": "", "ready": ready}
    return {**given, "started": ready, "restartCount": restarts, "state": state, "lastState": last or {}}


def same(have, wanted):
    """Whether a status says what is wanted already, whenever it was said."""
    if isinstance(wanted, dict):
        ignored = ("lastTransitionTime",)
        return isinstance(have, dict) and all(same(have.get(k), v) for k, v in wanted.items() if k not in ignored)
    if isinstance(wanted, list):
        return isinstance(have, list) and len(have) == len(wanted) and all(map(same, have, wanted))
    return have == wanted


def expanded(text, variables):
    """Kubernetes' own $(NAME); what is not known stays."""
    name = r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)"
    return re.sub(name, lambda match: "$" if match[0] == "$$" else variables.get(match[1], match[0]), text)


def bytes_of(quantity):
    """The bytes of a quantity such as 10Gi."""
    number, unit = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([A-Za-z]*)", quantity).groups()
    power = " kMGTPE".index(unit[0].replace("K", "k")) if unit else 0
    return int(float(number) * (1024 if unit.endswith("i") else 1000) ** power)


def bound(source, place, read_only=False):
    """Mounts a file or a folder at a place that may not be there yet."""
    made = [["mkdir", "-p", place]]
    if not os.path.isdir(source):
        made = [["mkdir", "-p", os.path.dirname(place)], ["touch", place]]
    made.append(["mount", "--bind", source, place])
    if read_only:
        made.append(["mount", "-o", "remount,bind,ro", place])
    return made
