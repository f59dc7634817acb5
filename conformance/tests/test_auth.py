"""Who may do what: users, tenants, strangers, tokens, other people's tokens, and those who guess."""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import uuid
import warnings
from urllib.parse import quote

import pytest

from command import ASKED_WRONGLY, FAILED, requests
from disk import write_disk
from dvcr import BINARY, ROOT, free_port
from flaky_http import basic
from issuer import EcKey, Issuer, RsaKey, claims_of, signed, unsigned
from kubernetes import Kubectl
from test_delta import DELTA, Delta
from virtual_images import SlowWeb, from_object, from_registry, from_user, from_web, upload_url, virtual_image
from wire import Client, at_once, digest_of, encode, eventually

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import crypt

KEY = os.urandom(32)
FILE = f"uploads/{uuid.uuid4()}"
"""Somebody else's uploaded file."""
PASSWORDS = {"alice": "alice's: secret", "bob": "bobs-secret", "ops": "ops-secret", "nobody": "nobodys-secret"}
TENANTS = """
[[auth.rules]]
users = ["alice"]
repositories = ["vi/team-a/**"]
actions = ["pull", "push", "delete"]

[[auth.rules]]
users = ["bob"]
repositories = ["vi/team-b/**"]
actions = ["pull", "push"]

[[auth.rules]]
users = ["ops"]
repositories = ["**"]
actions = ["pull", "push", "delete", "admin"]

[[auth.rules]]
anonymous = true
repositories = ["public/**"]
actions = ["pull"]
"""


def hashed(password):
    return crypt.crypt(password, "$2b$04$" + "".join(base64.b64encode(os.urandom(16)).decode()[:21].replace("+", ".")) + "u")


def htpasswd(path, passwords):
    path.write_text("".join(f"{user}:{hashed(password)}\n" for user, password in passwords.items()))
    return path


@pytest.fixture
def users(tmp_path):
    return htpasswd(tmp_path / "htpasswd", PASSWORDS)


@pytest.fixture
def guarded(start, users, tmp_path):
    """Starts a registry with these rules."""

    def guarded(rules=TENANTS, more="", **environment):
        file = tmp_path / "dvcr.toml"
        file.write_text(f"[auth]\nhtpasswd = '{users}'\ntoken_key = '{base64.b64encode(KEY).decode()}'\n{more}\n{rules}")
        return start("filesystem", DVCR_CONFIG=str(file), **environment)

    return guarded


class User(Client):
    """Somebody who says who they are with each request."""

    def __init__(self, server, name=None, password=None, token=None):
        super().__init__(server.host)
        self.authorization = None
        if token is not None:
            self.authorization = f"Bearer {token}"
        elif name is not None:
            self.authorization = basic(f"{name}:{PASSWORDS[name] if password is None else password}")

    def send(self, method, path, body=None, headers=None, **more):
        own = {"Authorization": self.authorization} if self.authorization else {}
        return super().send(method, path, body, {**own, **(headers or {})}, **more)

    def token(self, *scopes, **parameters):
        """A token for scopes, with which requests are sent then."""
        answer = self.asks_token(*scopes, **parameters)
        assert answer.status == 200, answer
        return answer.json()["token"]

    def asks_token(self, *scopes, **parameters):
        query = "&".join([f"scope={quote(scope)}" for scope in scopes] + [f"{k}={v}" for k, v in parameters.items()])
        return self.get(f"/token?service=dvcr&{query}")

    def posts_token(self, **form):
        body = "&".join(f"{key}={quote(value, safe='')}" for key, value in form.items())
        return self.send("POST", "/token", body, {"Content-Type": "application/x-www-form-urlencoded"})


def challenge(answer):
    """The parameters of the challenge of a 401."""
    assert answer.status == 401, answer
    assert answer.codes() == ["UNAUTHORIZED"]
    header = answer.headers["WWW-Authenticate"]
    assert header.startswith("Bearer "), header
    return dict(re.findall(r'(\w+)="([^"]*)"', header))


def scopes_of(token):
    return {f"{one['type']}:{one['name']}:{','.join(one['actions'])}" for one in claims_of(token).get("access", [])}


def log_of(server):
    return server.log.read_text(errors="replace")


# Where nobody is asked.


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_a_server_that_others_reach_does_not_start_without_users_unless_told_so(dvcr, tmp_path, address):
    listen = ["serve", "--listen", f"{address}:{free_port()}", "--data", tmp_path / "data"]
    error = dvcr.refuses(*listen, code=ASKED_WRONGLY)
    assert "[auth]" in error and "--without-auth" in error, error


def test_a_server_that_others_reach_starts_when_it_is_told_who_may_or_that_all_may(users, outside, tmp_path):
    for number, setting in enumerate([{"DVCR_WITHOUT_AUTH": "true"}, {"DVCR_AUTH_HTPASSWD": str(users)}]):
        port = free_port()
        log = (tmp_path / f"log{number}").open("wb")
        process = subprocess.Popen(
            [BINARY, "serve", "--listen", f"{outside}:{port}", "--data", tmp_path / f"data{number}"],
            env={**os.environ, **setting}, stdout=log, stderr=log,
        )
        try:
            eventually(lambda: b"listening on" in (tmp_path / f"log{number}").read_bytes(), 30)
            answer = Client(f"{outside}:{port}").get("/v2/")
            assert answer.status == (200 if number == 0 else 401)
        finally:
            process.kill()
            process.wait()


def test_on_loopback_nothing_is_asked_by_default(local):
    assert local.get("/v2/").status == 200
    assert local.get("/token").status == 404
    local.push_image("a", "v1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bob:$apr1$abcdefgh$0123456789012345678901", "MD5"),
        ("bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
        ("bob:plain", "bcrypt"),
        ("bob", "USER:HASH"),
    ],
)
def test_hashes_other_than_bcrypt_are_refused_with_their_line(dvcr, tmp_path, line, said):
    file = tmp_path / "htpasswd"
    file.write_text(f"alice:{hashed('x')}\n{line}\n")
    error = dvcr.refuses("serve", "--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}",
                         code=ASKED_WRONGLY, environment={"DVCR_AUTH_HTPASSWD": str(file)})
    assert "line 2" in error and said in error and str(file) in error, error
    assert line.partition(":")[2] == "" or line.partition(":")[2] not in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[auth]", "nobody"),
        ("[[auth.rules]]\nactions = ['pull']\nrepositories = ['a']", "it is for nobody"),
        ("[[auth.rules]]\nanonymous = true\nactions = ['pull']", "repositories"),
        ("[[auth.rules]]\nanonymous = true\nactions = ['fly']\nrepositories = ['a']", "pull, push, delete or admin"),
        ("[[auth.rules]]\nanonymous = true\nactions = ['pull']\nrepositories = ['a/{name}']", "{namespace}"),
        ("[[auth.rules]]\nanonymous = true\nactions = ['admin']", "everybody"),
        ("[[auth.issuers]]\nissuer = 'https://a'\naudience = ''", "audience"),
        ("[auth]\nhtpasswd = '/nowhere'\ntoken_lifetime = 5", "60"),
        ("[auth]\ntoken_key = 'short'", "openssl rand"),
        ("storage = 's3://bucket'\n[auth]\nhtpasswd = '/nowhere'", "token_key"),
        ("without_auth = true\n[auth]\nhtpasswd = '/nowhere'", "contradict"),
    ],
)
def test_settings_that_make_no_sense_are_refused(dvcr, tmp_path, text, said):
    file = tmp_path / "dvcr.toml"
    file.write_text(text)
    assert said in dvcr.refuses("serve", "--config", file, code=ASKED_WRONGLY)


