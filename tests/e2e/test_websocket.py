"""A page of the site with a WebSocket, in a real browser: through the gate, and held back by it."""

from browser import Browser
from world import LIMIT_S, World, until

OPEN = """
const [url, words, done] = arguments;
const socket = new WebSocket(url);
window.ending = new Promise((resolve) => { socket.onclose = (event) => resolve([event.code, event.wasClean]); });
window.socket = socket;
socket.onopen = () => socket.send(words);
socket.onmessage = (event) => done(event.data);
window.ending.then((how) => done(how));
"""

CLOSED = "const done = arguments[arguments.length - 1]; window.ending.then(done);"


class WebSocket(World):
    def browser_on_the_site(self, gate):
        browser = Browser(self)
        browser.driver.set_script_timeout(LIMIT_S)
        browser.open(f"{gate.url}/")
        browser.wait_for_title(self.site.TITLE)
        return browser

    def open(self, gate, browser, words):
        return browser.driver.execute_async_script(OPEN, f"{gate.url.replace('http', 'ws', 1)}/socket", words)

    def test_messages_go_both_ways_until_the_page_closes_it(self):
        gate = self.serve()
        browser = self.browser_on_the_site(gate)
        words = "ä" * 20_000
        self.assertEqual(self.open(gate, browser, words), words)
        path, headers = self.site.requests[-1]
        self.assertEqual((path, headers["Upgrade"], headers["Connection"]), ("/socket", "websocket", "Upgrade"))
        self.assertNotIn("tidegate_", headers.get("Cookie", ""))
        status = gate.status()
        self.assertEqual((status["upgrades"]["open"], status["slots"]["in_flight"]), (1, 0))
        browser.driver.execute_script("window.socket.close(1000)")
        self.assertEqual(browser.driver.execute_async_script(CLOSED), [1000, True])
        until(lambda: gate.status()["upgrades"]["open"] == 0, "it is given back")
        self.assertEqual(browser.complaints(), [])

    def test_who_waits_gets_none(self):
        gate = self.serve(routes="[{ path: /, gate: open }]")
        gate.mode("closed")
        browser = self.browser_on_the_site(gate)
        self.assertEqual(self.open(gate, browser, "hello"), [1006, False])
        self.assertEqual([path for path, _ in self.site.requests if path == "/socket"], [])

    def test_a_gate_that_ends_ends_it(self):
        gate = self.serve(shutdown="{ delay: 0s, deadline: 4s }")
        browser = self.browser_on_the_site(gate)
        self.assertEqual(self.open(gate, browser, "hello"), "hello")
        self.assertEqual(gate.terminate(), 0)
        self.assertEqual(browser.driver.execute_async_script(CLOSED), [1006, False])
