"""Networks that are cut without a word, or slow: nobody is told that the other side is gone, and what was sent may still be on its way."""

import concurrent.futures
import http.client
import os
import socket
import ssl
import subprocess

from network import Networked, unanswered
from world import ASKS_FOR_WEBSOCKET, LIMIT_S, TEXT, Site, ask, certificate, frame, free_port, nginx, read_frame, until

MIB = 1 << 20

# More than all buffers on the way hold together.
LARGE = 64 * MIB

# An answer of the site, and of the gate for want of one.
SITE = (200, None)
NO_ANSWER = (504, "tidegate; error=http_response_timeout")
NO_CONNECTION = (504, "tidegate; error=connection_timeout")
BROKEN_OFF = (502, "tidegate; error=http_response_incomplete")


def gist(answer):
    """Its status, and what the gate says of it if it is none of the site's."""
    return answer.status, answer.headers["Proxy-Status"]


def certify(directory, host):
    """A certificate for this address, and its key."""
    # an authority is none of the site's servers
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=IP:{host}", "-addext", "basicConstraints=critical,CA:FALSE"]
    certificate(directory, "site", "req", "-x509", *names, "-days", "2")


class Visitor:
    """A connection of HTTP/1 in the hands of a test, whose kernel takes little ahead."""

    def __init__(self, test, gate, path=None, headers=""):
        self.socket = socket.socket()
        test.addCleanup(self.socket.close)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(gate.address)
        self.stream = self.socket.makefile("rb")
        test.addCleanup(self.stream.close)
        if path:
            self.ask(path, headers)

    def ask(self, path, headers=""):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: portal.test\r\n{headers}\r\n".encode())

    def answer(self):
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return response


class WebSocket(Visitor):
    """One that the site has switched to a WebSocket."""

    ASKS = "".join(f"{line}\r\n" for line in ASKS_FOR_WEBSOCKET)

    def __init__(self, test, gate):
        super().__init__(test, gate, "/socket", self.ASKS)
        test.assertIn(b" 101 ", self.stream.readline())
        while self.stream.readline().strip():
            pass
        self.socket.sendall(frame(TEXT, b"hello", b"mask"))
        test.assertEqual(read_frame(self.stream), (TEXT, b"hello"))


class Network(Networked):
    def setUp(self):
        super().setUp()
        self.visitors = concurrent.futures.ThreadPoolExecutor(Site.WORKERS)
        self.addCleanup(self.visitors.shutdown)

    def serve(self, workers="auto", **sections):
        gate = self.gate()
        listen = "{{ http: '{}:{}', workers: {}{} }}".format(*gate.address, workers, self.https())
        gate.write(**{"listen": listen, "admission": "{ mode: open }", **sections})
        gate.start()
        return gate

    def https(self):
        return ""

    def upstream(self, timeouts, *others):
        servers = ["http://{}:{}".format(*site.address) for site in (self.site, *others)]
        return f"{{ servers: {servers}, max_in_flight: {Site.WORKERS}, timeouts: {{ {timeouts} }} }}"

    def ask_all(self, gate, path, count, **more):
        """So many at once."""
        return [self.visitors.submit(ask, gate.address, path, **more) for _ in range(count)]

    def are_at_the_site(self, gate, count):
        until(lambda: gate.status()["slots"]["in_flight"] == count, f"{count} requests are at the site")

    def are_open(self, gate, count):
        until(lambda: gate.status()["connections"]["open"] == count, f"{count} connections are open")

    def outcomes(self, gate):
        """How requests to the site have ended, and how often."""
        return self.counts(gate, "tidegate_upstream_outcomes_total")

    def refused(self, gate):
        return self.counts(gate, "tidegate_requests_refused_total")

    def counts(self, gate, name):
        pairs = [line.split() for line in gate.operate("/metrics").body.splitlines() if line.startswith(f"{name}{{")]
        self.assertTrue(pairs)
        return {sample.split('"')[1]: float(count) for sample, count in pairs if float(count)}