@pytest.mark.parametrize("installation", ["filesystem", "s3"])
def test_the_component_for_kubernetes_takes_the_open_door_out(cache, tmp_path, installation):
    def variables(*components):
        parts = {"resources": [installation], "components": components}
        lines = [f"{kind}:\n" + "".join(f"  - {os.path.relpath(ROOT / 'deploy/kubernetes' / name, tmp_path)}\n" for name in names)
                 for kind, names in parts.items() if names]
        (tmp_path / "kustomization.yaml").write_text("".join(lines))
        done = subprocess.run([cache / "bin/kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        registry, controller = (
            next(part for part in done.stdout.split("---\n") if "kind: Deployment" in part and f"\n  name: {name}\n" in part)
            for name in ["dvcr", "dvcr-controller"]
        )
        return [set(re.findall(r"name: (DVCR_(?:WITHOUT_AUTH|CONFIG|AUTH_TOKEN_KEY))", text)) for text in [registry, controller]]

    assert variables() == [{"DVCR_WITHOUT_AUTH"}, set()]
    assert variables("auth") == [{"DVCR_CONFIG", "DVCR_AUTH_TOKEN_KEY"}, {"DVCR_AUTH_TOKEN_KEY"}]


# Real clients.


@pytest.fixture
def disk_image(docker, tmp_path):
    """The context of an image with a disk, to build."""
    write_disk(tmp_path / "disk.img", 3)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY disk.img /disk/disk.img\n")
    return tmp_path


def test_docker_logs_in_pushes_and_pulls(docker, guarded, disk_image):
    server = guarded()
    mine, others = f"{server.host}/vi/team-a/disk:v1", f"{server.host}/vi/team-b/disk:v1"
    for tag in [mine, others]:
        docker.run("build", "--tag", tag, disk_image)
    assert docker.run("push", mine, check=False).returncode != 0
    wrong = docker.run("login", "-u", "alice", "--password-stdin", server.host, input="wrong", check=False)
    assert wrong.returncode != 0
    docker.run("login", "-u", "alice", "--password-stdin", server.host, input=PASSWORDS["alice"])
    docker.run("push", mine)
    denied = docker.run("push", others, check=False)
    assert denied.returncode != 0 and "denied" in denied.stdout + denied.stderr
    docker.run("rmi", mine)
    docker.run("pull", mine)
    # What docker keeps is a refresh token, and not the password.
    kept = json.loads((docker.folder / "config/config.json").read_text())["auths"][server.host]
    assert kept["identitytoken"] and PASSWORDS["alice"] not in base64.b64decode(kept["auth"]).decode()
    docker.run("logout", server.host)
    docker.run("rmi", mine)
    assert docker.run("pull", mine, check=False).returncode != 0


def test_docker_pulls_without_a_login_what_is_public(docker, guarded, disk_image):
    server = guarded()
    tag = f"{server.host}/public/disk:v1"
    docker.run("build", "--tag", tag, disk_image)
    docker.run("login", "-u", "ops", "--password-stdin", server.host, input=PASSWORDS["ops"])
    docker.run("push", tag)
    docker.run("logout", server.host)
    docker.run("rmi", tag)
    docker.run("pull", tag)
    assert docker.run("push", tag, check=False).returncode != 0


def test_skopeo_and_crane_say_who_they_are(cache, guarded, tmp_path):
    server = guarded()
    alice = User(server, "alice")
    alice.push_image("vi/team-a/disk", "v1")
    here = f"docker://{server.host}/vi/team-a"
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    skopeo = ["skopeo", "--insecure-policy", "copy", *plain]
    user = f"alice:{PASSWORDS['alice']}"

    def run(*command, **options):
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "DOCKER_CONFIG": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False, **options)

    done = run(*skopeo, "--src-creds", user, "--dest-creds", user, f"{here}/disk:v1", f"{here}/copy:v1")
    assert done.returncode == 0, done
    assert alice.get("/v2/vi/team-a/copy/manifests/v1").status == 200
    stranger = run(*skopeo, "--src-no-creds", f"{here}/disk:v1", f"dir:{tmp_path}/out")
    assert stranger.returncode != 0
    denied = run(*skopeo, "--src-creds", user, "--dest-creds", user, f"{here}/disk:v1", f"docker://{server.host}/vi/team-b/x:v1")
    assert denied.returncode != 0 and "403 (Forbidden)" in denied.stderr, denied
    crane = cache / "bin/crane"
    done = run(crane, "auth", "login", "-u", "alice", "--password-stdin", server.host, input=PASSWORDS["alice"])
    assert done.returncode == 0, done
    for command in [["digest", f"{server.host}/vi/team-a/disk:v1"], ["ls", f"{server.host}/vi/team-a/disk"],
                    ["manifest", f"{server.host}/vi/team-a/disk:v1"],
                    ["copy", f"{server.host}/vi/team-a/disk:v1", f"{server.host}/vi/team-a/crane:v1"]]:
        done = run(crane, *command, "--insecure")
        assert done.returncode == 0, done
    catalog = run(crane, "catalog", "--insecure", server.host)
    assert catalog.stdout.split() == ["vi/team-a/copy", "vi/team-a/crane", "vi/team-a/disk"], catalog
    assert run(crane, "digest", "--insecure", f"{server.host}/vi/team-b/x:v1").returncode != 0


def test_our_own_commands_say_who_they_are(dvcr, guarded, images, tmp_path):
    server = guarded()
    entry = {"auth": base64.b64encode(f"alice:{PASSWORDS['alice']}".encode()).decode()}
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: entry}}))
    auth = ("--auth-file", file)
    reference = f"{server.host}/vi/team-a/noble:v1"
    dvcr.imports(images.compressed("raw", "xz"), reference, *auth)
    dvcr.pulls(reference, tmp_path / "a", *auth)
    assert (tmp_path / "a").read_bytes() == images.disk().read_bytes()
    dvcr.run("copy", *auth, reference, f"{server.host}/vi/team-a/copy:v1")
    dvcr.run("rm", *auth, f"{server.host}/vi/team-a/copy:v1")
    assert dvcr.run("ls", *auth, "--output", "json", server.host).json()
    for command in [["stats", server.host], ["collect", "--dry-run", server.host], ["ls", f"{server.host}/vi/team-b/x"]]:
        assert "alice" in dvcr.refuses(*command, *auth, code=FAILED)
    entry["auth"] = base64.b64encode(f"ops:{PASSWORDS['ops']}".encode()).decode()
    file.write_text(json.dumps({"auths": {server.host: entry}}))
    for command in [["stats", server.host], ["collect", "--dry-run", server.host], ["inspect", reference]]:
        dvcr.run(*command, *auth)


def test_our_own_imports_send_only_what_is_new_also_out_of_other_repositories(dvcr, guarded, tmp_path):
    server = guarded()
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {server.host: {
        "auth": base64.b64encode(f"alice:{PASSWORDS['alice']}".encode()).decode()}}}))
    disk = tmp_path / "disk.raw"
    write_disk(disk, 16)
    dvcr.imports(disk, f"{server.host}/vi/team-a/one:v1", "--auth-file", file)
    with disk.open("r+b") as changed:
        changed.seek(5 << 20)
        changed.write(os.urandom(4096))
    result = dvcr.imports(disk, f"{server.host}/vi/team-a/two:v1", "--auth-file", file)
    assert result["copied"] > 14 << 20, result
    # What another tenant has is sent to the last byte.
    file.write_text(json.dumps({"auths": {server.host: {"auth": base64.b64encode(f"bob:{PASSWORDS['bob']}".encode()).decode()}}}))
    result = dvcr.imports(disk, f"{server.host}/vi/team-b/one:v1", "--auth-file", file)
    assert result["copied"] == 0, result


# Tenants and strangers.


def test_a_stranger_is_told_how_to_get_in(guarded):
    server = guarded()
    stranger = User(server)
    for method, path, scope in [
        ("GET", "/v2/", None),
        ("HEAD", "/v2/", None),
        ("GET", "/v2/vi/team-a/disk/manifests/v1", "repository:vi/team-a/disk:pull"),
        ("POST", "/v2/vi/team-a/disk/blobs/uploads/", "repository:vi/team-a/disk:pull,push"),
        ("DELETE", "/v2/vi/team-a/disk/manifests/v1", "repository:vi/team-a/disk:delete"),
        ("PUT", "/v2/public/disk/manifests/v1", "repository:public/disk:pull,push"),
        ("GET", "/v2/_dvcr/storage/stats", "registry:admin:*"),
    ]:
        answer = stranger.send(method, path)
        assert answer.status == 401, (method, path, answer)
        if method != "HEAD":
            found = challenge(answer)
            assert found["realm"] == f"http://{server.host}/token" and found["service"] == "dvcr"
            assert found.get("scope") == scope
    for path in ["/livez", "/readyz"]:
        assert stranger.get(path).status == 200
    for path in ["/disks/vi/team-a/disk/v1", "/metrics", "/", "/apis", "/api/v1/secrets"]:
        answer = stranger.get(path)
        assert answer.status == 401 and answer.headers["WWW-Authenticate"].startswith("Basic "), (path, answer)


