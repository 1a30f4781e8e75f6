"""What the operator's browser sees."""

from browser import Browser
from world import World, ask, until


class Dashboard(World):
    def test_the_operator_sets_the_mode_and_gives_it_back(self):
        gate = self.serve()
        self.assertTrue(gate.is_inside({}) or gate.enter())
        browser = Browser(self)
        browser.open(f"{gate.admin_url}/?hold")
        self.assertIn("Tidegate", browser.driver.title)
        browser.find("button[name=mode][value=closed]").click()
        browser.wait(lambda _: "The gate is closed" in browser.text(), "a dashboard that says closed")
        self.assertEqual(ask(gate.address).status, 503)
        self.assertEqual(gate.status()["mode"]["source"], "operator")

        browser.open(f"{gate.admin_url}/?hold")
        browser.find("button[name=mode][value=file]").click()
        browser.wait(lambda _: (text := browser.text()) and "The gate is closed" not in text, "a dashboard that says open")
        self.assertEqual((gate.status()["mode"]["name"], gate.status()["mode"]["source"]), ("auto", "file"))
        gate.enter()
        self.assertEqual(browser.complaints(), [])

    def test_it_is_readable_and_accessible(self):
        gate = self.serve()
        gate.enter()
        # the charts, and the widest figures below them
        until(lambda: len(gate.status()["history"]) >= 3, "a history")
        browser = Browser(self)
        browser.check_look(f"{gate.admin_url}/?hold")

    def test_a_page_of_another_origin_cannot_set_the_mode(self):
        gate = self.serve()
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://evil.example"}
        self.assertEqual(ask(gate.admin, "/mode", "POST", "mode=closed", form).status, 403)
        self.assertEqual(gate.status()["mode"]["name"], "auto")
