"""TLS as OpenSSL, curl and a browser see it."""

import base64
import hashlib
import re
import subprocess

from browser import Browser
from world import LIMIT_S, Site, World, certificate, free_port, openssl, until

HOST = "portal.test"


class Tls(World):
    def setUp(self):
        super().setUp()
        certificate(self.directory, "ca", "req", "-x509", "-subj", "/CN=Test authority", "-days", "2")
        self.issue()

    def issue(self):
        """A certificate for the host, in place of the one before: first the certificate, a moment later the key."""
        names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        certificate(self.directory, "new", "req", "-x509", *names, "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key")
        for kind in ("pem", "key"):
            (self.directory / f"new.{kind}").rename(self.directory / f"site.{kind}")

    def serve(self, **sections):
        gate = self.gate()
        self.port = free_port()
        https = f"{{ address: '127.0.0.1:{self.port}', certificate: site.pem, key: site.key, redirect: ['{HOST}:{self.port}'] }}"
        gate.write(listen=f"{{ http: '127.0.0.1:{gate.address[1]}', https: {https} }}", **sections)
        gate.start()
        return gate

    def connect(self, *arguments, given="Q\n"):
        where = ["-connect", f"127.0.0.1:{self.port}", "-servername", HOST, "-CAfile", "ca.pem", "-verify_return_error"]
        return openssl("s_client", *where, *arguments, directory=self.directory, given=given)

    def curl(self, gate, *arguments):
        ports = (gate.address[1], self.port)
        resolved = [part for port in ports for part in ("--resolve", f"{HOST}:{port}:127.0.0.1")]
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--cacert", "ca.pem", *resolved, *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=self.directory,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_what_is_agreed_is_what_is_held_to_be_safe(self):
        self.serve()
        for version in ("-tls1_3", "-tls1_2"):
            code, said = self.connect(version)
            self.assertEqual(code, 0, said)
            self.assertIn("Verify return code: 0 (ok)", said)
            self.assertIn("Compression: NONE", said)
        self.assertRegex(self.connect("-tls1_2")[1], r"Secure Renegotiation IS supported")
        # a version that is broken, exchanges of keys without forward secrecy, ciphers without authentication
        weak = "DEFAULT:@SECLEVEL=0"
        for refused in (
            ["-tls1_1", "-cipher", weak],
            ["-tls1", "-cipher", weak],
            ["-tls1_2", "-cipher", "kRSA"],
            ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384"],
            ["-tls1_2", "-cipher", "aNULL:eNULL:@SECLEVEL=0"],
        ):
            code, said = self.connect(*refused)
            self.assertNotEqual(code, 0, refused)
            self.assertIn("Cipher is (NONE)", said, refused)
        # a visitor who asks to begin anew within a connection
        self.assertNotIn("HTTP/1.1 200", self.connect("-tls1_2", given="R\nGET / HTTP/1.0\n\n")[1])

    def test_a_certificate_is_renewed_while_visitors_come_back(self):
        gate = self.serve()
        serial = re.compile(r"serial=(\w+)")

        def shown():
            pem = self.connect()[1]
            return serial.search(openssl("x509", "-noout", "-serial", directory=self.directory, given=pem)[1])[1]

        before = shown()
        for version in ("-tls1_3", "-tls1_2"):
            # in TLS 1.3 the ticket comes after the handshake, with the first answer
            request = f"GET /.tidegate/healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
            self.connect(version, "-sess_out", f"session{version}", "-ign_eof", given=request)
            self.assertIn("Reused", self.connect(version, "-sess_in", f"session{version}")[1])
        self.issue()
        until(lambda: shown() != before, "the new certificate to be shown")
        for version in ("-tls1_3", "-tls1_2"):
            self.assertIn("Reused", self.connect(version, "-sess_in", f"session{version}")[1], version)
        # on the way a key without its certificate may have been seen, and was not taken over
        self.assertEqual(gate.metric('tidegate_config_reloads_total{result="applied"}'), 1)

    def test_curl_is_sent_to_tls_and_its_pass_holds_over_a_kill(self):
        gate = self.serve()
        page = self.curl(gate, "--location", "--cookie-jar", "jar", f"http://{HOST}:{gate.address[1]}/apply?step=2")
        self.assertIn(Site.TITLE, page)
        self.assertIn("/apply?step=2", page)
        jar = (self.directory / "jar").read_text()
        self.assertIn("__Host-tidegate_pass", jar)
        gate.mode("closed")
        gate.kill()
        gate.start()
        self.assertIn(Site.TITLE, self.curl(gate, "--cookie", "jar", f"https://{HOST}:{self.port}/"))
        without = self.curl(gate, "--write-out", "%{http_code}", "--output", "/dev/null", f"https://{HOST}:{self.port}/")
        self.assertEqual(without, "503")
        for version, wanted in (("--http1.1", "1.1"), ("--http2", "2")):
            spoken = self.curl(gate, version, "--write-out", " %{http_version}", "--cookie", "jar", f"https://{HOST}:{self.port}/")
            self.assertIn(Site.TITLE, spoken)
            self.assertEqual(spoken.split()[-1], wanted)
        # a form, or more, that is answered before all of it has come: the answer is not lost with the rest
        for size in (21, 30_000, 3_000_000):
            (self.directory / "form").write_bytes(b"x" * size)
            for _ in range(5):
                posted = ["--data-binary", "@form", "--write-out", "%{http_code}", "--output", "/dev/null"]
                self.assertEqual(self.curl(gate, "--http2", *posted, f"https://{HOST}:{self.port}/"), "503", size)

    def test_a_browser_waits_and_comes_in_within_tls(self):
        gate = self.serve(admission="{ mode: closed }", waiting_room="{ refresh: 1s }")
        der = subprocess.run(
            ["openssl", "pkey", "-in", "site.key", "-pubout", "-outform", "DER"], capture_output=True, check=True, cwd=self.directory
        )
        browser = Browser(self, trusts=base64.b64encode(hashlib.sha256(der.stdout).digest()).decode(), hosts={HOST: "127.0.0.1"})
        browser.open(f"https://{HOST}:{self.port}/apply?step=2")
        self.assertNotEqual(browser.driver.title, Site.TITLE)
        self.assertTrue(browser.driver.execute_script("return window.isSecureContext"))
        self.assertEqual([cookie["name"] for cookie in browser.driver.get_cookies()], ["__Host-tidegate_ticket"])
        spoken = "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
        self.assertEqual(browser.driver.execute_script(spoken), "h2")
        browser.screenshot("waiting-tls")
        gate.mode("open")
        browser.wait_for_title(Site.TITLE)
        [cookie] = [cookie for cookie in browser.driver.get_cookies() if cookie["name"] == "__Host-tidegate_pass"]
        self.assertEqual((cookie["secure"], cookie["httpOnly"], cookie["sameSite"]), (True, True, "None"))