def test_tenants_have_their_own_repositories_and_no_others(guarded):
    server = guarded()
    alice, bob = User(server, "alice"), User(server, "bob")
    digest = alice.push_image("vi/team-a/disk", "v1")
    bob.push_image("vi/team-b/disk", "v1")
    reads = ["manifests/v1", f"manifests/{digest}", "tags/list", f"referrers/{digest}", f"blobs/{digest}", f"_dvcr/chunks/{digest}"]
    for path in reads:
        assert alice.get(f"/v2/vi/team-a/disk/{path}").status != 403
        # Whether it is there makes no difference.
        answers = [bob.get(f"/v2/vi/{name}/{path}") for name in ["team-a/disk", "team-a/none", "team-ab/disk", "team-a"]]
        assert {answer.status for answer in answers} == {403}, answers
        assert {tuple(answer.codes()) for answer in answers} == {("DENIED",)}
        assert len({answer.body for answer in answers}) == 1
    for method, path in [("POST", "blobs/uploads/"), ("PUT", "manifests/v2"), ("DELETE", "manifests/v1"),
                         ("DELETE", f"blobs/{digest}"), ("PATCH", "blobs/uploads/5b608020-7361-434f-8000-000000000000")]:
        assert bob.send(method, f"/v2/vi/team-a/disk/{path}", b"x").status == 403, (method, path)
    assert bob.get("/disks/vi/team-a/disk/v1").status == 403
    # Bob may push and not delete.
    assert bob.delete("/v2/vi/team-b/disk/manifests/v1").status == 403
    assert alice.delete("/v2/vi/team-a/disk/manifests/v1").status == 202


def test_each_sees_in_the_catalog_what_they_may_pull(guarded):
    server = guarded()
    ops = User(server, "ops")
    for name in ["vi/team-a/one", "vi/team-a/two", "vi/team-b/one", "public/one"]:
        ops.push_image(name, "v1")

    def seen(client, query=""):
        return [name for page in client.pages(f"/v2/_catalog{query}") for name in page.json()["repositories"]]

    assert seen(ops) == ["public/one", "vi/team-a/one", "vi/team-a/two", "vi/team-b/one"]
    assert seen(ops, "?n=1") == seen(ops)
    for query in ["", "?n=1", "?n=2"]:
        assert seen(User(server, "alice"), query) == ["public/one", "vi/team-a/one", "vi/team-a/two"]
        assert seen(User(server, "nobody"), query) == ["public/one"]
        stranger = User(server, token=User(server).token("registry:catalog:*"))
        assert seen(stranger, query) == ["public/one"]
    assert challenge(User(server).get("/v2/_catalog"))["scope"] == "registry:catalog:*"
    token = User(server, "bob").token("registry:catalog:*")
    assert seen(User(server, token=token)) == ["public/one", "vi/team-b/one"]


def test_a_stranger_reads_what_is_public_and_nothing_else(guarded):
    server = guarded()
    ops = User(server, "ops")
    digest = ops.push_image("public/disk", "v1")
    ops.push_image("private/disk", "v1")
    anonymous = User(server, token=User(server).token("repository:public/disk:pull,push"))
    assert anonymous.get("/v2/").status == 200
    for stranger in [User(server), anonymous]:
        assert stranger.get("/v2/public/disk/manifests/v1").status == 200
        assert stranger.get(f"/v2/public/disk/manifests/{digest}").status == 200
        assert stranger.get("/v2/private/disk/manifests/v1").status == 401
        assert stranger.put_manifest("public/disk", "v2", b"{}", "application/json").status == 401
        assert stranger.delete("/v2/public/disk/manifests/v1").status == 401
    assert subprocess.run(["curl", "-sf", f"http://{server.host}/v2/public/disk/manifests/v1"], check=False).returncode == 0


def test_without_rules_users_may_everything_and_strangers_nothing(guarded):
    server = guarded(rules="")
    bob = User(server, "bob")
    bob.push_image("any/thing", "v1")
    assert bob.get("/v2/_dvcr/storage/stats").status == 200
    assert bob.delete("/v2/any/thing/manifests/v1").status == 202
    assert User(server).get("/v2/any/thing/tags/list").status == 401
    stranger = User(server, token=User(server).token("repository:any/thing:pull", "registry:catalog:*", "registry:admin:*"))
    assert stranger.get("/v2/any/thing/tags/list").status == 401
    assert stranger.get("/v2/_catalog").json() == {"repositories": []}
    assert stranger.get("/v2/_dvcr/storage/stats").status == 401


def test_only_those_who_look_after_it_collect_and_count(guarded):
    server = guarded()
    calls = [("GET", "stats"), ("POST", "collect?dryRun=true"), ("POST", "rewrite?to=whole"), ("POST", "none")]
    for method, call in calls:
        path = f"/v2/_dvcr/storage/{call}"
        assert User(server, "alice").send(method, path).status == 403
        assert User(server, "ops").send(method, path).status == (404 if call == "none" else 200)
    token = User(server, "ops").token("registry:catalog:*")
    assert User(server, token=token).get("/v2/_dvcr/storage/stats").status == 401
    token = User(server, "ops").token("registry:admin:*")
    assert User(server, token=token).get("/v2/_dvcr/storage/stats").status == 200


# What is in one repository does not get into another.


def test_a_mount_from_where_one_may_not_read_is_an_upload_and_tells_nothing(guarded):
    server = guarded()
    alice, bob = User(server, "alice"), User(server, "bob")
    digest = alice.push_blob("vi/team-a/disk", os.urandom(1000))

    def mounts(client, target, found, source=None):
        source = f"&from={quote(source)}" if source else ""
        return client.send("POST", f"/v2/{target}/blobs/uploads/?mount={found}{source}")

    def shape(answer):
        return answer.status, answer.body, tuple(sorted(name for name, _ in answer.headers.items()))

    missing = digest_of(b"nothing has this digest")
    both = ["repository:vi/team-b/x:pull,push", "repository:vi/team-a/disk:pull"]
    for client in [bob, User(server, token=bob.token(*both))]:
        answers = [mounts(client, "vi/team-b/x", found, "vi/team-a/disk") for found in [digest, missing]]
        answers += [mounts(client, "vi/team-b/x", found) for found in [digest, missing]]
        assert {shape(answer) for answer in answers} == {shape(answers[0])} and answers[0].status == 202, answers
        assert client.get(f"/v2/vi/team-b/x/blobs/{digest}").status == 404
    assert mounts(alice, "vi/team-a/y", digest, "vi/team-a/disk").status == 201
    # A token opens what is in it, also as a source.
    narrow = User(server, token=alice.token("repository:vi/team-a/z:pull,push"))
    assert mounts(narrow, "vi/team-a/z", digest, "vi/team-a/disk").status == 202
    wide = User(server, token=alice.token("repository:vi/team-a/z:pull,push repository:vi/team-a/disk:pull"))
    assert mounts(wide, "vi/team-a/z", digest, "vi/team-a/disk").status == 201
    stranger = challenge(mounts(User(server), "vi/team-a/z", digest, "vi/team-a/disk"))
    assert stranger["scope"] == "repository:vi/team-a/z:pull,push repository:vi/team-a/disk:pull"
    # Any repository will do only for those who may read all.
    assert mounts(User(server, "ops"), "ops/x", digest).status == 201


def test_a_delta_copies_only_out_of_what_its_sender_may_read(guarded):
    server = guarded()
    alice, bob = User(server, "alice"), User(server, "bob")
    content = os.urandom(3 << 20)
    digest = alice.push_blob("vi/team-a/disk", content)

    def sends(client, name, source):
        delta = Delta().out_of(content, source).copy(0, len(content))
        location = client.begin(name)
        headers = {"Content-Type": DELTA, "Content-Range": f"0-{len(content) - 1}"}
        answer = client.send("PATCH", location, delta.body, headers)
        return answer if answer.status != 202 else client.finish(location, digest)

    refused = sends(bob, "vi/team-b/disk", "vi/team-a/disk")
    missing = sends(bob, "vi/team-b/disk", "vi/team-b/none")
    assert (refused.status, refused.codes()) == (missing.status, missing.codes()) == (400, ["BLOB_UPLOAD_INVALID"])
    assert refused.json()["errors"][0]["message"].replace("team-a/disk", "team-b/none") == missing.json()["errors"][0]["message"]
    assert bob.get(f"/v2/vi/team-b/disk/blobs/{digest}").status == 404
    assert sends(alice, "vi/team-a/other", "vi/team-a/disk").status == 201
    narrow = User(server, token=alice.token("repository:vi/team-a/third:pull,push"))
    assert sends(narrow, "vi/team-a/third", "vi/team-a/disk").status == 400


