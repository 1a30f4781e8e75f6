"""The commands of docs/operations.md, as they are written there."""

import os
import re
import subprocess

from world import LIMIT_S, REPOSITORY, World, binary

GUIDE = REPOSITORY / "docs" / "operations.md"


class Guide(World):
    def test_every_command_works_as_written(self):
        text = GUIDE.read_text()
        commands = [re.sub(r"^ +", "", block, flags=re.MULTILINE).strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
        self.assertGreater(len(commands), 10)
        gate = self.serve()
        gate.enter()
        (self.directory / "bin").mkdir()
        (self.directory / "bin" / "tidegate").symlink_to(binary())
        environment = {**os.environ, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}
        here = {
            "127.0.0.1:8080": f"127.0.0.1:{gate.address[1]}",
            "127.0.0.1:9090": f"127.0.0.1:{gate.admin[1]}",
            "/etc/tidegate/gate.yaml": str(gate.config),
            "/var/lib/tidegate": str(self.directory / "data"),
        }
        for command in commands:
            with self.subTest(command=command):
                script = command
                for written, there in here.items():
                    script = script.replace(written, there)
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script],
                    env=environment,
                    cwd=self.directory,
                    capture_output=True,
                    text=True,
                    timeout=LIMIT_S,
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
                self.assertTrue(done.stdout.strip() or "healthcheck" in command)
                if "/mode" in command:
                    mode = re.search(r"mode=(\w+)", command)[1]
                    self.assertEqual(gate.status()["mode"]["name"], "auto" if mode == "file" else mode)

    def test_its_links_lead_somewhere(self):
        text = GUIDE.read_text()
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
        for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
            if target.startswith("#"):
                self.assertIn(target[1:], anchors)
            else:
                self.assertTrue((GUIDE.parent / target).exists(), target)
