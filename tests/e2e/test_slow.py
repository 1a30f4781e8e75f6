"""slowhttptest, a tool that others test servers with: whatever it is slow at, the gate answers others and cuts it. And who is only slow."""

import csv
import socket
import subprocess
import time

from world import LIMIT_S, World, until

CONNECTIONS = 200

# What it is slow at, a byte or a line a second.
ATTACKS = {
    "heads": ["-H", "-i", "1"],
    "bodies": ["-B", "-i", "1", "-s", "100000"],
    "ranges": ["-R", "-a", "5", "-b", "2000"],
    "reads": ["-X", "-n", "1", "-w", "10", "-y", "20", "-z", "5"],
}


class Slow(World):
    def attack(self, gate, kind, cookies):
        """Attacks until all of it is cut, or it gives up; then, second by second, whether others were answered."""
        report = self.directory / kind
        load = ["-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", "15", "-p", "10", "-g", "-o", report]
        shown = "; ".join(f"{name}={value}" for name, value in cookies.items())
        command = ["slowhttptest", *load, *ATTACKS[kind], "-u", f"{gate.url}/", "-j", shown]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
            self.addCleanup(process.kill)
            until(lambda: gate.status()["connections"]["open"] > 10 or process.poll() is not None, "it has begun")
            # it may not notice: what it does not take stands between it and the end
            until(lambda: gate.status()["connections"]["open"] <= 1, "its connections are cut")
            self.assertTrue(gate.is_inside(cookies))
            self.assertEqual(process.wait(LIMIT_S), 0)
        with open(f"{report}.csv", newline="") as file:
            return [int(second["Service Available"]) for second in csv.DictReader(file)]

    def test_it_is_cut_and_others_are_answered(self):
        gate = self.serve(
            limits="{ connections: 1000, header_timeout: 2s, body_timeout: 2s, idle_timeout: 2s }", session="{ rate: 100000 }"
        )
        inside = gate.enter()
        for kind in ATTACKS:
            with self.subTest(kind):
                available = self.attack(gate, kind, inside)
                self.assertTrue(available and all(available), available)
        refused = {reason: gate.metric(f'tidegate_requests_refused_total{{reason="{reason}"}}') for reason in ("header_timeout", "body_timeout")}
        self.assertEqual(refused, {"header_timeout": CONNECTIONS, "body_timeout": CONNECTIONS})

    def test_who_takes_its_bytes_is_not_cut_however_long_it_takes(self):
        self.site.bodies["/large"] = bytes(64 << 20)
        gate = self.serve(limits="{ body_timeout: 2s }")
        cookies = "; ".join(f"{name}={value}" for name, value in gate.enter().items())
        with socket.socket() as client:
            # a window of a phone's, though the network could carry megabytes at once
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
            client.settimeout(LIMIT_S)
            client.connect(gate.address)
            client.sendall(f"GET /large HTTP/1.1\r\nHost: test\r\nCookie: {cookies}\r\n\r\n".encode())
            # 100 kB/s for four times as long as it has without taking anything
            for _ in range(160):
                self.assertTrue(client.recv(5000))
                time.sleep(0.05)
            self.assertEqual(gate.metric('tidegate_upstream_outcomes_total{outcome="aborted"}'), 0)
            self.assertEqual(gate.metric("tidegate_upstream_in_flight"), 1)