def test_a_manifest_cannot_name_blobs_of_others(guarded):
    server = guarded()
    alice, bob = User(server, "alice"), User(server, "bob")
    manifest = alice.image("vi/team-a/disk", os.urandom(1000))
    answer = bob.put_manifest("vi/team-b/disk", "v1", encode(manifest))
    assert answer.status == 404 and "MANIFEST_BLOB_UNKNOWN" in answer.codes()


# Tokens.


def good(**changes):
    now = int(time.time())
    claims = {"iss": "dvcr", "aud": "dvcr", "iat": now, "exp": now + 60, "use": "access", "sub": "alice",
              "access": [{"type": "repository", "name": "vi/team-a/disk", "actions": ["pull"]}], **changes}
    return {name: value for name, value in claims.items() if value is not None}


def test_a_token_opens_what_was_asked_for_as_far_as_it_is_allowed(guarded):
    server = guarded()
    alice = User(server, "alice")
    for asked, granted in [
        ([], set()),
        (["repository:vi/team-a/disk:pull"], {"repository:vi/team-a/disk:pull"}),
        (["repository:vi/team-a/disk:pull,push,fly"], {"repository:vi/team-a/disk:pull,push"}),
        (["repository:vi/team-a/disk:*"], {"repository:vi/team-a/disk:pull,push,delete"}),
        (["repository:vi/team-a/a:pull repository:vi/team-b/b:pull", "repository:vi/team-a/c:push"],
         {"repository:vi/team-a/a:pull", "repository:vi/team-a/c:push"}),
        (["repository:vi/team-a/**:pull", "repository:**:pull", "registry:admin:*", "nonsense"], set()),
    ]:
        answer = alice.asks_token(*asked)
        body = answer.json()
        assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
        assert body["token"] == body["access_token"] and body["expires_in"] == 300 and body["issued_at"].endswith("Z")
        assert scopes_of(body["token"]) == granted
        assert "refresh_token" not in body


def test_a_token_of_one_repository_opens_no_other(guarded):
    server = guarded()
    User(server, "alice").push_image("vi/team-a/disk", "v1")
    User(server, "alice").push_image("vi/team-a/other", "v1")
    client = User(server, token=User(server, "alice").token("repository:vi/team-a/disk:pull"))
    assert client.get("/v2/vi/team-a/disk/manifests/v1").status == 200
    found = challenge(client.get("/v2/vi/team-a/other/manifests/v1"))
    assert found["error"] == "insufficient_scope" and found["scope"] == "repository:vi/team-a/other:pull"
    found = challenge(client.send("POST", "/v2/vi/team-a/disk/blobs/uploads/"))
    assert found["error"] == "insufficient_scope" and found["scope"] == "repository:vi/team-a/disk:pull,push"
    # Where no token could help, that is said for good.
    assert client.get("/v2/vi/team-b/disk/manifests/v1").status == 403
    assert client.get("/v2/_dvcr/storage/stats").status == 403
    assert client.get("/disks/vi/team-a/disk/v1").status != 401
    assert client.get("/disks/vi/team-a/other/v1").status == 401


def test_forged_and_expired_tokens_are_refused(guarded):
    server = guarded()
    User(server, "alice").push_image("vi/team-a/disk", "v1")
    path = "/v2/vi/team-a/disk/manifests/v1"
    assert User(server, token=signed(good(), KEY)).get(path).status == 200
    now = int(time.time())
    bad = {
        "expired": signed(good(exp=now - 1), KEY),
        "without an end": signed(good(exp=None), KEY),
        "an end that is no number": signed(good(exp=str(now + 60)), KEY),
        "another key": signed(good(), os.urandom(32)),
        "an empty key": signed(good(), b""),
        "another issuer": signed(good(iss="other"), KEY),
        "another audience": signed(good(aud="other"), KEY),
        "no audience": signed(good(aud=None), KEY),
        "a refresh token": signed(good(use="refresh", password="x"), KEY),
        "no use": signed(good(use=None), KEY),
        "HS512": signed(good(), KEY, {"alg": "HS512"}),
        **{f"unsigned {alg}": unsigned(good(), alg) for alg in ["none", "None", "NONE", "HS256", "RS256"]},
        "cut": signed(good(), KEY)[:-4],
        "longer": signed(good(), KEY) + "A",
        "huge": "A" * 30_000,
        "nothing": "x",
    }
    for what, token in bad.items():
        answer = User(server, token=token).get(path)
        assert challenge(answer).get("error") == "invalid_token", what
        assert User(server, token=token).get("/v2/").status == 401, what
    for header in ["Basic", "Basic !!!", "Digest x", "Bearer"]:
        assert Client(server.host).get(path, Authorization=header).status == 400, header


def test_a_refresh_token_stands_for_the_password_until_that_changes(guarded, users):
    server = guarded()
    alice = User(server, "alice")
    answer = alice.asks_token(offline_token="true", client_id="test")
    refresh = answer.json()["refresh_token"]
    scope = "repository:vi/team-a/disk:pull"
    # It is not a token for the registry itself.
    assert User(server, token=refresh).get("/v2/").status == 401
    posted = User(server).posts_token(grant_type="refresh_token", refresh_token=refresh, service="dvcr", scope=scope)
    assert posted.status == 200 and scopes_of(posted.json()["access_token"]) == {scope}
    by_password = User(server).posts_token(grant_type="password", username="alice", password=PASSWORDS["alice"],
                                           access_type="offline", client_id="test", scope=scope)
    assert scopes_of(by_password.json()["access_token"]) == {scope} and by_password.json()["refresh_token"]
    assert "refresh_token" not in User(server).asks_token(offline_token="true").json()
    for form, status in [
        ({"grant_type": "password", "username": "alice", "password": "wrong"}, 401),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 401),
        ({"grant_type": "refresh_token", "refresh_token": signed(good(), KEY)}, 401),
        ({"grant_type": "magic"}, 400),
        ({"grant_type": "password"}, 400),
        ({}, 400),
    ]:
        assert User(server).posts_token(**form).status == status, form
    htpasswd(users, {**PASSWORDS, "alice": "another"})
    eventually(lambda: User(server).posts_token(grant_type="refresh_token", refresh_token=refresh).status == 401)


def test_replicas_take_each_others_tokens_and_those_with_another_key_do_not(guarded, start, users):
    one, other = guarded(), guarded()
    stranger = start("filesystem", DVCR_AUTH_HTPASSWD=str(users))
    token = User(one, "alice").token("repository:vi/team-a/disk:pull")
    assert User(other, token=token).get("/v2/").status == 200
    assert User(stranger, token=token).get("/v2/").status == 401
    # A key that was not given is made, and kept.
    token = User(stranger, "alice").token()
    stranger.restart()
    assert User(stranger, token=token).get("/v2/").status == 200


def test_users_come_and_go_with_the_file_and_a_broken_file_changes_nothing(guarded, users):
    server = guarded()
    assert User(server, "alice").get("/v2/").status == 200
    users.write_text("alice:plain\n")
    eventually(lambda: "stay as they were" in log_of(server))
    assert User(server, "alice").get("/v2/").status == 200
    htpasswd(users, {"dave": "new"})
    eventually(lambda: User(server, "dave", "new").get("/v2/").status == 200)
    assert User(server, "alice").get("/v2/").status == 401


# Those who guess.


