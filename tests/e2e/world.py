"""A world for each test: a legacy site, the real gate in front of it, and clients. Everything is on free ports of 127.0.0.1 and in a
directory of its own, and ends with the test by its own handle.

Waits end on an event, and have a generous limit that only a fault reaches.
"""

import base64
import contextlib
import gzip
import hashlib
import http.client
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

LOCALHOST = "127.0.0.1"

# Far above what anything here takes, also on a machine that builds something else meanwhile.
LIMIT_S = 120


def binary():
    """The gate under test: TIDEGATE_BIN, or what cargo has built."""
    named = os.environ.get("TIDEGATE_BIN")
    if named:
        return str(pathlib.Path(named).resolve(strict=True))
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    for profile in ("release", "debug"):
        built = target / profile / "tidegate"
        if built.exists():
            return str(built)
    raise FileNotFoundError(f"no gate to test under {target}: build one, or set TIDEGATE_BIN")


def artifacts():
    """Where screenshots and logs are left for a person to look at."""
    named = os.environ.get("TIDEGATE_E2E_ARTIFACTS")
    if not named:
        named = tempfile.mkdtemp(prefix="tidegate-e2e-artifacts-")
        os.environ["TIDEGATE_E2E_ARTIFACTS"] = named
    path = pathlib.Path(named)
    path.mkdir(parents=True, exist_ok=True)
    return path


def free_port():
    """A free port below those that the kernel gives to outgoing connections, so that none of ours takes it meanwhile."""
    while True:
        port = next(PORTS)
        with socket.socket() as probe:
            # a connection of an earlier test in TIME_WAIT is no reason to pass a port over
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((LOCALHOST, port))
                return port


def until(condition, what, limit_s=LIMIT_S):
    """The first true value of `condition`."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.05)


# one after the other, so that none is given twice; from a random one on, so that two runs beside each other do not meet
FIRST_PORT = random.randrange(20000, 32000)
PORTS = itertools.chain(range(FIRST_PORT, 32000), range(20000, FIRST_PORT))


class Answer:
    """An answer to a client."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.bytes = response.read()
        is_zipped = self.headers["Content-Encoding"] == "gzip"
        self.body = (gzip.decompress(self.bytes) if is_zipped else self.bytes).decode()

    def cookies(self):
        """Name to value, of what it sets."""
        pairs = (line.split(";")[0].split("=", 1) for line in self.headers.get_all("Set-Cookie", []))
        return {name.strip(): value for name, value in pairs}

    def json(self):
        return json.loads(self.body)


