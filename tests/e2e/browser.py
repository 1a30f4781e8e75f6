"""A real browser: Chromium, driven through chromedriver. Each has a profile of its own."""

import pathlib
import shutil
import tempfile

import axe_playwright_python
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from world import LIMIT_S, artifacts

AXE = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()

# WCAG 2.2 A and AA, and what axe counts as good practice.
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Browser:
    def __init__(self, test, trusts=None, hosts=None):
        """`trusts`: the SHA-256, in base64, of a public key whose certificates are believed. `hosts`: names and their addresses."""
        self.test = test
        self.name = test.id().split(".", 1)[-1]
        profile = tempfile.mkdtemp(prefix="tidegate-e2e-chromium-")
        test.addCleanup(shutil.rmtree, profile, ignore_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for argument in (
            "--headless=new",
            # there is no sandbox for root, and /dev/shm of containers is small
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-proxy-server",
            # as on a phone: they take no width
            "--hide-scrollbars",
            "--window-size=1280,900",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        if trusts:
            options.add_argument(f"--ignore-certificate-errors-spki-list={trusts}")
        if hosts:
            rules = ", ".join(f"MAP {name} {address}" for name, address in hosts.items())
            options.add_argument(f"--host-resolver-rules={rules}")
        service = Service(shutil.which("chromedriver"), log_output=str(artifacts() / f"{self.name}.chromedriver.log"))
        self.driver = webdriver.Chrome(options=options, service=service)
        test.addCleanup(self.driver.quit)
        self.driver.set_page_load_timeout(LIMIT_S)

    def open(self, url):
        self.driver.get(url)

    def wait(self, condition, what):
        """Until `condition(driver)` is true; a page that changes under it is asked again."""
        from selenium.common.exceptions import JavascriptException, NoSuchElementException, StaleElementReferenceException

        changing = (StaleElementReferenceException, NoSuchElementException, JavascriptException)
        return WebDriverWait(self.driver, LIMIT_S, poll_frequency=0.1, ignored_exceptions=changing).until(condition, what)

    def wait_for_title(self, part):
        self.wait(lambda driver: part in driver.title, f"a page titled {part}")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self):
        # in one step: an element that is found and then asked may have gone with its page in between
        return self.driver.execute_script("return document.body ? document.body.innerText : ''")

    def resize(self, width, height):
        """The viewport itself, below the narrowest window too."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features):
        """CSS media features, such as `prefers_color_scheme="dark"`."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def widths(self):
        """The width of the content, and that of the viewport."""
        return self.driver.execute_script("const root = document.documentElement; return [root.scrollWidth, root.clientWidth]")

    def violations(self):
        """What axe-core finds, a line each."""
        self.driver.set_script_timeout(LIMIT_S)
        result = self.driver.execute_async_script(
            AXE + "; const done = arguments[arguments.length - 1];"
            "axe.run(document, { runOnly: arguments[0], resultTypes: ['violations'] }).then(done, (error) => done({ error: String(error) }));",
            AXE_TAGS,
        )
        if "error" in result:
            raise AssertionError(result["error"])
        return [f"{found['id']}: {node['html']}: {node['failureSummary']}" for found in result["violations"] for node in found["nodes"]]

    def check_look(self, url):
        """A page is readable and accessible: light and dark, on a desk and on the narrowest phone."""
        for scheme in ("light", "dark"):
            self.prefer(prefers_color_scheme=scheme)
            for width, height in ((1280, 900), (320, 640)):
                with self.test.subTest(scheme=scheme, width=width):
                    self.resize(width, height)
                    self.open(url)
                    content, viewport = self.widths()
                    self.test.assertEqual(viewport, width)
                    self.test.assertLessEqual(content, viewport, "it scrolls sideways")
                    self.screenshot(f"{scheme}-{width}")
                    self.test.assertEqual(self.violations(), [])

    def complaints(self):
        """The console's errors and warnings, without the one that a page of status 503 is itself."""
        own = "Failed to load resource: the server responded with a status of 503"
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO" and own not in entry["message"]]

    def screenshot(self, what):
        self.driver.save_screenshot(str(artifacts() / f"{self.name}.{what}.png"))