def test_who_guesses_has_to_wait_and_others_do_not(guarded):
    server = guarded()
    assert User(server, "bob").get("/v2/").status == 200
    for user in ["alice", "unknown"]:
        answers = [User(server, user, "wrong").get("/v2/") for _ in range(12)]
        assert {answer.status for answer in answers} == {401, 429}, [answer.status for answer in answers]
        assert [answer.status for answer in answers][:10] == [401] * 10
        last = answers[-1]
        assert last.codes() == ["TOOMANYREQUESTS"] and 1 <= int(last.headers["Retry-After"]) <= 60
        assert User(server, user, "wrong").asks_token().status == 429
    # The right password is not even looked at; who was in before, and whoever has a token, is not held up.
    assert User(server, "alice").get("/v2/").status == 429
    assert User(server, "bob").get("/v2/").status == 200
    assert User(server, token=signed(good(), KEY)).get("/v2/").status == 200


def test_however_many_log_in_at_once_are_let_in(guarded):
    server = guarded()
    answers = at_once([User(server, "alice").asks_token] * 60 + [lambda: User(server, "bob").get("/v2/")] * 20)
    assert {answer.status for answer in answers} == {200}


def test_nothing_secret_is_logged(guarded):
    server = guarded(DVCR_LOG_LEVEL="trace")
    alice = User(server, "alice")
    answer = alice.asks_token("repository:vi/team-a/disk:pull", offline_token="true").json()
    User(server, token=answer["token"]).get("/v2/vi/team-a/disk/tags/list?access_token=hidden-in-a-query")
    User(server).posts_token(grant_type="refresh_token", refresh_token=answer["refresh_token"])
    User(server).posts_token(grant_type="password", username="alice", password=PASSWORDS["alice"])
    User(server).get("/token?password=hidden-in-a-query&username=alice")
    User(server, "alice", "a-wrong-guess").get("/v2/")
    User(server, token="a.bad.token-hidden").get("/v2/")
    server.stop()
    log = log_of(server)
    proofs = [answer["token"].rsplit(".")[-1], answer["refresh_token"].rsplit(".")[-1]]
    secrets = [PASSWORDS["alice"], quote(PASSWORDS["alice"], safe=""), "a-wrong-guess", "token-hidden", "hidden-in-a-query",
               basic(f"alice:{PASSWORDS['alice']}").split()[1], base64.b64encode(KEY).decode(), *proofs]
    assert log and not [secret for secret in secrets if secret in log]


# Other people's tokens.


@pytest.fixture
def issuer(opened, tmp_path):
    return opened(Issuer(RsaKey(tmp_path, "first")))


OIDC = """
[[auth.issuers]]
issuer = "{url}"
audience = "dvcr"

[[auth.rules]]
users = ["oidc:carol"]
groups = ["oidc:builders"]
repositories = ["ci/**"]
actions = ["pull", "push"]
"""


def test_tokens_of_an_openid_provider_are_a_password_and_a_credential(guarded, issuer):
    server = guarded(rules=OIDC.format(url=issuer.url))
    token = issuer.token()
    bearer, password = User(server, token=token), User(server, "anything", password=token)
    bearer.push_image("ci/disk", "v1")
    assert password.get("/v2/ci/disk/manifests/v1").status == 200
    assert scopes_of(password.token("repository:ci/disk:pull,push,delete")) == {"repository:ci/disk:pull,push"}
    assert "refresh_token" not in password.asks_token(offline_token="true").json()
    assert bearer.get("/v2/vi/x/manifests/v1").status == 403
    # By a group; and by neither.
    dave = issuer.token("dave", groups=["builders", "others"])
    assert User(server, token=dave).get("/v2/ci/disk/tags/list").status == 200
    for other in [issuer.token("dave"), issuer.token("dave", groups="build"), issuer.token("alice")]:
        assert User(server, token=other).get("/v2/ci/disk/tags/list").status == 403
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_tokens_that_the_provider_has_not_given_for_us_are_refused(guarded, issuer, tmp_path):
    server = guarded(rules=OIDC.format(url=issuer.url))
    assert User(server, token=issuer.token()).get("/v2/").status == 200
    key, now, claims = issuer.keys[0], int(time.time()), issuer.claims()
    bad = {
        "expired": issuer.token(exp=now - 60),
        "not yet": issuer.token(nbf=now + 600),
        "for others": issuer.token(aud="others"),
        "for nobody": key.token({name: value for name, value in claims.items() if name != "aud"}),
        "for ever": key.token({name: value for name, value in claims.items() if name != "exp"}),
        "nobody": issuer.token(""),
        "a service account": issuer.token("system:serviceaccount:team-a:x"),
        "another issuer": issuer.token(iss="https://elsewhere.example"),
        "another key": RsaKey(tmp_path, "other").token(claims, kid="first"),
        "unsigned": unsigned(claims),
        "the public key as a secret": signed(claims, key.public(), {"alg": "HS256", "kid": "first"}),
        "another algorithm": key.token(claims, alg="RS512"),
    }
    for what, token in bad.items():
        answer = User(server, token=token).get("/v2/")
        assert answer.status == 401 or what == "a service account", what
        assert User(server, "x", password=token).asks_token().status in (401, 200 if what == "a service account" else 401)
    # A user of the provider is no service account, whatever they call themselves.
    assert User(server, token=bad["a service account"]).get("/v2/ci/x/tags/list").status in (401, 403)


def test_keys_that_change_are_fetched_again_and_not_too_often(guarded, issuer, tmp_path):
    server = guarded(rules=OIDC.format(url=issuer.url))
    assert User(server, token=issuer.token()).get("/v2/").status == 200
    before = len(issuer.asked)
    unknown = RsaKey(tmp_path, "unknown")
    for _ in range(20):
        assert User(server, token=unknown.token(issuer.claims())).get("/v2/").status == 401
    assert len(issuer.asked) <= before + 2
    issuer.keys.append(EcKey(tmp_path, "second"))
    token = issuer.token()
    eventually(lambda: User(server, token=token).get("/v2/").status == 200, 30)


KUBERNETES = """
[[auth.issuers]]
issuer = "https://kubernetes.default.svc.cluster.local"
audience = "dvcr"
jwks_file = "{file}"
kubernetes = true

[[auth.rules]]
service_accounts = ["*/*"]
repositories = ["vi/{{namespace}}/**"]
actions = ["pull", "push"]
"""


def test_one_rule_gives_each_namespace_of_a_cluster_its_own_images(guarded, tmp_path):
    key, file = RsaKey(tmp_path, "cluster"), tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [key.jwk()]}))
    server = guarded(rules=KUBERNETES.format(file=file))
    now = int(time.time())

    def account(subject):
        return User(server, token=key.token({
            "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["dvcr"], "sub": subject, "exp": now + 600, "nbf": now,
        }))

    for namespace in ["team-a", "team-b"]:
        account(f"system:serviceaccount:{namespace}:builder").push_image(f"vi/{namespace}/disk", "v1")
    builder = account("system:serviceaccount:team-a:builder")
    assert builder.get("/v2/vi/team-b/disk/manifests/v1").status == 403
    assert builder.get("/v2/vi/team-a/disk/manifests/v1").status == 200
    assert builder.get("/v2/_catalog").json() == {"repositories": ["vi/team-a/disk"]}
    for subject in ["system:node:x", "admin", "system:serviceaccount:team-a", "system:serviceaccount:a/b:c"]:
        assert account(subject).get("/v2/").status == 401, subject


REAL_CLUSTER = """
[[auth.issuers]]
issuer = "https://kubernetes.default.svc"
audience = "dvcr"
jwks_url = "{server}/openid/v1/jwks"
kubernetes = true
{more}

[[auth.rules]]
service_accounts = ["*/*"]
repositories = ["vi/{{namespace}}/**"]
actions = ["pull", "push"]
"""


@pytest.fixture
def accounts(cluster):
    """Makes a service account `builder` in two namespaces of a real cluster, and gives tokens of it."""
    for namespace in ["team-a", "team-b"]:
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("create", "serviceaccount", "builder", "-n", namespace)

    def token(namespace, *arguments):
        asked = ["create", "token", "builder", "-n", namespace, "--duration", "10m", *arguments]
        return cluster.kubectl(*asked).stdout.strip()

    yield token
    for namespace in ["team-a", "team-b"]:
        cluster.kubectl("delete", "serviceaccount", "builder", "-n", namespace)
    cluster.clean()


