"""What a visitor's browser sees."""

import re
import subprocess
import threading

from browser import Browser
from world import LIMIT_S, Site, World, ask, path_and_query, until


class WaitingRoom(World):
    def test_a_visitor_waits_and_comes_in_without_a_click(self):
        gate = self.serve()
        gate.mode("closed")
        browser = Browser(self)
        browser.open(f"{gate.url}/apply?step=2")
        self.assertIn("waiting room", browser.driver.title)
        self.assertEqual(browser.driver.execute_script("return document.documentElement.lang"), "en")
        self.assertTrue(browser.find("[role=status]").text)
        self.assertNotIn("/apply?step=2", [path for path, _ in self.site.requests])
        browser.screenshot("waiting")
        self.assertEqual(browser.complaints(), [])

        gate.mode("auto")
        browser.wait_for_title(Site.TITLE)
        # to the page first asked for
        self.assertEqual(browser.find("#path").text, "/apply?step=2")
        self.assertEqual(path_and_query(browser.driver.current_url), "/apply?step=2")
        browser.screenshot("inside")

        # and stays in when nobody else comes in
        gate.mode("closed")
        browser.open(f"{gate.url}/next")
        self.assertEqual(browser.find("#path").text, "/next")
        self.assertEqual(browser.complaints(), [])

    def test_the_page_is_readable_and_accessible(self):
        # it must not go away while it is looked at
        gate = self.serve(admission="{ mode: closed }", waiting_room="{ refresh: 60s, refresh_max: 60s }")
        browser = Browser(self)
        # the first page is one that gives a ticket and comes back soon; the second is the one that stays
        browser.open(gate.url)
        browser.wait(lambda driver: driver.get_cookie("tidegate_ticket"), "a ticket")
        browser.check_look(gate.url)
        self.assertEqual(browser.complaints(), [])

    def test_who_stands_in_a_line_sees_the_place(self):
        gate = self.serve(admission="{ order: arrival }", waiting_room="{ refresh: 20s, refresh_max: 60s }", session="{ in_flight: 100 }")
        visitor = ask(gate.address, headers={"Accept": "application/json"}).cookies()
        # every worker is busy, and nothing is answered: nobody can be let in
        busy = [threading.Thread(target=ask, args=(gate.address, "/hold"), kwargs={"cookies": visitor}) for _ in range(Site.WORKERS)]
        for each in busy:
            each.start()
        try:
            json = {"Accept": "application/json"}
            first = until(lambda: ask(gate.address, headers=json).cookies().get("tidegate_ticket"), "someone to wait")
            self.assertTrue(first)
            browser = Browser(self)
            browser.open(gate.url)
            browser.wait(lambda driver: "Your place in the order of arrival:" in browser.text(), "a place")
            self.assertRegex(browser.text(), "If people go on being let in as now|We cannot say yet how long")
            browser.check_look(gate.url)
            self.assertEqual(browser.complaints(), [])
        finally:
            self.site.release.set()
            for each in busy:
                each.join()
        browser.wait_for_title(Site.TITLE)

    def test_the_page_needs_no_script_and_nothing_from_the_site(self):
        gate = self.serve(admission="{ mode: closed }", email_queue="{ enabled: false }")
        answer = ask(gate.address)
        self.assertEqual(answer.status, 503)
        self.assertIn("Refresh", answer.headers)
        self.assertIn("Retry-After", answer.headers)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assertNotIn("<script", answer.body)
        self.assertIn("default-src 'none'", answer.headers["Content-Security-Policy"])
        self.assertEqual(re.findall(r"""(?:src|href)=["']?(?!data:|/?["']|/["'])([^"'> ]+)""", answer.body), [])
        self.assertEqual(self.site.requests, [])


class MintedLink(World):
    def test_the_page_can_be_unzipped_by_others(self):
        gate = self.serve(admission="{ mode: closed }")
        page = {"Accept": "text/html"}
        ticket = ask(gate.address, headers=page).cookies()
        plain = ask(gate.address, "/apply", headers=page, cookies=ticket)
        zipped = ask(gate.address, "/apply", headers={**page, "Accept-Encoding": "gzip"}, cookies=ticket)
        self.assertEqual(zipped.headers["Content-Encoding"], "gzip")
        self.assertIsNone(plain.headers["Content-Encoding"])
        self.assertEqual(zipped.body, plain.body)
        self.assertLess(2 * len(zipped.bytes), len(plain.bytes))
        tested = subprocess.run(["gzip", "--test"], input=zipped.bytes, capture_output=True, timeout=LIMIT_S)
        self.assertEqual((tested.returncode, tested.stderr), (0, b""))

    def test_a_minted_link_lets_its_holder_in_while_the_gate_is_closed(self):
        gate = self.serve(admission="{ mode: closed }")
        minted = gate.run("mint", "--for", "2h", "--note", "press desk")
        self.assertEqual(minted.returncode, 0, minted.stderr)
        link = re.search(r"^link:\s+(\S+)$", minted.stdout, re.MULTILINE)[1]
        self.assertTrue(link.startswith(gate.url), link)

        browser = Browser(self)
        browser.open(gate.url)
        self.assertIn("waiting room", browser.driver.title)
        browser.open(link)
        # opening the link lets nobody in: mail scanners do that too
        self.assertIsNone(browser.driver.get_cookie("tidegate_pass"))
        self.assertEqual(browser.violations(), [])
        browser.screenshot("landing")
        browser.find("form button").click()
        browser.wait_for_title(Site.TITLE)
        self.assertEqual(browser.find("#path").text, "/")
        browser.open(f"{gate.url}/desk")
        self.assertEqual(browser.find("#path").text, "/desk")
        self.assertEqual(browser.complaints(), [])

        browser.driver.delete_all_cookies()
        browser.open(gate.url)
        self.assertIn("waiting room", browser.driver.title)

    def test_a_minted_header_does_the_same_for_programs(self):
        gate = self.serve(admission="{ mode: closed }")
        minted = gate.run("mint", "--for", "2h", "--note", "monitoring")
        name, value = re.search(r"^header:\s+(\S+): (\S+)$", minted.stdout, re.MULTILINE).groups()
        self.assertEqual(ask(gate.address, headers={"Accept": "application/json"}).json()["verdict"], "wait")
        self.assertIn(Site.TITLE, ask(gate.address, headers={name: value}).body)
        _, headers = self.site.requests[-1]
        self.assertNotIn(name, headers, "the pass has reached the site")
