"""The metrics as Prometheus reads them, and the alerts in deploy/."""

import re
import subprocess
import urllib.parse

from world import LIMIT_S, REPOSITORY, World, artifacts, ask, free_port, until

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"


def promtool(*arguments, **options):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=LIMIT_S, **options)
    return done.returncode, done.stdout + done.stderr


class Metrics(World):
    def test_the_linter_has_nothing_to_say(self):
        gate = self.serve()
        gate.enter()
        metrics = ask(gate.admin, "/metrics")
        self.assertTrue(metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4"), metrics.headers["Content-Type"])
        self.assertEqual(promtool("check", "metrics", input=metrics.body), (0, ""))

    def test_prometheus_scrapes_the_gate_and_runs_the_alerts(self):
        gate = self.serve()
        gate.enter()
        gate.mode("closed")
        self.assertEqual(ask(gate.address).status, 503)
        port = free_port()
        config = self.directory / "prometheus.yml"
        config.write_text(
            "global: { scrape_interval: 1s, evaluation_interval: 1s }\n"
            f"rule_files: ['{PROMETHEUS / 'alerts.yml'}']\n"
            f"scrape_configs: [{{ job_name: tidegate, static_configs: [{{ targets: ['127.0.0.1:{gate.admin[1]}'] }}] }}]\n"
        )
        with open(artifacts() / "prometheus.log", "wb") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.directory / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.addCleanup(process.wait, LIMIT_S)
        self.addCleanup(process.terminate)

        def query(expression):
            try:
                answer = ask(("127.0.0.1", port), "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
            except OSError:
                self.assertIsNone(process.poll(), "prometheus has ended")
                return []
            return answer.json()["data"]["result"] if answer.status == 200 else []

        verdicts = until(lambda: query("tidegate_requests_total > 0"), "a scrape that shows requests")
        counts = {sample["metric"]["verdict"]: float(sample["value"][1]) for sample in verdicts}
        self.assertLessEqual(set(counts), {"admit", "wait"})
        self.assertGreaterEqual(counts["wait"], 1)
        self.assertEqual(query('up{job="tidegate"}')[0]["value"][1], "1")

        def rules():
            groups = ask(("127.0.0.1", port), "/api/v1/rules").json()["data"]["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            return found if found and all(rule["health"] != "unknown" for rule in found) else None

        evaluated = until(rules, "every alert evaluated")
        self.assertEqual({rule["name"]: rule["health"] for rule in evaluated if rule["health"] != "ok"}, {})

    def test_the_alerts_name_metrics_that_exist(self):
        gate = self.serve()
        # those of the servers are there from the first tick on
        until(lambda: "tidegate_upstream_up{" in ask(gate.admin, "/metrics").body, "the first tick")
        metrics = ask(gate.admin, "/metrics").body
        exposed = set(re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE))
        for file in ("alerts.yml", "alerts_test.yml"):
            used = set(re.findall(r"\b(?:tidegate|process)_[a-z_]+[a-z]\b", (PROMETHEUS / file).read_text()))
            used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
            self.assertTrue(used)
            self.assertEqual(used - exposed, set(), file)


class Alerts(World):
    def test_the_rules_and_the_configuration_are_valid(self):
        for arguments in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
            code, said = promtool(*arguments, cwd=PROMETHEUS)
            self.assertEqual(code, 0, said)

    def test_each_alert_fires_on_its_cause_and_not_before(self):
        code, said = promtool("test", "rules", "alerts_test.yml", cwd=PROMETHEUS)
        self.assertEqual(code, 0, said)
        names = re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
        tested = set(re.findall(r"alertname: (\w+)", (PROMETHEUS / "alerts_test.yml").read_text()))
        self.assertEqual(tested, set(names))
