"""The report of a simulation, as the operator's boss sees it."""

import subprocess

from browser import Browser
from world import World, binary


class Report(World):
    def test_the_report_is_readable_and_accessible(self):
        report = self.directory / "report.html"
        simulated = subprocess.run(
            [binary(), "simulate", "--only", "x3", "--only", "calm", "--seeds", "2", "--without-gate", "--html", report],
            capture_output=True, text=True, timeout=300,
        )
        self.assertEqual(simulated.returncode, 0, simulated.stdout + simulated.stderr)
        browser = Browser(self)
        browser.check_look(report.as_uri())
        self.assertIn("Three times as many as usual.", browser.text())
        self.assertEqual(browser.complaints(), [])
        # with the gate: requests, visitors, odds, latency; without it: requests, latency; for each of the two scenarios
        self.assertEqual(len(browser.find_all("svg.plot")), 12)