def ask(address, path="/", method="GET", body=None, headers=None, cookies=None):
    """One request on a connection of its own: with these headers, or as a browser that navigates."""
    sent = dict(headers or {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
    if cookies:
        sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    host, port = address
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
    try:
        connection.request(method, path, body=body, headers=sent)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def openssl(*arguments, directory, given=""):
    done = subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, timeout=LIMIT_S, cwd=directory, input=given, errors="replace"
    )
    return done.returncode, done.stdout + done.stderr


def certificate(directory, name, *arguments):
    """`name`.pem as `openssl req` makes it, and its key, `name`.key."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
    code, said = openssl(*arguments, *key, directory=directory)
    assert code == 0, said


def nginx(directory, http):
    """The command for nginx with this for its `http`; what it writes goes into the directory."""
    kept = "".join(f"{kind}_temp_path {directory}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = directory / "nginx.conf"
    config.write_text(f"pid {directory / 'nginx.pid'};\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; {kept} {http} }}\n")
    return ["nginx", "-c", str(config), "-e", "stderr", "-g", "daemon off; master_process off;"]


# What a request for a WebSocket has beside its Host.
ASKS_FOR_WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

# Kinds of frames (RFC 6455, section 5.2).
TEXT, CLOSE = 1, 8


def frame(kind, message, mask=b""):
    """A frame of a WebSocket: one that is whole. Clients mask theirs."""
    assert len(message) < 1 << 16
    bit = 0x80 if mask else 0
    length = struct.pack("!B", bit | len(message)) if len(message) < 126 else struct.pack("!BH", bit | 126, len(message))
    covered = bytes(byte ^ mask[at % 4] for at, byte in enumerate(message)) if mask else message
    return bytes([0x80 | kind]) + length + mask + covered


def read_frame(stream):
    """The kind and the message of the next frame."""

    def take(count):
        taken = stream.read(count)
        if len(taken) < count:
            raise EOFError
        return taken

    kind, length = take(2)
    masked, length = length & 0x80, length & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", take(2))
    mask = take(4) if masked else bytes(4)
    return kind & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(take(length)))


class Site:
    """A site with few workers, and a WebSocket at every path that sends back what comes. `/hold` answers when the test says so."""

    TITLE = "Benefits portal"
    WORKERS = 8

    def __init__(self, host=LOCALHOST, port=0):
        site = self
        # by path, what is answered in place of a page
        self.bodies = {}
        self.connections = set()
        self.workers = threading.Semaphore(self.WORKERS)
        self.held = threading.Event()
        self.release = threading.Event()
        self.requests = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = LIMIT_S

            def do_GET(self):
                if self.headers.get("Upgrade") == "websocket":
                    site.requests.append((self.path, self.headers))
                    return self.echo()
                with site.workers:
                    site.requests.append((self.path, self.headers))
                    if self.path == "/hold":
                        site.held.set()
                        site.release.wait(LIMIT_S)
                    page = f"<!doctype html><html lang=en><title>{site.TITLE}</title><h1>Welcome</h1><p id=path>{self.path}"
                    body = site.bodies.get(self.path) or page.encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html; charset=utf-8")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def echo(self):
                """A WebSocket that sends back each message, and at the end the end."""
                proof = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", base64.b64encode(proof).decode())
                self.end_headers()
                self.close_connection = True
                kind, message = None, b""
                while kind != CLOSE:
                    try:
                        kind, message = read_frame(self.rfile)
                    except EOFError:
                        return
                    self.wfile.write(frame(kind, message))

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # a connection that the other side breaks off is none of the test's business
            def handle_error(self, *_):
                pass

            def process_request(self, request, address):
                site.connections.add(request)
                super().process_request(request, address)

            def shutdown_request(self, request):
                super().shutdown_request(request)
                site.connections.discard(request)

        self.server = Server((host, port), Handler)
        self.address = self.server.server_address
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def vanish(self):
        """As a machine that loses its power: nothing is left of its connections, and one reset at most tells of it."""
        self.close()
        for connection in list(self.connections):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # wakes who reads from it, which closes it
            connection.shutdown(socket.SHUT_RD)
        until(lambda: not self.connections, "its connections are gone")

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Notices:
    """What the gate tells its service manager (sd_notify)."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0.2)
        self.lines = []

    def wait_for(self, line, process, limit_s=LIMIT_S):
        """Reads on until `line` comes: what came before is not looked at again."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            try:
                lines = self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                if process.poll() is not None:
                    raise AssertionError(f"the gate ended with {process.returncode} instead of saying {line}") from None
                continue
            self.lines += lines
            if line in lines:
                return lines
        raise AssertionError(f"the gate has not said {line}, only {self.lines}")

    def close(self):
        self.socket.close()


class Gate:
    """The gate, its gate.yaml and its data. Its log is among the artifacts."""

    def __init__(self, directory, site, name, host=LOCALHOST, admin_host=LOCALHOST, **sections):
        self.directory = directory
        self.site = site
        self.address = (host, free_port())
        self.admin = (admin_host, free_port())
        self.config = directory / "gate.yaml"
        self.log = artifacts() / f"{name}.log"
        self.log.unlink(missing_ok=True)
        self.process = None
        self.notices = Notices(directory)
        self.write(**sections)

    @property
    def url(self):
        return "http://{}:{}".format(*self.address)

    @property
    def admin_url(self):
        return "http://{}:{}".format(*self.admin)

    def write(self, **sections):
        """Writes gate.yaml anew, as an editor does: to another file that takes its place. A section is a line of YAML."""
        settings = {
            "listen": "{{ http: '{}:{}' }}".format(*self.address),
            "admin": "{{ listen: '{}:{}' }}".format(*self.admin),
            "upstream": "{{ servers: ['http://{}:{}'], max_in_flight: {} }}".format(*self.site.address, Site.WORKERS),
            "shutdown": "{ delay: 0s, deadline: 30s }",
            "log": "{ format: text }",
            **sections,
        }
        new = self.config.with_suffix(".new")
        new.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        new.rename(self.config)

    def command(self, *arguments):
        return [binary(), *arguments, "--config", str(self.config)]

    def run(self, *arguments):
        """A command beside `serve`, to its end."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)

    def start(self, listener=None):
        """Serves, and returns when it says that it is ready. `listener` is handed over as systemd does."""
        command = self.command("serve")
        environment = {**os.environ, "NOTIFY_SOCKET": self.notices.path}
        passed = ()
        if listener:
            passed = (listener.fileno(),)
            script = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&{listener.fileno()}'
            command = ["sh", "-c", script, *command]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=passed, cwd=self.directory
            )
        self.notices.wait_for("READY=1", self.process)

    def terminate(self):
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def kill(self):
        self.process.kill()
        self.process.wait(LIMIT_S)

    def operate(self, path, method="GET", body=None, headers=None):
        """As an operator with curl does."""
        answer = ask(self.admin, path, method, body, {"Accept": "*/*", **(headers or {})})
        assert answer.status == 200, (answer.status, answer.body)
        return answer

    def mode(self, mode, **more):
        self.operate("/mode", "POST", json.dumps({"mode": mode, **more}), {"Content-Type": "application/json"})

    def status(self):
        return self.operate("/status").json()

    def metric(self, sample):
        """The value of a sample such as `tidegate_requests_total{verdict="wait"}`."""
        text = self.operate("/metrics").body
        found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        assert found, f"no {sample} in\n{text}"
        return float(found[1])

    def enter(self):
        """A newcomer that comes back as it is told until it is in; its cookies."""
        cookies = {}

        def is_in():
            answer = ask(self.address, cookies=cookies)
            cookies.update(answer.cookies())
            return Site.TITLE in answer.body and "tidegate_pass" in cookies

        until(is_in, "a newcomer gets in and has a pass")
        return cookies

    def is_inside(self, cookies):
        """Whether a client with these cookies comes to the site."""
        return Site.TITLE in ask(self.address, cookies=cookies).body

    def close(self):
        if self.process and self.process.poll() is None:
            self.kill()
        self.notices.close()


class World(unittest.TestCase):
    """A test that has a site and a gate to itself. The gate is started by the test, or by `serve`."""

    maxDiff = None
    # where the site is
    host = LOCALHOST

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-e2e-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.site = Site(self.host)
        self.addCleanup(self.site.close)

    def gate(self, **sections):
        """A gate that is not started yet."""
        gate = Gate(self.directory, self.site, self.id().split(".", 1)[-1], **sections)
        self.addCleanup(gate.close)
        return gate

    def serve(self, **sections):
        """A gate that serves."""
        gate = self.gate(**sections)
        gate.start()
        return gate


def path_and_query(url):
    parts = urllib.parse.urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")