@pytest.mark.slow
def test_service_accounts_of_a_real_cluster_are_let_in_by_its_keys(guarded, cluster, accounts, tmp_path):
    api = cluster.kubernetes
    # As a pod of the registry has them.
    own = tmp_path / "token"
    own.write_text(cluster.kubectl("create", "token", "dvcr-registry", "-n", "dvcr").stdout)
    more = f'ca_file = "{api.authority.certificate}"\ntoken_file = "{own}"'
    server = guarded(rules=REAL_CLUSTER.format(server=api.server, more=more))
    for namespace in ["team-a", "team-b"]:
        User(server, token=accounts(namespace, "--audience", "dvcr")).push_image(f"vi/{namespace}/disk", "v1")
    token = accounts("team-a", "--audience", "dvcr")
    # With each request, and as docker logs in.
    for builder in [User(server, token=token), User(server, "token", token)]:
        assert builder.get("/v2/vi/team-a/disk/manifests/v1").status == 200
        assert builder.get("/v2/vi/team-b/disk/manifests/v1").status == 403
    # Tokens for the API server, or for somebody else, are not for us.
    for other in [accounts("team-a"), accounts("team-a", "--audience", "somebody")]:
        assert User(server, token=other).get("/v2/").status == 401
    # Whoever has the token of the registry's pod is not thereby somebody here.
    assert User(server, token=own.read_text().strip()).get("/v2/").status == 401


@pytest.mark.slow
def test_without_the_clusters_authority_or_a_token_of_its_own_its_keys_are_not_to_be_had(guarded, cluster, accounts, tmp_path):
    api = cluster.kubernetes
    token = accounts("team-a", "--audience", "dvcr")
    own = tmp_path / "token"
    own.write_text(cluster.kubectl("create", "token", "dvcr-registry", "-n", "dvcr").stdout)
    for more in [f'token_file = "{own}"', f'ca_file = "{api.authority.certificate}"']:
        server = guarded(rules=REAL_CLUSTER.format(server=api.server, more=more))
        answer = User(server, token=token).get("/v2/")
        assert answer.status == 503, answer
        assert f"{api.server}/openid/v1/jwks" in log_of(server)
        server.stop()


@pytest.mark.slow
def test_the_installation_with_rules_is_one_that_the_api_accepts(cluster, tmp_path):
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    for installation in ["filesystem", "s3"]:
        folder = tmp_path / "deploy/kubernetes" / installation
        with (folder / "kustomization.yaml").open("a") as file:
            # What `kustomize edit add component ../auth` does.
            file.write("components:\n  - ../auth\n")
        made = cluster.kubectl("kustomize", folder).stdout
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", input=made)
        pods = [part for part in made.split("\n---\n") if "kind: Deployment" in part and "name: auth" in part]
        assert pods and all("automountServiceAccountToken: true" in pod for pod in pods)


# Resources.


def test_resources_obey_the_rules_of_their_images_and_imports_have_tokens_of_their_own(guarded, images, web):
    server = guarded()
    alice, bob = User(server, "alice"), User(server, "bob")
    group = "/apis/virtualization.deckhouse.io/v1alpha2"
    url = web.add("/disk.img", images.disk().read_bytes())
    json_type = {"Content-Type": "application/json"}
    for name in ["team-a", "team-b"]:
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert User(server, "ops").send("POST", "/api/v1/namespaces", encode(made), json_type).status in (201, 409)
    image = encode(virtual_image("disk", from_web(url), namespace="team-a"))
    mine = f"{group}/namespaces/team-a/virtualimages"
    for client, status in [(User(server), 401), (bob, 403), (alice, 201)]:
        answer = client.send("POST", mine, image, json_type)
        assert answer.status == status, answer
        if status != 201:
            assert answer.json()["kind"] == "Status" and answer.json()["code"] == status
    phase = lambda: alice.get(f"{mine}/disk").json().get("status", {}).get("phase")  # noqa: E731
    eventually(lambda: phase() == "Ready", 60)
    assert alice.get("/v2/vi/team-a/disk/tags/list").status == 200
    for path, own, others in [
        (f"{mine}/disk", 200, 403),
        (mine, 200, 403),
        (f"{group}/virtualimages", 403, 403),
        (f"{group}/clustervirtualimages", 403, 403),
        ("/api/v1/namespaces/team-a/secrets", 200, 403),
        ("/api/v1/secrets", 403, 403),
        ("/api/v1/namespaces/team-a/events", 200, 403),
        ("/apis", 200, 200),
        ("/version", 200, 200),
    ]:
        assert (alice.get(path).status, bob.get(path).status) == (own, others), path
        assert User(server).get(path).status == 401, path
    assert bob.delete(f"{mine}/disk").status == 403
    assert alice.delete(f"{mine}/disk").status == 200
    # The image goes with the resource: the controller may delete it.
    eventually(lambda: alice.get("/v2/vi/team-a/disk/tags/list").json().get("tags") in ([], None), 60)


def test_kubectl_says_who_it_is(guarded, auth_proxy, authority, cache, images, web, tmp_path):
    server = guarded(rules=TENANTS + """
[[auth.rules]]
users = ["alice"]
repositories = ["vi/default/*"]
actions = ["pull", "push", "delete"]
""")
    proxy = auth_proxy(server.host, "open", tls=authority.certify("127.0.0.1"))
    url = web.add("/disk.img", images.disk().read_bytes())

    def kubectl(*user):
        arguments = [f"--server={proxy.web}", f"--certificate-authority={authority.certificate}", *user]
        return Kubectl(cache / "bin/kubectl", arguments, tmp_path / "kubectl")

    alice, bob = (kubectl(f"--username={user}", f"--password={PASSWORDS[user]}") for user in ["alice", "bob"])
    alice("apply", "-f", "-", input=virtual_image("disk", from_web(url)))
    alice("wait", "--for=jsonpath={.status.phase}=Ready", "vi/disk", "--timeout=60s")
    assert "disk" in alice("get", "vi").stdout
    forbidden = bob("get", "vi", check=False)
    assert forbidden.returncode == 1 and "Forbidden" in forbidden.stderr and "bob" in forbidden.stderr, forbidden
    stranger = kubectl("--token=x.y.z")("get", "vi", check=False)
    assert stranger.returncode == 1 and "You must be logged in" in stranger.stderr, stranger
    alice("delete", "vi", "disk")


def test_who_may_only_pull_sees_no_resource_and_nobody_writes_a_status(guarded):
    server = guarded(rules=TENANTS + """
[[auth.rules]]
users = ["alice"]
repositories = ["vi/default/*"]
actions = ["pull", "push"]

[[auth.rules]]
users = ["bob"]
repositories = ["vi/default/*", "cvi/*"]
actions = ["pull", "delete"]
""")
    alice, bob, json_type = User(server, "alice"), User(server, "bob"), {"Content-Type": "application/json"}
    group = "/apis/virtualization.deckhouse.io/v1alpha2"
    images = f"{group}/namespaces/default/virtualimages"
    made = alice.send("POST", images, encode(virtual_image("disk", from_user())), json_type)
    assert made.status == 201, made
    # It has the address for its upload in it, and secrets are in the answer to their deletion.
    for path in [images, f"{images}/disk", f"{images}?watch=1", f"{group}/clustervirtualimages"]:
        assert bob.get(path).status == 403, path
    for path in [f"{images}/disk", f"{images}?dryRun=All", "/api/v1/namespaces/default/secrets?dryRun=All"]:
        assert bob.send("DELETE", path).status == 403, path
    assert alice.get(f"{images}/disk").status == 200
    assert alice.send("DELETE", f"{images}/disk").status == 403
    assert alice.send("PUT", f"{images}/disk/status", made.body, json_type).status == 403


def test_the_name_of_a_disk_leads_to_no_other_namespace(guarded, tmp_path):
    server = guarded()
    root = pathlib.Path(server.storage[1]) / "volumes"
    for folder in ["team-b/golden", "default/x"]:
        (root / folder).mkdir(parents=True)
    (root / "team-b/golden/disk.img").write_bytes(os.urandom(1 << 20))
    ops, json_type = User(server, "ops"), {"Content-Type": "application/json"}
    images = "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimages"
    for number, name in enumerate(["../team-b/golden", str(root / "team-b/golden"), "x/../../team-b/golden"]):
        made = ops.send("POST", images, encode(virtual_image(f"v{number}", from_object("VirtualDisk", name))), json_type)
        if made.status == 201:
            eventually(lambda: ops.get(f"{images}/v{number}").json().get("status", {}).get("conditions"), 30)  # noqa: B023
            status = ops.get(f"{images}/v{number}").json()["status"]
            assert status["phase"] != "Ready" and "golden/disk.img" not in json.dumps(status["conditions"]), status
        assert ops.get(f"/v2/vi/default/v{number}/tags/list").status == 404


