"""The gate as a service: checked, started, reloaded, drained, killed."""

import http.client
import json
import pathlib
import signal
import socket
import threading

from world import LIMIT_S, Site, World, ask, until


class Check(World):
    def test_a_good_file_is_printed_as_the_policy_it_makes(self):
        checked = self.gate().run("check")
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertIn("max_in_flight: 8", checked.stdout)
        # a default that nobody wrote
        self.assertIn("probe_rate: 0.2", checked.stdout)

    def test_every_error_is_named_with_its_line(self):
        gate = self.gate(session="{ idle: 20 bananas }", waiting_room="\n  status: 999\n  colour: blue")
        lines = gate.config.read_text().splitlines()
        checked = gate.run("check")
        self.assertEqual(checked.returncode, 2, checked.stdout)
        said = checked.stdout + checked.stderr
        for key, text in (("session.idle", "session:"), ("waiting_room.status", "  status:"), ("waiting_room.colour", "  colour:")):
            number = next(number for number, line in enumerate(lines, 1) if line.startswith(text))
            self.assertRegex(said, rf"gate\.yaml:{number}:\d+.*{key.replace('.', '[.]')}")

    def test_a_broken_file_is_not_served(self):
        gate = self.gate(session="{ idle: 20 bananas }")
        served = gate.run("serve")
        self.assertNotEqual(served.returncode, 0)
        self.assertIn("session.idle", served.stdout + served.stderr)


