"""What deploy/ says is what the gate and systemd understand."""

import http.client
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from world import (
    ASKS_FOR_WEBSOCKET,
    LIMIT_S,
    REPOSITORY,
    TEXT,
    Site,
    World,
    artifacts,
    ask,
    binary,
    frame,
    free_port,
    nginx,
    read_frame,
    until,
)

DEPLOY = REPOSITORY / "deploy"


def in_front(test, command, front):
    """Starts a proxy. Returns what asks through it: its answer, or None while it does not listen."""
    program = command[0]
    with open(artifacts() / f"{program}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    test.addCleanup(process.wait, LIMIT_S)
    test.addCleanup(process.terminate)

    def through(**how):
        try:
            return ask(front, **how)
        except OSError:
            test.assertIsNone(process.poll(), f"{program} has ended")
            return None

    return through


def assert_speaks_for_its_visitors(test, front):
    """What a visitor says of himself does not reach the site."""
    said = {"Forwarded": "for=198.51.100.7;host=evil;proto=https", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https"}
    ask(front, headers={**said, "X-Forwarded-For": "198.51.100.7"})
    seen = test.site.requests[-1][1]
    told = [seen[name] for name in ("Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto")]
    test.assertEqual(told, [None, f"{front[0]}:{front[1]}", "http"])


class Examples(unittest.TestCase):
    def test_each_example_is_a_policy(self):
        files = [REPOSITORY / "gate.yaml", DEPLOY / "gate.yaml", DEPLOY / "compose" / "gate" / "gate.yaml"]
        with tempfile.TemporaryDirectory() as directory:
            # which compose puts where the gate finds it
            token = pathlib.Path(directory) / "token"
            token.write_text("a-token-for-the-test-0123456789\n")
            for file in files:
                with self.subTest(file=file):
                    copy = pathlib.Path(directory) / "gate.yaml"
                    copy.write_text(file.read_text().replace("/run/secrets/admin_token", str(token)))
                    checked = subprocess.run([binary(), "check", "--config", str(copy)], capture_output=True, text=True, timeout=LIMIT_S)
                    self.assertEqual(checked.returncode, 0, checked.stderr)

    def verified(self, change=lambda text: text):
        """Copies of the units, changed, of which systemd has nothing to say."""
        directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-e2e-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        units = {}
        for unit in (DEPLOY / "systemd").iterdir():
            units[unit.name] = directory / unit.name
            units[unit.name].write_text(change(unit.read_text().replace("/usr/local/bin/tidegate", binary())))
        command = ["systemd-analyze", "verify", "--man=no", *map(str, units.values())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        # of the machine's own units it may say more
        said = [line for line in (done.stdout + done.stderr).splitlines() if "tidegate" in line]
        self.assertEqual((done.returncode, said), (0, []))
        return units

    def test_the_units_are_what_systemd_understands(self):
        self.verified()

    def test_the_unit_may_have_ports_below_1024_when_its_two_lines_are_uncommented(self):
        def capabilities(units):
            command = ["systemd-analyze", "security", "--offline=true", "--json=short", str(units["tidegate.service"])]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
            # `set` is of what it is kept from
            return {entry["name"] for entry in json.loads(done.stdout) if "Capabilit" in entry["name"] and not entry["set"]}

        self.assertEqual(capabilities(self.verified()), set())
        uncommented = self.verified(lambda text: re.sub(r"^#(\w+=CAP_NET_BIND_SERVICE)$", r"\1", text, flags=re.MULTILINE))
        wanted = {"AmbientCapabilities=", "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)"}
        self.assertEqual(capabilities(uncommented), wanted)

    def test_the_commands_of_the_unit_and_the_image_exist(self):
        unit = (DEPLOY / "systemd" / "tidegate.service").read_text()
        image = (REPOSITORY / "Dockerfile").read_text()
        commands = re.findall(r"^Exec\w+=/usr/local/bin/tidegate (\w+)", unit, re.MULTILINE)
        commands += re.findall(r'CMD \["(?:/tidegate", ")?(\w+)"', image)
        self.assertEqual(sorted(set(commands)), ["healthcheck", "serve"])
        for command in commands:
            self.assertEqual(subprocess.run([binary(), command, "--help"], capture_output=True, timeout=LIMIT_S).returncode, 0)


class AdminOnAnotherAddress(World):
    """As in the compose file: the admin listener is open to a network, and asked by a name that is not ours."""

    def test_a_name_needs_the_token_and_probes_by_address_do_not(self):
        token = "a-token-for-the-test-0123456789"
        (self.directory / "token").write_text(token + "\n")
        gate = self.gate()
        gate.write(admin=f"{{ listen: '0.0.0.0:{gate.admin[1]}', token_file: token }}")
        gate.start()
        shown = {"Authorization": f"Bearer {token}"}
        named = {"Host": f"gate:{gate.admin[1]}"}
        self.assertEqual(ask(gate.admin, "/metrics", headers={**named, **shown}).status, 200)
        self.assertEqual(ask(gate.admin, "/metrics", headers=named).status, 421)
        self.assertEqual(ask(gate.admin, "/metrics").status, 200)
        self.assertEqual(ask(gate.admin, "/status").status, 401)
        self.assertEqual(ask(gate.admin, "/status", headers=shown).status, 200)
        self.assertEqual(gate.run("healthcheck").returncode, 0)


class BehindAProxy(World):
    """A proxy in front that ends TLS, as deploy and docs/operations.md describe it."""

    def test_visitors_are_told_apart_and_cookies_are_secure(self):
        gate = self.serve(admission="{ mode: closed }", client="{ trusted_proxies: [127.0.0.0/8] }")
        forwarded = {"Accept": "text/html", "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
        answer = ask(gate.address, headers=forwarded)
        ticket = next(line for line in answer.headers.get_all("Set-Cookie"))
        self.assertRegex(ticket, r"^__Host-tidegate_ticket=")
        self.assertIn("Secure", ticket)
        self.assertEqual(gate.metric("tidegate_untrusted_forwarded_total"), 0)

    def test_a_proxy_that_is_not_named_is_counted(self):
        gate = self.serve()
        ask(gate.address, headers={"Accept": "text/html", "X-Forwarded-For": "198.51.100.7"})
        self.assertEqual(gate.metric("tidegate_untrusted_forwarded_total"), 1)


class Removal(World):
    """Going round the gate, and taking it out."""

    def test_observe_diverts_nobody_and_open_issues_passes(self):
        gate = self.serve(admission="{ mode: observe }")
        self.assertTrue(gate.is_inside({}))
        gate.mode("open")
        self.assertIn("tidegate_pass", ask(gate.address).cookies())
        self.assertTrue(gate.is_inside({}))

    def test_the_site_never_sees_what_is_ours(self):
        gate = self.serve()
        cookies = gate.enter()
        headers = {"Accept": "text/html", "Cookie": "; ".join(f"{name}={value}" for name, value in {**cookies, "theirs": "1"}.items())}
        ask(gate.address, "/page", headers=headers)
        path, seen = self.site.requests[-1]
        self.assertEqual((path, seen.get("Cookie")), ("/page", "theirs=1"))


class SiteDown(World):
    def test_a_site_that_is_down_is_said_so_and_comes_back_by_itself(self):
        gate = self.serve()
        cookies = gate.enter()
        address = self.site.address
        self.site.server.shutdown()
        self.site.server.server_close()
        answers = []

        def fails():
            answers.append(ask(gate.address, cookies=cookies))
            return answers[-1].status in (502, 503, 504) and Site.TITLE not in answers[-1].body

        until(fails, "the gate answers for the site")
        self.assertIn("Proxy-Status", answers[-1].headers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(Site.TITLE.encode())

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            address_family = socket.AF_INET

        back = Server(address, Handler)
        thread = threading.Thread(target=back.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(back.server_close)
        self.addCleanup(back.shutdown)
        until(lambda: gate.is_inside(cookies), "the site is reached again")


class HaproxyInFront(World):
    def test_it_sends_visitors_to_the_gate_and_round_it_when_it_is_gone(self):
        gate = self.serve(admission="{ mode: closed }", client="{ trusted_proxies: [127.0.0.1/32] }")
        front = ("127.0.0.1", free_port())
        config, commands = self.directory / "haproxy.cfg", self.directory / "haproxy.sock"
        text = (DEPLOY / "front" / "haproxy.cfg").read_text()
        replaced = {
            "maxconn 20000": "maxconn 1000",
            "socket /run/haproxy.sock": f"socket {commands}",
            "bind :80\n": f"bind 127.0.0.1:{front[1]}\n",
            ":8080": f":{gate.address[1]}",
            ":3000": f":{self.site.address[1]}",
        }
        for written, here in replaced.items():
            self.assertEqual(text.count(written), 1, written)
            text = text.replace(written, here)
        config.write_text(text)
        through = in_front(self, ["haproxy", "-db", "-f", str(config)], front)
        waits = until(through, "haproxy answers")
        self.assertEqual((waits.status, waits.headers["Proxy-Status"].split(";")[0]), (503, "tidegate"))
        self.assertEqual(gate.metric("tidegate_untrusted_forwarded_total"), 0)
        self.assertEqual(self.site.requests, [])

        gate.mode("open")
        self.assertEqual(websocket(front, "hello"), "hello")
        assert_speaks_for_its_visitors(self, front)
        gate.mode("file")
        gate.terminate()
        until(lambda: Site.TITLE in (through() or waits).body, "visitors reach the site without the gate")
        gate.start()
        until(lambda: Site.TITLE not in (through() or waits).body, "the gate is in use again")

        # a restart that nobody uses to get round it: the gate drains, and its health is down
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(commands))
            connection.sendall(b"disable server gate/site\n")
            self.assertEqual(connection.recv(4096).strip(), b"")
        gate.write(admission="{ mode: closed }", client="{ trusted_proxies: [127.0.0.1/32] }", shutdown="{ delay: 60s }")
        gate.operate("/reload", "POST")
        self.site.requests.clear()
        gate.process.send_signal(signal.SIGTERM)
        until(lambda: "Proxy-Status" not in (through() or waits).headers, "haproxy sends nobody to a gate that drains")
        self.assertEqual((through().status, self.site.requests), (503, []))


class NginxInFront(World):
    def nginx(self, gate):
        """Its address, and what asks through it."""
        front = ("127.0.0.1", free_port())
        text = (DEPLOY / "front" / "nginx.conf").read_text()
        replaced = {
            "listen 80;": f"listen 127.0.0.1:{front[1]};",
            ":8080": f":{gate.address[1]}",
            ":3000": f":{self.site.address[1]}",
        }
        for written, here in replaced.items():
            self.assertEqual(text.count(written), 1, written)
            text = text.replace(written, here)
        (self.directory / "gate.conf").write_text(text)
        command = nginx(self.directory, f"include {self.directory / 'gate.conf'};")
        return front, in_front(self, command, front)

    def test_it_passes_on_pages_and_websockets(self):
        gate = self.serve(client="{ trusted_proxies: [127.0.0.1/32] }")
        front, through = self.nginx(gate)
        page = until(through, "nginx answers")
        self.assertIn(Site.TITLE, page.body)
        self.assertIn("tidegate_pass", page.cookies())
        self.assertIsNone(self.site.requests[-1][1]["Upgrade"])
        self.assertEqual(websocket(front, "hello"), "hello")
        self.assertEqual(self.site.requests[-1][1]["Upgrade"], "websocket")
        self.assertEqual(gate.metric('tidegate_upgrades_total{result="switched"}'), 1)
        assert_speaks_for_its_visitors(self, front)

        # who sends much to a gate that keeps everyone out gets the waiting room, and does not open it for others: nginx tries the next
        # server with all that it may repeat
        gate.mode("closed")
        self.site.requests.clear()
        for size in (30_000, 300_000, 900_000) * 2:
            for method in ("POST", "PUT", "GET"):
                for headers in (None, {"Upgrade": "x"}):
                    answer = ask(front, "/apply", method=method, body=bytes(size), headers=headers)
                    self.assertEqual((answer.status, Site.TITLE in answer.body), (503, False), (method, size, headers))
                    self.assertEqual(ask(front).status, 503)
        self.assertEqual(self.site.requests, [])

    def test_it_passes_on_uploads_and_events_one_by_one(self):
        arrived, heard = [], threading.Event()
        self.addCleanup(heard.set)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                arrived.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: first\n\n")
                heard.wait(LIMIT_S)
                self.wfile.write(b"data: last\n\n")

            def log_message(self, *_):
                pass

        site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(site.server_close)
        self.addCleanup(site.shutdown)
        upstream = f"{{ servers: ['http://127.0.0.1:{site.server_address[1]}'], max_in_flight: 8 }}"
        gate = self.serve(upstream=upstream, client="{ trusted_proxies: [127.0.0.1/32] }")
        front, through = self.nginx(gate)
        until(lambda: through(method="POST"), "nginx answers")
        arrived.clear()
        self.assertEqual(through(method="POST", body=bytes(5_000_000)).status, 200)
        self.assertEqual(arrived, [5_000_000])

        connection = http.client.HTTPConnection(*front, timeout=LIMIT_S)
        self.addCleanup(connection.close)
        connection.request("GET", "/events")
        events = connection.getresponse()
        self.assertEqual(events.readline(), b"data: first\n")
        heard.set()
        self.assertEqual(events.read(), b"\ndata: last\n\n")


def websocket(address, words):
    """What comes back over a WebSocket for these words, from a client of few words itself."""
    with socket.create_connection(address, timeout=LIMIT_S) as connection, connection.makefile("rwb") as stream:
        lines = ["GET /socket HTTP/1.1", f"Host: {address[0]}:{address[1]}", *ASKS_FOR_WEBSOCKET]
        stream.write("\r\n".join([*lines, "", ""]).encode())
        stream.flush()
        status = stream.readline().decode().rstrip()
        while stream.readline().rstrip():
            pass
        if not status.startswith("HTTP/1.1 101 "):
            return status
        stream.write(frame(TEXT, words.encode(), mask=b"mask"))
        stream.flush()
        return read_frame(stream)[1].decode()