GROUP = "/apis/virtualization.deckhouse.io/v1alpha2"
CLUSTER_WIDE = f"{GROUP}/clustervirtualimages"
JSON = {"Content-Type": "application/json"}
NAMED = TENANTS + """
[[auth.rules]]
users = ["alice"]
repositories = ["cvi/*"]
actions = ["push"]

[[auth.rules]]
authenticated = true
repositories = ["cvi/*-public"]
actions = ["pull"]

[[auth.rules]]
users = ["nobody"]
repositories = ["vi/team-a/alone"]
actions = ["pull", "push"]
"""


def in_namespace(namespace):
    return f"{GROUP}/namespaces/{namespace}/virtualimages"


def with_namespaces(server):
    """The one who may everything, on a server with the namespaces of both teams."""
    ops = User(server, "ops")
    for name in ["team-a", "team-b"]:
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        assert ops.send("POST", "/api/v1/namespaces", encode(made), JSON).status in (201, 409)
    return ops


def make(client, name, source, kind="vi", namespace="team-a", query=""):
    place = in_namespace(namespace) if kind == "vi" else CLUSTER_WIDE
    image = virtual_image(name, source, kind, namespace if kind == "vi" else None)
    return client.send("POST", place + query, encode(image), JSON)


def assert_forbidden(answer, takes):
    status = answer.json()
    assert (answer.status, status["kind"], status["reason"], status["code"]) == (403, "Status", "Forbidden", 403), answer
    assert "is forbidden" in status["message"] and takes in status["message"], status


def test_an_image_is_made_only_of_what_its_maker_may_read(guarded):
    server = guarded(rules=NAMED)
    ops, alice, bob = with_namespaces(server), User(server, "alice"), User(server, "bob")
    secret = from_registry("r.example/x:1", imagePullSecret={"name": "login", "namespace": "team-b"})
    for name, source, kind, takes in [
        ("x", from_object("ClusterVirtualImage", "golden"), "vi", "pull on cvi/golden"),
        ("x", from_object("ClusterVirtualImage", "golden?of=a-public"), "vi", "nothing can have that name"),
        ("x", from_object("ClusterVirtualImage", "../x-public"), "vi", "nothing can have that name"),
        ("of-alice-1", from_object("ClusterVirtualImage", "golden"), "cvi", "pull on cvi/golden"),
        ("of-alice-1", from_object("VirtualImage", "disk", "team-b"), "cvi", "pull on vi/team-b/disk"),
        ("of-alice-1", from_object("VirtualDisk", "disk", "team-b"), "cvi", "pull on vi/team-b/*"),
        ("of-alice-1", secret, "cvi", "push on vi/team-b/*"),
    ]:
        assert_forbidden(make(alice, name, source, kind, query="?dryRun=All"), takes)
        assert_forbidden(make(alice, name, source, kind), takes)
        # It is the same whether that is there: nothing is told of it.
        assert make(ops, "golden", from_user(), "cvi").status in (201, 409)
        assert make(ops, "disk", from_user(), namespace="team-b").status in (201, 409)
        assert_forbidden(make(alice, name, source, kind), takes)
    nobody = User(server, "nobody")
    for source in [from_object("VirtualImage", "other"), from_object("VirtualDisk", "other")]:
        alone = encode(virtual_image("alone", source, namespace="team-a"))
        apply = {"Content-Type": "application/apply-patch+yaml"}
        refused = nobody.send("PATCH", f"{in_namespace('team-a')}/alone?fieldManager=me", alone, apply)
        assert_forbidden(refused, "pull on vi/team-a/")
    assert ops.get(in_namespace("team-a")).json()["items"] == []
    # What one may read is another matter.
    own = from_registry("r.example/x:1", imagePullSecret={"name": "login"})
    for name, source, kind in [
        ("x1", from_object("ClusterVirtualImage", "golden-public"), "vi"),
        ("x2", from_object("VirtualImage", "x1"), "vi"),
        ("x3", from_object("VirtualDisk", "disk"), "vi"),
        ("x4", own, "vi"),
        ("of-alice-1", from_object("VirtualImage", "x1", "team-a"), "cvi"),
    ]:
        assert make(alice, name, source, kind).status == 201, name
    assert make(bob, "y", from_object("ClusterVirtualImage", "golden-public"), namespace="team-b").status == 201


def test_an_image_is_changed_only_to_what_its_writer_may_read(guarded):
    server = guarded(rules=NAMED)
    ops, alice = with_namespaces(server), User(server, "alice")
    assert make(alice, "mine", from_user()).status == 201
    mine, golden = f"{in_namespace('team-a')}/mine", from_object("ClusterVirtualImage", "golden")

    def replaced():
        whole = alice.get(mine).json()
        whole["spec"]["dataSource"] = golden
        # The controller changes it too.
        return (answer := alice.send("PUT", mine, encode(whole), JSON)).status != 409 and answer

    merge = {"Content-Type": "application/merge-patch+json"}
    patch = encode({"spec": {"dataSource": {**golden, "upload": None}}})
    assert_forbidden(eventually(replaced), "pull on cvi/golden")
    assert_forbidden(alice.send("PATCH", mine, patch, merge), "pull on cvi/golden")
    assert alice.get(mine).json()["spec"]["dataSource"]["type"] == "Upload"
    # What somebody else has named is theirs, and everything else can be changed all the same.
    assert ops.send("PATCH", mine, patch, merge).status == 200
    label = encode({"metadata": {"labels": {"by": "alice"}}})
    assert alice.send("PATCH", mine, label, merge).status == 200
    to_another = encode({"spec": {"dataSource": from_object("ClusterVirtualImage", "silver")}})
    assert_forbidden(alice.send("PATCH", mine, to_another, merge), "pull on cvi/silver")


def test_an_image_of_this_registry_is_fetched_with_the_rights_of_whoever_has_the_secret(guarded, images, web):
    server = guarded()
    alice, bob = with_namespaces(server) and User(server, "alice"), User(server, "bob")
    url = web.add("/disk.img", images.disk().read_bytes())
    theirs = make(bob, "disk", from_web(url), namespace="team-b").json()
    state = lambda client, place: client.get(place).json().get("status", {})  # noqa: E731
    eventually(lambda: state(bob, f"{in_namespace('team-b')}/disk").get("phase") == "Ready", 60)
    image = f"{server.host}/vi/team-b/disk:{theirs['metadata']['uid']}"

    def login(name, user):
        auths = {"auths": {server.host: {"username": user, "password": PASSWORDS[user]}}}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps(auths)},
        }
        answer = alice.send("POST", "/api/v1/namespaces/team-a/secrets", encode(secret), JSON)
        assert answer.status == 201, answer

    login("own", "alice")
    login("given", "bob")
    for name, more in [("none", {}), ("own", {"imagePullSecret": {"name": "own"}})]:
        assert make(alice, name, from_registry(image, **more)).status == 201
        place = f"{in_namespace('team-a')}/{name}"

        def failed(place=place):
            conditions = state(alice, place).get("conditions", [])
            return [one for one in conditions if one["reason"].startswith("ProvisioningFailed")]

        assert eventually(failed, 60)
        assert alice.get(f"/v2/vi/team-a/{name}/tags/list").status == 404
    assert make(alice, "given", from_registry(image, imagePullSecret={"name": "given"})).status == 201
    eventually(lambda: state(alice, f"{in_namespace('team-a')}/given").get("phase") == "Ready", 60)