class Cable(Network):
    """What all else here stands on."""

    def test_who_is_cut_off_is_told_nothing(self):
        gate = self.serve()
        waits, asks = Visitor(self, gate, "/hold"), Visitor(self, gate)
        self.are_at_the_site(gate, 1)
        self.are_open(gate, 2)
        self.machine.visitors.cut()
        self.site.release.set()
        asks.ask("/lost")
        comes = socket.socket()
        self.addCleanup(comes.close)
        comes.setblocking(False)
        comes.connect_ex(gate.address)
        until(lambda: unanswered(gate.address[0]) > 1, "what is said to the gate is lost")
        until(lambda: gate.unanswered(self.machine.visitors.near) > 1, "what the gate says is lost")
        self.assertEqual([path for path, _ in self.site.requests], ["/hold"])
        self.assertEqual([each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in (waits.socket, asks.socket, comes)], [0] * 3)
        self.are_open(gate, 2)
        self.machine.visitors.mend()
        self.assertEqual([waits.answer().status, asks.answer().status], [200, 200])
        self.are_open(gate, 3)


class OfTheSite(Network):
    """The site is cut off."""

    def test_who_has_asked_is_told_and_the_next_are_served_once_it_is_mended(self):
        gate = self.serve(admission="{ mode: auto }", waiting_room="{ refresh: 1s }", upstream=self.upstream("connect: 1s, response: 3s"))
        inside = gate.enter()
        asked = self.ask_all(gate, "/hold", Site.WORKERS, cookies=inside)
        # a slot is taken before there is a connection
        until(lambda: [path for path, _ in self.site.requests].count("/hold") == Site.WORKERS, "all have come to the site")
        self.machine.site.cut()
        # it answers, and nothing of that arrives
        self.site.release.set()
        self.assertEqual([gist(answer.result()) for answer in asked], [NO_ANSWER] * Site.WORKERS)
        self.are_at_the_site(gate, 0)
        self.assertEqual(self.outcomes(gate)["timeout"], Site.WORKERS)
        self.assertEqual(gist(ask(gate.address, cookies=inside)), NO_CONNECTION)
        self.assertEqual(self.outcomes(gate)["connect"], 1)
        self.machine.site.mend()
        until(lambda: gate.is_inside(inside), "who is in comes to the site")
        gate.enter()
        self.assertTrue(gate.status()["upstream"][0]["up"])

    def test_half_an_answer_is_not_taken_for_a_whole_one(self):
        gate = self.serve(upstream=self.upstream("response: 2s"))
        self.site.bodies["/large"] = bytes(LARGE)
        answer = Visitor(self, gate, "/large").answer()
        answer.read(MIB)
        self.machine.site.cut()
        with self.assertRaises(http.client.IncompleteRead):
            answer.read()
        self.are_at_the_site(gate, 0)
        self.assertEqual(self.outcomes(gate), {"timeout": 1})

    def test_one_that_knows_nothing_of_its_connections_is_asked_again_on_new_ones(self):
        # each thread has connections of its own
        count, gate = 4, self.serve(workers=1)
        before = self.ask_all(gate, "/hold", count)
        self.are_at_the_site(gate, count)
        self.site.release.set()
        self.assertEqual([gist(answer.result()) for answer in before], [SITE] * count)
        until(lambda: gate.status()["upstream"][0]["idle"] == count, "their connections are kept")
        self.machine.site.cut()
        self.site.vanish()
        self.site = Site(*self.site.address)
        self.addCleanup(self.site.close)
        self.machine.site.mend()
        after = self.ask_all(gate, "/hold", count - 1)
        self.are_at_the_site(gate, count - 1)
        # the last of them is left, and a form that is sent on it may have been taken
        self.assertEqual(gist(ask(gate.address, method="POST")), BROKEN_OFF)
        self.site.release.set()
        self.assertEqual([gist(answer.result()) for answer in after], [SITE] * (count - 1))
        self.assertEqual(len(self.site.requests), count - 1)

    def test_connections_that_are_lost_cost_a_request_each(self):
        count, gate = 2, self.serve(workers=1, upstream=self.upstream("response: 2s"))
        asked = self.ask_all(gate, "/hold", count)
        self.are_at_the_site(gate, count)
        self.site.release.set()
        self.assertEqual([gist(answer.result()) for answer in asked], [SITE] * count)
        ports = gate.ports(self.machine.site.near)
        self.assertEqual(len(ports), count)
        self.machine.site.lose(*ports)
        self.assertEqual(gist(ask(gate.address)), NO_ANSWER)
        self.assertTrue(any(gist(ask(gate.address)) == SITE for _ in range(count)))

    def test_a_connection_of_http2_that_is_lost_costs_few_requests(self):
        host, port = self.machine.site.near, free_port()
        certify(self.directory, host)
        server = f"listen {host}:{port} ssl http2; ssl_certificate site.pem; ssl_certificate_key site.key; location / {{ return 200; }}"
        command = nginx(self.directory, f"server {{ {server} }}")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait, LIMIT_S)
        self.addCleanup(process.kill)
        servers = f"servers: ['https://{host}:{port}'], tls: {{ ca: site.pem }}"
        # those of one thread go over one connection
        gate = self.serve(workers=1, upstream=f"{{ {servers}, timeouts: {{ response: 2s }} }}")
        until(lambda: gist(ask(gate.address)) == SITE, "nginx answers")
        self.assertEqual(gate.status()["upstream"][0]["protocol"], "HTTP/2")
        [connection] = gate.ports(host)
        self.machine.site.lose(connection)
        self.assertEqual(gist(ask(gate.address)), NO_ANSWER)
        # one after the other, as on a quiet day: at no time is there one for long
        self.assertTrue(any(gist(ask(gate.address)) == SITE for _ in range(10)))

    def test_a_gate_that_starts_meanwhile_says_so_and_serves_once_it_is_mended(self):
        self.machine.site.cut()
        gate = self.serve(upstream=self.upstream("connect: 1s"))
        self.assertEqual(gist(ask(gate.address)), NO_CONNECTION)
        self.assertEqual(self.outcomes(gate), {"connect": 1})
        self.assertEqual(gate.status()["upstream"][0]["trouble"], "no connection in time")
        self.machine.site.mend()
        self.assertEqual(gist(ask(gate.address)), SITE)
        self.assertIsNone(gate.status()["upstream"][0]["trouble"])

    def test_another_server_takes_over_until_it_is_back(self):
        other = Site(self.machine.operator.near)
        self.addCleanup(other.close)
        gate = self.serve(upstream=self.upstream("connect: 1s, response: 2s", other))

        def up():
            return [server["up"] for server in gate.status()["upstream"]]

        asked = self.ask_all(gate, "/hold", Site.WORKERS)
        until(lambda: all(server["in_flight"] for server in gate.status()["upstream"]), "both have some")
        self.site.release.set()
        other.release.set()
        self.assertEqual([gist(answer.result()) for answer in asked], [SITE] * Site.WORKERS)
        self.machine.site.cut()
        until(lambda: [answer.result() for answer in self.ask_all(gate, "/", Site.WORKERS)] and not up()[0], "it is given up")
        self.assertEqual([gist(ask(gate.address)) for _ in range(20)], [SITE] * 20)
        self.assertEqual(up(), [False, True])
        self.machine.site.mend()
        until(lambda: gist(ask(gate.address)) == SITE and all(up()), "it is back")


