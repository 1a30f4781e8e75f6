"""The form for an email address, as a visitor's browser has it."""

import json

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from browser import Browser
from world import World, path_and_query

FIELD = "#tidegate-address"

# each load of a page has another
ORIGIN = "return document.readyState === 'complete' && performance.timeOrigin"


class EmailForm(World):
    def closed(self, refresh):
        return self.serve(admission="{ mode: closed }", waiting_room=f"{{ refresh: {refresh}, refresh_max: 60s }}")

    def rows(self):
        files = sorted((self.directory / "data" / "email-queue").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def wait_for_refresh(self, browser):
        """Until the page has loaded anew."""
        before = browser.wait(lambda driver: driver.execute_script(ORIGIN), "a whole page")
        browser.wait(lambda driver: driver.execute_script(ORIGIN) not in (False, before), "the page to refresh")

    def type_first(self, browser, text):
        """Types into a page that may refresh at any moment, until the first letter stands there."""

        def typed(driver):
            field = browser.find(FIELD)
            field.send_keys(text)
            return field.get_attribute("value")

        browser.wait(typed, "a letter in the field")

    def value(self, browser):
        return browser.driver.execute_script(f"return document.querySelector('{FIELD}').value")

    def look(self, browser, what):
        """Readable and accessible as it stands, without loading it again."""
        for scheme in ("light", "dark"):
            browser.prefer(prefers_color_scheme=scheme)
            for width, height in ((1280, 900), (360, 740)):
                with self.subTest(what=what, scheme=scheme, width=width):
                    browser.resize(width, height)
                    content, viewport = browser.widths()
                    self.assertLessEqual(content, viewport, "it scrolls sideways")
                    browser.screenshot(f"{what}-{scheme}-{width}")
                    self.assertEqual(browser.violations(), [])

    def test_what_is_typed_is_never_wiped_by_the_refresh(self):
        gate = self.closed("1s")
        browser, beside = Browser(self), Browser(self)
        browser.open(f"{gate.url}/apply?step=2")
        beside.open(gate.url)
        # nobody types: both come back by themselves
        for each in (browser, beside, browser):
            self.wait_for_refresh(each)

        self.type_first(browser, "a")
        origin = browser.wait(lambda driver: driver.execute_script(ORIGIN), "a whole page")
        typed = self.value(browser)
        for part in ("nn", "@exam", "ple.org"):
            # the other one shows that it is time
            self.wait_for_refresh(beside)
            self.wait_for_refresh(beside)
            browser.find(FIELD).send_keys(part)
            typed += part
        self.assertEqual(browser.driver.execute_script(ORIGIN), origin, "the page was loaded anew")
        self.assertEqual(self.value(browser), typed)
        self.assertTrue(browser.find("#tidegate-held").is_displayed())

        # nor when something else is looked at, as long as it stands there
        browser.driver.execute_script("document.activeElement.blur()")
        for _ in range(3):
            self.wait_for_refresh(beside)
        self.assertEqual((browser.driver.execute_script(ORIGIN), self.value(browser)), (origin, typed))

        # emptied and left, it goes on
        browser.find(FIELD).clear()
        browser.find(FIELD).send_keys("x", Keys.BACKSPACE, Keys.TAB)
        browser.wait(lambda driver: driver.execute_script(ORIGIN) not in (False, origin), "the page to refresh again")
        self.wait_for_refresh(browser)
        self.assertEqual(self.value(browser), "")
        self.assertEqual(browser.complaints(), [])

    def test_what_is_typed_outlives_a_reload(self):
        gate = self.closed("60s")
        browser = Browser(self)
        browser.open(gate.url)
        browser.find(FIELD).send_keys("ann@example.org", *[Keys.ARROW_LEFT] * 4)
        browser.driver.refresh()
        state = "const field = document.activeElement; return [field.id, field.value, field.selectionStart, field.selectionEnd]"
        browser.wait(lambda driver: driver.execute_script(ORIGIN), "a whole page")
        self.assertEqual(browser.driver.execute_script(state), [FIELD[1:], "ann@example.org", 11, 11])
        # what was sent is not offered again
        browser.find(FIELD).submit()
        browser.wait_for_title("Thank you")
        browser.find("main a").click()
        browser.wait_for_title("waiting room")
        browser.wait(lambda driver: driver.execute_script(ORIGIN), "a whole page")
        browser.wait(lambda driver: self.value(browser) == "", "an empty field")
        self.assertEqual([row["email"] for row in self.rows()], ["ann@example.org"])
        self.assertEqual(browser.complaints(), [])

    def test_it_can_be_sent_with_the_keyboard_alone(self):
        gate = self.closed("2s")
        browser = Browser(self)
        browser.open(f"{gate.url}/apply?step=2")

        def to_the_field(driver):
            ActionChains(driver).send_keys(Keys.TAB).perform()
            return driver.execute_script("return document.activeElement.id") == FIELD[1:]

        browser.wait(to_the_field, "the focus in the field")
        browser.screenshot("focus")
        ActionChains(browser.driver).send_keys("ann", Keys.ENTER).perform()
        browser.wait_for_title("Please look at your address")
        # what is wrong is where one goes on typing
        self.assertEqual(browser.driver.execute_script("return document.activeElement.id"), FIELD[1:])
        ActionChains(browser.driver).send_keys(Keys.END, "@example.org", Keys.ENTER).perform()
        browser.wait_for_title("Thank you")
        self.assertEqual([(row["email"], row["path"]) for row in self.rows()], [("ann@example.org", "/apply?step=2")])
        # a reload of the thanks sends nothing
        browser.driver.refresh()
        browser.wait_for_title("Thank you")
        self.assertEqual(gate.metric("tidegate_emails_accepted_total"), 1)
        ActionChains(browser.driver).send_keys(Keys.TAB, Keys.ENTER).perform()
        browser.wait_for_title("Entry is paused")
        self.assertEqual(path_and_query(browser.driver.current_url), "/apply?step=2")

    def test_without_javascript_the_form_has_a_page_that_stays(self):
        gate = self.closed("1s")
        browser, beside = Browser(self), Browser(self)
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.open(f"{gate.url}/apply")
        beside.open(gate.url)

        def on_the_own_page(driver):
            driver.find_element("partial link text", "page of its own").click()
            return driver.current_url.startswith(f"{gate.url}/.tidegate/email?") and "Leave your email" in driver.title

        browser.wait(on_the_own_page, "the form on a page of its own")
        browser.find(FIELD).send_keys("ann@exam")
        for _ in range(4):
            self.wait_for_refresh(beside)
        browser.find(FIELD).send_keys("ple.org")
        self.assertEqual(browser.find(FIELD).get_property("value"), "ann@example.org")
        browser.find("form button").click()
        browser.wait_for_title("Thank you")
        self.assertEqual([(row["email"], row["path"]) for row in self.rows()], [("ann@example.org", "/apply")])

    def test_its_pages_are_readable_and_accessible(self):
        gate = self.closed("60s")
        browser = Browser(self)
        browser.open(f"{gate.url}/apply")
        self.look(browser, "waiting")
        browser.find(FIELD).send_keys("ann")
        self.look(browser, "typed")
        browser.driver.find_element("partial link text", "page of its own").click()
        browser.wait_for_title("Leave your email")
        self.look(browser, "own")
        browser.find(FIELD).send_keys("ann.example.org", Keys.ENTER)
        browser.wait_for_title("Please look at your address")
        self.look(browser, "error")
        browser.find(FIELD).clear()
        browser.find(FIELD).send_keys("ann@example.org", Keys.ENTER)
        browser.wait_for_title("Thank you")
        self.look(browser, "thanks")
        browser.driver.delete_all_cookies()
        browser.open(f"{gate.url}/.tidegate/email")
        self.look(browser, "no-ticket")