def test_who_changed_which_resource_is_kept(guarded, tmp_path):
    path = tmp_path / "audit.log"
    server = guarded(rules=NAMED, DVCR_AUDIT_LOG=str(path))
    alice, bob = with_namespaces(server) and User(server, "alice"), User(server, "bob")
    place = in_namespace("team-a")
    known = len(path.read_text().splitlines())
    merge, apply = {"Content-Type": "application/merge-patch+json"}, {"Content-Type": "application/apply-patch+yaml"}
    label = encode({"metadata": {"labels": {"by": "alice"}}})
    secret = encode({"apiVersion": "v1", "kind": "Secret", "metadata": {"generateName": "s-"}})
    of_user = encode(virtual_image("two", from_user(), namespace="team-a"))
    make(alice, "one", from_user())
    make(alice, "never", from_user(), query="?dryRun=All")
    make(alice, "never", from_object("ClusterVirtualImage", "golden"))
    make(bob, "never", from_user())
    alice.send("PATCH", f"{place}/one", label, merge)
    alice.send("PATCH", f"{place}/two?fieldManager=me", of_user, apply)
    made = alice.send("POST", "/api/v1/namespaces/team-a/secrets", secret, JSON).json()["metadata"]["name"]
    alice.get(f"{place}/one")
    alice.send("DELETE", f"{place}/one")
    alice.send("DELETE", place)
    events = [json.loads(line) for line in path.read_text().splitlines()][known:]
    images, secrets = "virtualimages", "secrets"
    assert [(e["action"], e["resource"], e.get("name"), e["outcome"], e["user"]) for e in events if "resource" in e] == [
        ("create", images, "one", "done", "alice"),
        ("create", images, "never", "dry_run", "alice"),
        ("create", images, None, "refused", "alice"),
        ("create", images, None, "refused", "bob"),
        ("update", images, "one", "done", "alice"),
        ("create", images, "two", "done", "alice"),
        ("create", secrets, made, "done", "alice"),
        ("delete", images, "one", "done", "alice"),
        ("delete", images, None, "done", "alice"),
    ]
    assert all(event["namespace"] == "team-a" for event in events if "resource" in event)


@pytest.mark.slow
@pytest.mark.parametrize("world_name", ["cluster"])
def test_the_controller_and_jobs_of_a_cluster_have_tokens_of_their_own(start_world, users, images, web):
    key = base64.b64encode(KEY).decode()
    world = start_world(DVCR_AUTH_HTPASSWD=str(users), DVCR_AUTH_TOKEN_KEY=key)
    url = web.add("/disk.img", images.disk().read_bytes())
    for name, source, more in [
        ("one", from_web(url), {}),
        ("two", from_object("VirtualImage", "one"), {}),
        ("three", from_web(url), {"storage": "PersistentVolumeClaim"}),
    ]:
        world.ready(virtual_image(name, source, **more))
    uploading = world.waiting_for_upload(virtual_image("four", from_user()))
    done = subprocess.run(["curl", "-sf", "-T", images.disk(), upload_url(uploading)], capture_output=True, check=False)
    assert done.returncode == 0, done
    world.wait_phase("vi", "four", "Ready")
    assert User(world.server).get("/v2/vi/default/one/tags/list").status == 401
    assert User(world.server, "ops").get("/v2/vi/default/one/tags/list").status == 200
    world.delete("vi", "one")
    assert key not in world.log()


@pytest.mark.slow
@pytest.mark.parametrize("world_name", ["cluster"])
def test_the_token_of_a_job_opens_the_repository_of_its_image_and_nothing_else(start_world, users, images, web, opened):
    world = start_world(DVCR_AUTH_HTPASSWD=str(users), DVCR_AUTH_TOKEN_KEY=base64.b64encode(KEY).decode())
    slow = opened(SlowWeb())
    data = images.disk().read_bytes()
    world.ready(virtual_image("other", from_web(web.add("/disk.img", data))))
    world.apply(virtual_image("mine", from_web(slow.add("/disk.img", data))))

    def tokens():
        secrets = world.kubectl.json("get", "secrets", "--all-namespaces")["items"]
        held = [base64.b64decode(token).decode() for secret in secrets if (token := secret.get("data", {}).get("token"))]
        return [token for token in held if "vi/default/mine" in json.dumps(claims_of(token))]

    held = eventually(tokens, 60)[0]
    wanted = [f"repository:{name}:pull,push,delete" for name in ["vi/default/mine", "vi/default/other", "cvi/mine", FILE]]
    form = {"grant_type": "refresh_token", "refresh_token": held, "service": "dvcr", "scope": " ".join([*wanted, "registry:catalog:*"])}
    given = User(world.server).posts_token(**form)
    assert given.status == 200, given
    job = User(world.server, token=given.json()["access_token"])
    assert job.send("POST", "/v2/vi/default/mine/blobs/uploads/").status == 202
    for method, path in [
        ("GET", "/v2/vi/default/other/tags/list"),
        ("POST", "/v2/vi/default/other/blobs/uploads/"),
        ("POST", "/v2/cvi/mine/blobs/uploads/"),
        ("GET", f"/v2/{FILE}/manifests/file"),
        ("DELETE", "/v2/vi/default/mine/manifests/v1"),
        ("GET", "/v2/_dvcr/storage"),
    ]:
        assert job.send(method, path).status in (401, 403), (method, path)
    slow.speed = None
    world.wait_phase("vi", "mine", "Ready")


@pytest.mark.slow
@pytest.mark.parametrize("world_name", ["cluster"])
def test_the_token_of_a_job_that_takes_an_uploaded_file_opens_that_one_alone(start_world, users, images):
    world = start_world(DVCR_AUTH_HTPASSWD=str(users), DVCR_AUTH_TOKEN_KEY=base64.b64encode(KEY).decode())
    # All secrets that there ever are, the short-lived ones of Jobs among them.
    watch = world.kubectl.start("get", "secrets", "--all-namespaces", "--watch", "--output", "jsonpath={.data.token}{'\\n'}")
    image = world.waiting_for_upload(virtual_image("mine", from_user()))
    uploaded = subprocess.run(["curl", "-sf", "-T", images.disk(), upload_url(image)], capture_output=True, check=False)
    assert uploaded.returncode == 0, uploaded
    world.wait_phase("vi", "mine", "Ready")
    watch.terminate()
    tokens = {base64.b64decode(line).decode() for line in watch.communicate()[0].split()}
    [held] = [token for token in tokens if "vi/default/mine" in json.dumps(claims_of(token))]
    own = f"uploads/{image['metadata']['uid']}"
    assert claims_of(held)["may"] == [[own, "pull"], ["vi/default/mine", "pull,push"]]
    # The file goes in a moment.
    for file, answers in [(own, (200, 404)), (FILE, (401,))]:
        form = {"grant_type": "refresh_token", "refresh_token": held, "service": "dvcr", "scope": f"repository:{file}:pull"}
        job = User(world.server, token=User(world.server).posts_token(**form).json()["access_token"])
        assert job.get(f"/v2/{file}/manifests/file").status in answers


def test_a_file_for_an_image_comes_by_its_address_alone(guarded):
    server = guarded()
    for client in (User(server, "ops"), User(server, "alice"), User(server)):
        for method, path in [
            ("POST", f"/v2/{FILE}/blobs/uploads/"),
            ("PATCH", f"/v2/{FILE}/blobs/uploads/{FILE.removeprefix('uploads/')}"),
            ("PUT", f"/v2/{FILE}/manifests/file"),
            ("DELETE", f"/v2/{FILE}/manifests/file"),
            ("GET", f"/v2/{FILE}/tags/list"),
        ]:
            assert client.send(method, path).status in (401, 403), (method, path)


def test_the_image_of_another_is_mounted_by_the_controller(guarded, images, web):
    server = guarded()
    ops, json_type = User(server, "ops"), {"Content-Type": "application/json"}
    group = "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualimages"
    url = web.add("/disk.img", images.disk().read_bytes())
    for name, source in [("one", from_web(url)), ("two", from_object("VirtualImage", "one"))]:
        assert ops.send("POST", group, encode(virtual_image(name, source)), json_type).status == 201
        eventually(lambda: ops.get(f"{group}/{name}").json().get("status", {}).get("phase") == "Ready", 60)  # noqa: B023
    tags = [ops.get(f"/v2/vi/default/{name}/tags/list").json()["tags"] for name in ["one", "two"]]
    manifests = [ops.get(f"/v2/vi/default/{name}/manifests/{tag}").body for name, [tag] in zip(["one", "two"], tags, strict=True)]
    assert manifests[0] == manifests[1]
    # No byte was sent again.
    sent = [line for line in requests(server, "PATCH") + requests(server, "PUT") if "vi/default/two/blobs/uploads/" in line]
    assert not sent, sent
