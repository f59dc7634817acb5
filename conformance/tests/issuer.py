"""Who gives out tokens: JSON web tokens made by hand, good and bad, and an OpenID provider with a real key."""

import base64
import hashlib
import hmac
import http.server
import json
import pathlib
import re
import subprocess
import threading
import time

from flaky_http import Server


def part(value):
    """A part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims_of(token):
    text = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def signed(claims, key, header=None):
    """A token with the signature of a shared secret."""
    message = f"{part(header or {'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    return f"{message}.{part(hmac.digest(key, message.encode(), hashlib.sha256))}"


def unsigned(claims, algorithm="none"):
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims)}."


class RsaKey:
    """An RSA key of openssl's."""

    def __init__(self, folder, name):
        self.name, self.path = name, pathlib.Path(folder) / f"{name}.pem"
        subprocess.run(["openssl", "genrsa", "-out", self.path, "2048"], check=True, capture_output=True)

    def jwk(self):
        shown = subprocess.run(
            ["openssl", "rsa", "-in", self.path, "-noout", "-modulus"], check=True, capture_output=True
        ).stdout.decode()
        modulus = bytes.fromhex(re.search("Modulus=([0-9A-F]+)", shown)[1])
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.name, "n": part(modulus), "e": "AQAB"}

    def public(self):
        return subprocess.run(
            ["openssl", "rsa", "-in", self.path, "-pubout"], check=True, capture_output=True
        ).stdout

    def token(self, claims, **header):
        message = f"{part({'alg': 'RS256', 'typ': 'JWT', 'kid': self.name, **header})}.{part(claims)}"
        proof = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.path], input=message.encode(), check=True, capture_output=True
        ).stdout
        return f"{message}.{part(proof)}"


class EcKey:
    """A key on the curve P-256."""

    def __init__(self, folder, name):
        self.name, self.path = name, pathlib.Path(folder) / f"{name}.pem"
        subprocess.run(
            ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.path],
            check=True,
            capture_output=True,
        )

    def jwk(self):
        der = subprocess.run(
            ["openssl", "ec", "-in", self.path, "-pubout", "-outform", "DER"], check=True, capture_output=True
        ).stdout
        x, y = der[-64:-32], der[-32:]
        return {"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.name, "x": part(x), "y": part(y)}

    def token(self, claims, **header):
        message = f"{part({'alg': 'ES256', 'typ': 'JWT', 'kid': self.name, **header})}.{part(claims)}"
        der = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.path], input=message.encode(), check=True, capture_output=True
        ).stdout
        # SEQUENCE of two INTEGERs.
        r_end = 4 + der[3]
        r, s = der[4:r_end], der[r_end + 2 :]
        return f"{message}.{part(b''.join(n.lstrip(bytes(1)).rjust(32, bytes(1)) for n in (r, s)))}"


class Issuer:
    """An OpenID provider: its configuration and its keys, over HTTP."""

    def __init__(self, *keys):
        self.keys, self.asked = list(keys), []
        self.server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"issuer": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def claims(self, user="carol", **more):
        now = int(time.time())
        return {"iss": self.url, "aud": "dvcr", "sub": user, "iat": now, "exp": now + 300, **more}

    def token(self, user="carol", **more):
        return self.keys[-1].token(self.claims(user, **more))


class Handler(http.server.BaseHTTPRequestHandler):
    issuer: Issuer

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.issuer.asked.append(self.path)
        documents = {
            "/.well-known/openid-configuration": {"issuer": self.issuer.url, "jwks_uri": f"{self.issuer.url}/keys"},
            "/keys": {"keys": [key.jwk() for key in self.issuer.keys]},
        }
        body = json.dumps(documents.get(self.path, {})).encode()
        self.send_response(200 if self.path in documents else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