class Reload(World):
    def reloaded(self, gate):
        """SIGHUP, and the gate has said that it reloads and that it is done."""
        gate.process.send_signal(signal.SIGHUP)
        gate.notices.wait_for("RELOADING=1", gate.process)
        gate.notices.wait_for("READY=1", gate.process)

    def test_sighup_applies_a_new_file_and_drops_no_connection(self):
        gate = self.serve()
        cookies = gate.enter()
        connection = http.client.HTTPConnection(*gate.address, timeout=LIMIT_S)
        self.addCleanup(connection.close)
        headers = {"Accept": "text/html", "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        connection.request("GET", "/before", headers=headers)
        self.assertIn("/before", connection.getresponse().read().decode())
        kept = connection.sock

        gate.write(admission="{ mode: closed }", waiting_room="{ status: 429 }")
        self.reloaded(gate)
        self.assertEqual(ask(gate.address).status, 429)
        connection.request("GET", "/after", headers=headers)
        self.assertIn("/after", connection.getresponse().read().decode())
        self.assertIs(connection.sock, kept)

    def test_a_changed_file_is_noticed_without_a_signal(self):
        gate = self.serve()
        gate.write(admission="{ mode: closed }")
        until(lambda: gate.status()["mode"]["name"] == "closed", "the new mode")

    def test_a_broken_file_is_rejected_and_the_last_good_one_serves_on(self):
        gate = self.serve(waiting_room="{ status: 429 }", admission="{ mode: closed }")
        gate.write(admission="{ mode: ajar }")
        self.reloaded(gate)
        self.assertEqual(ask(gate.address).status, 429)
        self.assertGreaterEqual(gate.metric('tidegate_config_reloads_total{result="rejected"}'), 1)
        config = gate.status()["config"]
        self.assertEqual(config["last_result"], "rejected")
        self.assertIn("admission.mode", "\n".join(config["errors"]))

        answer = ask(gate.admin, "/reload", "POST", headers={"Accept": "application/json"})
        self.assertIn("admission.mode", answer.body)
        gate.write()
        self.assertEqual(ask(gate.admin, "/reload", "POST", headers={"Accept": "application/json"}).json(), {"result": "applied"})
        self.assertEqual(gate.status()["config"]["last_result"], "applied")


class Restart(World):
    def test_passes_and_tickets_outlive_a_kill(self):
        gate = self.serve()
        cookies = gate.enter()
        gate.mode("closed")
        ticket = ask(gate.address).cookies()
        self.assertIn("tidegate_ticket", ticket)
        before = ask(gate.address, "/.tidegate/status", cookies=ticket).json()["ticket"]
        gate.kill()

        gate.write(admission="{ mode: closed }")
        gate.start()
        self.assertTrue(gate.is_inside(cookies), "a pass is lost")
        self.assertFalse(gate.is_inside({}))
        self.assertEqual(ask(gate.address, "/.tidegate/status", cookies=ticket).json()["ticket"], before)

    def test_the_operators_mode_outlives_a_restart(self):
        gate = self.serve()
        gate.mode("closed")
        self.assertEqual(gate.terminate(), 0)
        gate.start()
        mode = gate.status()["mode"]
        self.assertEqual((mode["name"], mode["source"]), ("closed", "operator"))

    def test_sigterm_finishes_what_is_in_flight(self):
        gate = self.serve(shutdown="{ delay: 60s, deadline: 60s }")
        cookies = gate.enter()
        answers = []
        visitor = threading.Thread(target=lambda: answers.append(ask(gate.address, "/hold", cookies=cookies)))
        visitor.start()
        self.assertTrue(self.site.held.wait(LIMIT_S))
        gate.process.send_signal(signal.SIGTERM)
        gate.notices.wait_for("STOPPING=1", gate.process)
        # during the delay it still takes requests, and says to load balancers that they should go elsewhere
        until(lambda: ask(gate.address, "/.tidegate/healthz").status == 503, "health goes down")
        self.assertEqual(ask(gate.admin, "/readyz").status, 503)
        self.assertEqual(ask(gate.admin, "/healthz").status, 200)
        self.assertTrue(gate.is_inside(cookies))
        # a second one cuts the delay short
        gate.process.send_signal(signal.SIGTERM)

        def is_closed():
            try:
                socket.create_connection(gate.address, LIMIT_S).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass  # in the very moment
            return False

        until(is_closed, "the listener closes")
        self.assertIsNone(gate.process.poll(), "it has not waited for the request")
        self.site.release.set()
        visitor.join(LIMIT_S)
        self.assertEqual(gate.process.wait(LIMIT_S), 0)
        self.assertIn(Site.TITLE, answers[0].body)

    def test_a_second_gate_is_refused(self):
        gate = self.serve()
        second = gate.run("serve")
        self.assertNotEqual(second.returncode, 0)
        self.assertIn("in use", second.stdout + second.stderr)
        self.assertIsNone(gate.process.poll())

    def test_healthcheck_says_whether_it_serves(self):
        gate = self.serve()
        self.assertEqual(gate.run("healthcheck").returncode, 0)
        self.assertEqual(gate.terminate(), 0)
        self.assertEqual(gate.run("healthcheck").returncode, 1)


class Sockets(World):
    def test_a_socket_of_the_service_manager_outlives_the_gate(self):
        gate = self.gate(admission="{ mode: closed }")
        with socket.create_server(gate.address) as listener:
            # before the gate is there: nobody is refused while it starts
            early = http.client.HTTPConnection(*gate.address, timeout=LIMIT_S)
            early.request("GET", "/", headers={"Accept": "text/html"})
            gate.start(listener)
            self.assertEqual(early.getresponse().status, 503)
            early.close()
            self.assertEqual(gate.terminate(), 0)
            between = http.client.HTTPConnection(*gate.address, timeout=LIMIT_S)
            between.request("GET", "/", headers={"Accept": "text/html"})
            gate.start(listener)
            self.assertEqual(between.getresponse().status, 503)
            between.close()


class Keys(World):
    def test_a_rotation_keeps_every_visitor_and_a_retirement_ends_their_passes(self):
        gate = self.serve()
        cookies = gate.enter()
        gate.mode("closed")
        first = gate.run("keys", "list").stdout.splitlines()[1].split()[0]
        rotated = gate.run("keys", "rotate")
        self.assertEqual(rotated.returncode, 0, rotated.stderr)
        self.assertIn("signs", gate.run("keys", "list").stdout.splitlines()[2])
        self.assertTrue(gate.is_inside(cookies))
        self.assertEqual(gate.run("keys", "retire", first).returncode, 0)
        until(lambda: not gate.is_inside(cookies), "the retired key no longer verifies")

    def test_only_the_owner_can_read_them(self):
        gate = self.serve()
        keys = [file for file in (pathlib.Path(gate.directory) / "data" / "keys").iterdir() if file.is_file()]
        self.assertTrue(keys)
        self.assertEqual([oct(file.stat().st_mode & 0o777) for file in keys], ["0o600"] * len(keys))

    def test_a_minted_pass_is_written_down_and_can_be_revoked(self):
        gate = self.serve(admission="{ mode: closed }")
        minted = gate.run("mint", "--for", "1h", "--note", "call centre").stdout
        written = json.loads((gate.directory / "data" / "minted.jsonl").read_text())
        self.assertEqual(written["note"], "call centre")
        self.assertIn(written["id"], minted)
        token = next(line.split(": ")[-1] for line in minted.splitlines() if line.startswith("header:"))
        inside = lambda: Site.TITLE in ask(gate.address, headers={"Tidegate-Pass": token}).body
        self.assertTrue(inside())
        gate.write(admission="{ mode: closed }", bypass=f"{{ revoked: ['{written['id']}'] }}")
        until(lambda: not inside(), "the pass has ended")