class OfAVisitor(Network):
    """A visitor is cut off, or many are."""

    def test_a_download_gives_back_what_it_holds(self):
        gate = self.serve(limits="{ body_timeout: 2s }")
        self.site.bodies["/large"] = bytes(LARGE)
        Visitor(self, gate, "/large").answer().read(MIB)
        self.machine.visitors.cut()
        self.are_open(gate, 0)
        self.are_at_the_site(gate, 0)
        self.assertEqual((self.outcomes(gate), self.refused(gate)), ({"aborted": 1}, {}))

    def talk(self, head, asks="", **sections):
        """A site that talks for as long as one lets it, and has begun to: the gate, its visitor, and the site's end."""
        source = socket.create_server((self.machine.site.near, 0))
        self.addCleanup(source.close)
        servers = "servers: ['http://{}:{}']".format(*source.getsockname())
        gate = self.serve(upstream=f"{{ {servers}, max_in_flight: 8, timeouts: {{ response: 5s }} }}", **sections)
        visitor = Visitor(self, gate, "/talk", asks)
        site, _ = source.accept()
        self.addCleanup(site.close)
        site.recv(65536)
        site.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode())
        self.assertEqual(visitor.answer().status, int(head.split()[0]))
        return gate, visitor, site

    def stream(self, **sections):
        return self.talk("200 OK\r\nContent-Type: text/event-stream", **sections)

    def assert_is_noticed(self, gate, site, said):
        """That the visitor is gone, while the site goes on."""

        def says_more():
            site.sendall(said)
            # seven times, each twice as long after the last: that is above 12 s
            return gate.unanswered(self.machine.visitors.near) >= 7 or gate.status()["connections"]["open"] == 0

        until(says_more, "it is noticed, or tried in vain for long")
        self.assertEqual(gate.status()["connections"]["open"], 0)

    def test_a_stream_of_events_gives_back_what_it_holds(self):
        gate, _, site = self.stream(limits="{ body_timeout: 2s }")
        self.machine.visitors.cut()
        self.assert_is_noticed(gate, site, b"data: hello\n\n")
        self.are_at_the_site(gate, 0)

    def test_a_websocket_over_which_the_site_talks_gives_back_what_it_holds(self):
        switched = "101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        gate, _, site = self.talk(switched, WebSocket.ASKS, limits="{ body_timeout: 2s }")
        self.machine.visitors.cut()
        self.assert_is_noticed(gate, site, frame(TEXT, b"hello"))
        until(lambda: gate.status()["upgrades"]["open"] == 0, "its place is given back")

    def test_a_stream_of_events_that_is_left_is_ended(self):
        gate, visitor, site = self.stream()
        visitor.stream.close()
        visitor.socket.close()
        self.are_open(gate, 0)
        # as many as in some hours
        with self.assertRaises(ConnectionError):
            for _ in range(1000):
                site.sendall(b": still here\n\n")
                gate.status()
        self.are_at_the_site(gate, 0)

    def test_an_upload_gives_back_what_it_holds(self):
        gate = self.serve(limits="{ body_timeout: 2s }")
        visitor = Visitor(self, gate)
        lines = ["PUT / HTTP/1.1", "Host: portal.test", f"Content-Length: {LARGE}", "Expect: 100-continue", "", ""]
        visitor.socket.sendall("\r\n".join(lines).encode())
        self.assertIn(b" 100 ", visitor.stream.readline())
        self.machine.visitors.cut()
        self.are_open(gate, 0)
        self.are_at_the_site(gate, 0)
        self.assertEqual(self.refused(gate), {"body_timeout": 1})

    def test_one_between_two_requests_has_its_time_and_no_more(self):
        gate = self.serve(limits="{ idle_timeout: 2s }")
        Visitor(self, gate, "/").answer().read()
        self.machine.visitors.cut()
        self.are_open(gate, 0)
        self.assertEqual((self.outcomes(gate), self.refused(gate)), ({"ok": 1}, {}))

    def test_a_cut_that_is_mended_in_time_costs_nothing_but_time(self):
        gate = self.serve()
        self.site.bodies["/large"] = os.urandom(LARGE)
        for cable, waits in (
            (self.machine.visitors, lambda: gate.unanswered(self.machine.visitors.near)),
            (self.machine.site, lambda: unanswered(self.machine.site.far)),
        ):
            answer = Visitor(self, gate, "/large").answer()
            begun = answer.read(MIB)
            cable.cut()
            rest = self.visitors.submit(answer.read)
            until(lambda: waits() > 1, "it stands still")
            self.assertFalse(rest.done())
            cable.mend()
            self.assertTrue(begun + rest.result() == self.site.bodies["/large"])
        self.assertEqual(self.outcomes(gate), {"ok": 2})

    def test_a_websocket_ends_when_nothing_comes_any_more(self):
        gate = self.serve(limits="{ upgrade_idle: 2s }")
        WebSocket(self, gate)
        self.machine.visitors.cut()
        until(lambda: gate.status()["upgrades"]["open"] == 0, "its place is given back")
        self.are_open(gate, 0)
        until(lambda: not self.site.connections, "the site is told")
        self.machine.visitors.mend()
        # the other way round it is the visitor who is told
        left = WebSocket(self, gate)
        self.machine.site.cut()
        self.assertEqual(left.stream.read(), b"")
        until(lambda: gate.status()["upgrades"]["open"] == 0, "its place is given back")
        self.are_open(gate, 0)
        self.are_at_the_site(gate, 0)
        self.assertEqual(self.counts(gate, "tidegate_upgrades_total"), {"switched": 2})

    def test_a_websocket_ends_when_what_is_said_is_not_taken(self):
        gate = self.serve(limits="{ body_timeout: 2s }")
        talks = WebSocket(self, gate)
        self.machine.site.cut()
        with self.assertRaises(ConnectionError):
            talks.socket.sendall(frame(TEXT, bytes(1000), b"mask") * (LARGE // 1000))
        until(lambda: gate.status()["upgrades"]["open"] == 0, "its place is given back")
        self.are_open(gate, 0)

    def test_a_gate_that_ends_waits_for_nobody_for_ever(self):
        gate = self.serve(shutdown="{ delay: 0s, deadline: 2s }")
        self.site.bodies["/large"] = bytes(LARGE)
        Visitor(self, gate, "/large").answer().read(MIB)
        Visitor(self, gate, "/hold")
        self.are_at_the_site(gate, 2)
        self.machine.visitors.cut()
        self.assertEqual(gate.terminate(), 0)
        self.assertIn("the deadline is over", gate.log.read_text())


class Secure(Network):
    """The gate speaks TLS, too."""

    def https(self):
        self.secure = (self.machine.visitors.far, free_port())
        certify(self.directory, self.secure[0])
        return ", https: {{ address: '{}:{}', certificate: site.pem, key: site.key }}".format(*self.secure)

    def curl(self, path, *arguments):
        """curl on its way; it speaks HTTP/2."""
        command = ["curl", "--silent", "--show-error", "--http2", "--cacert", "site.pem", *arguments]
        url = "https://{}:{}{}".format(*self.secure, path)
        process = subprocess.Popen([*command, url], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(process.wait, LIMIT_S)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        return process


class TlsClient:
    """A client of TLS whose records are carried by the test."""

    def __init__(self, test, *protocols):
        context = ssl.create_default_context(cafile=test.directory / "site.pem")
        context.set_alpn_protocols(protocols)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=test.secure[0])
        self.connection = socket.create_connection(test.secure, LIMIT_S)
        test.addCleanup(self.connection.close)

    def carry(self, step):
        """What a step comes to that may have to hear of the gate first. What it says last is not sent yet."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.say()
                self.incoming.write(self.connection.recv(65536))

    def say(self):
        self.connection.sendall(self.outgoing.read())


class WithinTls(Secure):
    """A visitor who speaks TLS, and HTTP/2, is cut off."""

    def test_a_handshake_has_its_time_and_no_more(self):
        gate = self.serve(limits="{ handshake_timeout: 2s, header_timeout: 1m }")
        begins, ends = TlsClient(self), TlsClient(self)
        with self.assertRaises(ssl.SSLWantReadError):
            begins.tls.do_handshake()
        ends.carry(ends.tls.do_handshake)
        self.machine.visitors.cut()
        # the first that there is to say, and the last
        for client in (begins, ends):
            self.assertTrue(client.outgoing.pending)
            client.say()
        until(lambda: self.refused(gate) == {"handshake_timeout": 2}, "both are refused")
        self.are_open(gate, 0)

    def test_who_waits_for_the_site_and_is_gone_is_noticed(self):
        gate = self.serve(limits="{ idle_timeout: 1s }")
        self.curl("/hold")
        self.are_at_the_site(gate, 1)
        self.machine.visitors.cut()
        self.are_open(gate, 0)
        # the worker of the site is busy with it all the same
        self.are_at_the_site(gate, 1)
        self.site.release.set()
        self.are_at_the_site(gate, 0)
        self.assertEqual(self.refused(gate), {})

    def test_one_between_two_requests_has_its_time_and_no_more(self):
        gate = self.serve(limits="{ idle_timeout: 1s }")
        client = TlsClient(self, "h2")
        client.carry(client.tls.do_handshake)
        # RFC 9113 and 7541: the preface, settings, and a request whose header fields stand in the static table but for the last value
        host = self.secure[0].encode()
        head = b"\x82\x84\x87\x41" + bytes([len(host)]) + host
        client.tls.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, len(head), 1, 5, 0, 0, 0, 1]) + head)
        answer = b""
        while Site.TITLE.encode() not in answer:
            answer += client.carry(lambda: client.tls.read(65536))
        self.machine.visitors.cut()
        self.are_open(gate, 0)
        self.assertEqual((self.outcomes(gate), self.refused(gate)), ({"ok": 1}, {}))


class Slow(Secure):
    """A line that takes its time, and that several share."""

    def serve(self):
        gate = super().serve()
        self.page = self.site.bodies["/page"] = os.urandom(150_000)
        return gate

    def test_everyone_has_all_of_it(self):
        gate = self.serve()
        cookies = gate.enter()
        gate.mode("closed")
        self.machine.visitors.slow("2mbit")
        inside = f"Cookie: tidegate_pass={cookies['tidegate_pass']}\r\n"
        pages = [Visitor(self, gate, "/page", inside) for _ in range(4)]
        rooms = self.ask_all(gate, "/page", 4)
        self.assertEqual([visitor.answer().read() == self.page for visitor in pages], [True] * 4)
        for room in rooms:
            self.assertEqual(room.result().status, 503)
            self.assertTrue(room.result().body.rstrip().endswith("</html>"))
        self.assertTrue(self.machine.visitors.has_queued())
        self.assertEqual(self.refused(gate), {})

    def test_everyone_has_all_of_it_within_tls_over_http2(self):
        gate = self.serve()
        self.assertIn(Site.TITLE.encode(), self.curl("/", "--cookie-jar", "jar").communicate()[0])
        gate.mode("closed")
        self.machine.visitors.slow("2mbit")
        pages = [self.curl("/page", "--cookie", "jar") for _ in range(4)]
        rooms = [self.curl("/page", "--header", "Accept: text/html") for _ in range(4)]
        self.assertEqual([curl.communicate()[0] == self.page for curl in pages], [True] * 4)
        self.assertEqual([curl.communicate()[0].rstrip().endswith(b"</html>") for curl in rooms], [True] * 4)
        self.assertEqual([curl.returncode for curl in pages + rooms], [0] * 8)
        self.assertTrue(self.machine.visitors.has_queued())
        self.assertEqual(self.refused(gate), {})
