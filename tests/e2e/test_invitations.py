"""Invitations, from outside: a mail server takes them, a person or a program opens them, and the gate is killed meanwhile."""

import collections
import os
import pathlib
import random
import shutil
import tempfile
import threading
import unittest.mock
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from browser import Browser
from post import Office, Queue, Relay, Silence, faults, in_a_text_browser, in_a_text_client, path_of
from world import Gate, Site, World, ask, free_port, until

SITE_URL = "https://www.example.org"
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}


def sections(port, rate=20, site_url=SITE_URL):
    """A gate that invites at once, and is not held up by how many may come."""
    return {
        "invitations": f"{{ smtp: 'smtp://127.0.0.1:{port}', from: 'Benefits Portal <no-reply@example.org>', site_url: '{site_url}', "
        f"settle: 0s, below: 1, share: 1, expected_redemption: 0, rate: {rate} }}",
    }


def post(gate, path, cookies=None, **fields):
    """A form, as a browser sends it."""
    return ask(gate.address, path, "POST", urllib.parse.urlencode(fields), FORM, cookies)


class Invitations(World):
    def setUp(self):
        super().setUp()
        self.queue = Queue(self.directory / "data")
        # all that it could say
        self.enterContext(unittest.mock.patch.dict(os.environ, TIDEGATE_LOG="debug"))

    def office(self):
        office = Office()
        self.addCleanup(office.close)
        return office

    def assert_log_names_nobody(self, gate):
        self.assertEqual([line for line in gate.log.read_text().splitlines() if "@" in line and "no-reply@" not in line], [])

    def sent(self, gate, office, count):
        """Waits until so many are sent, as the ledger says."""
        until(lambda: sum(self.queue.counts("sent").values()) >= count, f"{count} to be sent")
        return office.messages()


class Kills(Invitations):
    """Each invitation arrives once, or once more for each kill that found it on its way."""

    KILLS = 20
    RATE = 20
    ROWS = 360

    def run_with_kills(self, office, port, draw):
        languages = ("en", "de", "fr", "es", "it", None)
        names = [f"visitor{n}@example.org" for n in range(self.ROWS)]
        ids = {self.queue.add(name, languages[n % 6], f"/apply?step={n}"): name for n, name in enumerate(names)}
        gate = self.gate(**sections(port, self.RATE))
        allowed = collections.Counter(dict.fromkeys(ids.values(), 1))
        sent_once = set()
        for _ in range(self.KILLS):
            # somewhere in the conversation about a recipient, before the answer to a message, or around what is written down after it
            stage, events = draw.choice(["recipient", "taken", "taken", "after"]), draw.randrange(1, self.RATE)
            seconds = draw.uniform(0, 0.03)
            countdown = iter(range(events - 1, -1, -1))

            def kill_when(at, stage=stage, seconds=seconds, countdown=countdown):
                if at == ("taken" if stage == "after" else stage) and next(countdown, None) == 0:
                    if stage != "after":
                        gate.process.kill()
                    else:
                        return seconds, gate.process.kill
                return None

            gate.start()
            office.watch = kill_when
            until(lambda: gate.process.poll() is not None, "a message at which the gate is killed")
            self.assertEqual(gate.process.returncode, -9)
            office.watch = lambda at: None
            self.look_at_the_ledger(ids, allowed, sent_once)
        gate.start()
        until(lambda: len(self.queue.counts("sent")) == self.ROWS, "all to be sent")
        self.assertEqual(gate.terminate(), 0)
        return gate, ids, allowed

    def look_at_the_ledger(self, ids, allowed, sent_once):
        """What a kill leaves behind: what was on its way may come once more."""
        began, sent = self.queue.counts("sending"), self.queue.counts("sent")
        allowed.update(ids[row] for row in began if row not in sent)
        sent_once.update(ids[row] for row in sent)
        self.begun_at_kills.append(len(began) - len(sent))

    def judge(self, gate, ids, allowed, messages):
        copies = collections.defaultdict(list)
        for message in messages:
            copies[message.to].append(message)
        wrong = {to: (len(copies[to]), allowed[to]) for to in ids.values() if not 1 <= len(copies[to]) <= allowed[to]}
        self.assertEqual(wrong, {}, "copies, and how many there may be")
        for to, all_of_it in copies.items():
            self.assertEqual(len({message.id for message in all_of_it}), 1, to)
            self.assertEqual(len({message.code for message in all_of_it}), 1, to)
        self.assertEqual(len({message.code for message in messages}), self.ROWS)
        self.assertEqual(self.queue.counts("sent"), dict.fromkeys(ids, 1), "each is said to be sent, once")
        self.assertEqual({line["event"] for line in self.queue.events()}, {"sending", "sent"})
        self.assert_log_names_nobody(gate)
        # and whatever the ledger says, a kill finds a handful of conversations
        twice = sum(len(all_of_it) - 1 for all_of_it in copies.values())
        self.assertLessEqual(twice, 10 * self.KILLS)
        on_their_way = sum(self.begun_at_kills)
        print(f"{self.KILLS} kills, {self.ROWS} invitations, {on_their_way} on their way at a kill, {twice} copies more ...", end=" ")

    def setUp(self):
        super().setUp()
        self.begun_at_kills = []

    def test_a_mail_server_gets_each_once_or_once_more_for_what_a_kill_found_on_its_way(self):
        office = self.office()
        gate, ids, allowed = self.run_with_kills(office, office.port, random.Random(1))
        self.judge(gate, ids, allowed, office.messages())
        self.assertEqual([fault for message in office.messages() for fault in faults(message.content)], [])

    def test_so_does_what_is_behind_opensmtpd(self):
        office = self.office()
        relay = Relay(office)
        self.addCleanup(relay.close)
        gate, ids, allowed = self.run_with_kills(office, relay.port, random.Random(2))
        # what it has taken it hands on by and by
        until(lambda: len({message.to for message in office.messages()}) == self.ROWS, "all to be handed on")
        self.judge(gate, ids, allowed, office.messages())


class Messages(Invitations):
    """What a mail program, a scanner and a person make of a message."""

    def invited(self, site_url=SITE_URL, rows=(("ann@example.org", "en", "/apply?step=2"),)):
        office = self.office()
        self.ids = {self.queue.add(*row): row[0] for row in rows}
        gate = self.serve(**sections(office.port, site_url=site_url))
        messages = self.sent(gate, office, len(rows))
        self.assertEqual(sorted(message.to for message in messages), sorted(row[0] for row in rows))
        return gate, office, messages

    def test_each_is_one_by_the_rules_and_shows_its_link_and_its_code_in_text(self):
        long = "/apply?" + "&".join(f"field{n}=value+{n}%2C" for n in range(60))
        pages = [None, "/apply?step=2&name='x'", "/Gesuch/%C3%BCbersicht?f\u00fcr=J\u00fcrg", long]
        languages = ("en", "fr", "de-CH", "es", "xx")
        rows = [(f"{language}.{n}@example.org", language, page) for language in languages for n, page in enumerate(pages)]
        rows.append(("j\u00fcrg@xn--bcher-kva.example", "de", "/"))
        rows.append(("x+tag.o'neil/a=b@sub.example.org", "en", "/"))
        rows.append((f"{'l' * 64}@{'d' * 60}.example.org", "fr", "/"))
        _, _, messages = self.invited(rows=rows)
        for message in messages:
            with self.subTest(to=message.to):
                self.assertEqual(faults(message.content), [])
                shown = in_a_text_client(message.content)
                lines = [line.strip() for line in shown.splitlines()]
                self.assertIn(message.code, lines)
                self.assertIn(message.link, lines)
                self.assertIn(message.unsubscribe, lines)
                self.assertIn(message.code, message.link)
                browsed = in_a_text_browser(message.part("html"))
                self.assertIn(message.code, browsed)
                self.assertIn(message.link, "".join(browsed.split()))

    def test_links_that_scanners_follow_do_nothing_and_one_click_deletes(self):
        gate, office, messages = self.invited(rows=[("ann@example.org", "en", "/apply?step=2"), ("bob@example.org", "de", None)])
        ann, bob = sorted(messages, key=lambda message: message.to)
        for message in (ann, bob):
            links = [link for link in message.links() if link.startswith(f"{SITE_URL}/.tidegate/")]
            self.assertIn(message.link, links)
            self.assertIn(message.unsubscribe, links)
            for link in links * 2:
                answer = ask(gate.address, path_of(link), headers={"User-Agent": "scanner", "Accept": "*/*"})
                self.assertEqual((answer.status, "tidegate_pass" in answer.cookies()), (200, False), link)
        self.assertEqual(gate.metric("tidegate_invitations_redeemed_total"), 0)
        self.assertEqual({line["event"] for line in self.queue.events()}, {"sending", "sent"})

        self.assertEqual(ann.message["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click")

        def one_click(path):
            return ask(gate.address, path, "POST", "List-Unsubscribe=One-Click", {"Content-Type": FORM["Content-Type"]}).status

        self.assertEqual(one_click(path_of(ann.unsubscribe)), 200)
        left = [self.ids[row] for row in self.queue.counts("left")]
        self.assertEqual(left, ["ann@example.org"])
        forged = path_of(bob.unsubscribe)[:-1] + ("0" if bob.unsubscribe[-1] != "0" else "1")
        self.assertEqual(one_click(forged), 403)
        # the address is deleted at the next round, and a start begins with one; what was told stays good
        gate.kill()
        eve = self.queue.add("eve@example.org")
        gate.start()
        until(lambda: "ann@example.org" not in [row["email"] for row in self.queue.rows()], "the address to be deleted")
        # not only taken by the mail server: what a kill finds on its way is sent once more
        until(lambda: eve in self.queue.counts("sent"), "the next one to be written to")
        gate.kill()
        # not beside a gate that may be rewriting the file
        fay = self.queue.add("fay@example.org")
        gate.start()
        until(lambda: fay in self.queue.counts("sent"), "another one to be written to")
        self.assertEqual([message.to for message in office.messages()][2:], ["eve@example.org", "fay@example.org"])
        self.assertEqual(post(gate, "/.tidegate/invitation", code=ann.code).status, 303)
        self.assert_log_names_nobody(gate)

    def test_of_fifty_clients_with_one_code_one_comes_in(self):
        gate, _, [ann] = self.invited()
        with ThreadPoolExecutor(50) as clients:
            answers = list(clients.map(lambda _: post(gate, "/.tidegate/invitation", code=ann.code), range(50)))
        self.assertEqual(collections.Counter(answer.status for answer in answers), {303: 1, 403: 49})
        self.assertTrue(all("has been used" in answer.body for answer in answers if answer.status == 403))
        self.assertEqual(sum(self.queue.counts("redeemed").values()), 1)
        self.assertEqual(gate.metric("tidegate_invitations_redeemed_total"), 1)

    def test_a_person_comes_to_the_page_first_asked_for(self):
        office = self.office()
        gate = self.gate()
        gate.write(**sections(office.port, site_url=gate.url))
        for name in ("ann", "bob"):
            self.queue.add(f"{name}@example.org", "en", "/apply?step=2")
        gate.start()
        ann, bob = self.sent(gate, office, 2)

        browser = Browser(self)
        browser.open(ann.link)
        browser.wait_for_title("You are invited")
        self.assertIn("/apply?step=2", browser.text())
        self.assertIsNone(browser.driver.get_cookie("tidegate_pass"))
        browser.check_look(ann.link)
        browser.screenshot("landing")
        browser.find("form button").click()
        browser.wait_for_title(Site.TITLE)
        self.assertEqual(browser.find("#path").text, "/apply?step=2")
        # and stays in when nobody else comes in
        gate.mode("closed")
        browser.open(f"{gate.url}/next")
        self.assertEqual(browser.find("#path").text, "/next")
        browser.driver.delete_all_cookies()
        browser.open(f"{gate.url}/next")
        self.assertIn("waiting room", browser.driver.title)

        # a code that is read out over the telephone, on the narrowest phone; the gate is closed to others still
        form = f"{gate.url}/.tidegate/invitation"
        browser.check_look(form)
        browser.resize(320, 640)
        browser.open(form)
        browser.find("#code").send_keys("0000", "\n")
        browser.wait_for_title("We do not know this code")
        self.assertEqual(browser.violations(), [])
        self.assertEqual(browser.widths(), [320, 320])
        browser.screenshot("unknown-320")
        # what was mistyped stands there to be mended
        self.assertEqual(browser.find("#code").get_attribute("value"), "0000")
        browser.find("#code").clear()
        browser.find("#code").send_keys(bob.code.lower().replace("-", " "), "\n")
        browser.wait_for_title(Site.TITLE)
        self.assertEqual(browser.find("#path").text, "/")
        self.assertEqual(sum(self.queue.counts("redeemed").values()), 2)
        # who has lost the answer may ask for it again; nobody else
        browser.driver.delete_all_cookies()
        browser.open(bob.link)
        browser.wait_for_title("This invitation has been used")
        self.assertEqual(browser.violations(), [])

        browser.open(bob.unsubscribe)
        browser.wait_for_title("Delete your email address")
        browser.check_look(bob.unsubscribe)
        self.assertEqual(sum(self.queue.counts("left").values()), 0)
        browser.find("form button").click()
        browser.wait_for_title("is being deleted")
        self.assertEqual(browser.violations(), [])
        browser.screenshot("left")
        self.assertEqual([line["event"] for line in self.queue.events()][-1], "left")
        # a page that says no has a status that the console does not like
        self.assertEqual([line for line in browser.complaints() if "the server responded with a status of 403" not in line], [])


class Trouble:
    """A gate whose mail server does not do as it should."""

    def __init__(self, name, port, addresses, **more):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-e2e-"))
        self.site = Site()
        self.queue = Queue(self.directory / "data")
        self.ids = {self.queue.add(address): address for address in addresses}
        self.gate = Gate(self.directory, self.site, f"WithTrouble.{name}", **sections(port, **more))
        with unittest.mock.patch.dict(os.environ, TIDEGATE_LOG="debug"):
            self.gate.start()

    def add(self, address):
        self.ids[self.queue.add(address)] = address

    def said(self, event):
        """Of whom the ledger says this, and how often."""
        return {self.ids[row]: count for row, count in self.queue.counts(event).items()}

    def reasons(self, event):
        return [line.get("reason") for line in self.queue.events() if line["event"] == event]

    def close(self):
        self.gate.close()
        self.site.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class WithTrouble(unittest.TestCase):
    """What fails is tried again by the gate's own clock, after a minute or so: all of it goes on at once, and beside the other tests."""

    maxDiff = None
    LIMIT_S = 200

    @classmethod
    def begin(cls):
        cls.down_port = free_port()
        cls.down = Trouble("down", cls.down_port, [f"down{n}@example.org" for n in range(8)], rate=4)
        cls.silence = Silence()
        cls.hanging = Trouble("hanging", cls.silence.port, ["hanging@example.org"])
        cls.choosy_office = Office()
        refusals = cls.choosy_office.refusals
        refusals["grey@example.org"].extend(["451 4.7.1 Greylisted, please try again", "250"])
        refusals["gone@example.org"].append("550 5.1.1 <gone@example.org>: no such mailbox")
        refusals["policy@example.org"].append("550 5.7.1 not from you")
        cls.choosy = Trouble("choosy", cls.choosy_office.port, [f"{name}@example.org" for name in ("grey", "gone", "policy", "plain")])
        for each in (cls.down, cls.hanging, cls.choosy):
            unittest.addModuleCleanup(each.close)
        unittest.addModuleCleanup(cls.choosy_office.close)
        unittest.addModuleCleanup(cls.silence.close)
        # it is down until it has been tried
        until(lambda: cls.down.said("deferred"), "the server that is down to be tried")
        cls.seen_down = cls.down.said("sent"), Site.TITLE in ask(cls.down.gate.address).body, cls.down.gate.log.read_text()
        cls.late_office = Office(cls.down_port)
        unittest.addModuleCleanup(cls.late_office.close)

    def until(self, condition, what):
        return until(condition, what, self.LIMIT_S)

    def office(self, port):
        office = Office(port)
        self.addCleanup(office.close)
        return office

    def assert_is_quiet(self, trouble):
        """It serves as ever, has marked nothing as sent, and its log names nobody."""
        self.assertIn(Site.TITLE, ask(trouble.gate.address).body)
        self.assertEqual(trouble.said("sent"), {})
        self.assertEqual(trouble.gate.metric('tidegate_invitations_total{result="sent"}'), 0)
        self.assertGreaterEqual(trouble.gate.metric('tidegate_invitations_total{result="deferred"}'), 1)

    def assert_log_names_nobody(self, trouble):
        self.assertEqual([line for line in trouble.gate.log.read_text().splitlines() if "@" in line and "no-reply@" not in line], [])
        self.assertNotIn("@", "".join(file.read_text() for file in trouble.queue.ledger.glob("*.jsonl")))

    def test_a_server_that_is_down_costs_nobody_the_place(self):
        down, office = self.down, self.late_office
        sent, serves, log = self.seen_down
        self.assertEqual((sent, serves), ({}, True))
        self.assertIn("invitations can't be handed over", log)
        self.until(lambda: len(down.said("sent")) == 8, "all to be sent, without a start or a hand")
        self.assertEqual(sorted(message.to for message in office.messages()), sorted(down.ids.values()))
        self.assertEqual(set(down.said("sent").values()), {1})
        self.assertIn("invitations can be handed over again", down.gate.log.read_text())
        self.assert_log_names_nobody(down)

    def test_a_server_that_hangs_is_left_after_a_minute_and_found_again(self):
        hanging = self.hanging
        self.until(lambda: hanging.said("deferred"), "it to be left")
        self.assert_is_quiet(hanging)
        self.assertEqual(hanging.reasons("deferred")[0], "the connection to the mail server: no answer within 60 s")
        self.silence.close()
        office = self.office(self.silence.port)
        # who comes next finds out that it works, also if nobody was to be written to when it was to be tried again
        hanging.add("next@example.org")
        self.until(lambda: hanging.said("sent").get("next@example.org"), "the next one to be sent")
        # who was deferred comes in time, before or after
        taken = [message.to for message in office.messages()]
        self.assertEqual(len(set(taken)), len(taken))
        self.assertLessEqual(set(taken), {"next@example.org", "hanging@example.org"})
        self.assertEqual(hanging.said("failed"), {})
        self.assert_log_names_nobody(hanging)

    def test_what_is_said_of_one_recipient_holds_for_that_one(self):
        choosy, office = self.choosy, self.choosy_office
        self.until(lambda: choosy.said("sent").get("grey@example.org"), "the greylisted one to be sent")
        self.assertEqual(choosy.said("sent"), {"grey@example.org": 1, "plain@example.org": 1})
        self.assertEqual(office.asked["grey@example.org"], 2)
        self.assertEqual(choosy.said("failed"), {"gone@example.org": 1})
        self.assertEqual(choosy.reasons("failed"), ["the recipient: 550 5.1.1 … no such mailbox"])
        # never again, and not after a start
        choosy.gate.kill()
        choosy.add("last@example.org")
        choosy.gate.start()
        self.until(lambda: choosy.said("sent").get("last@example.org"), "the last one to be sent")
        self.assertEqual(office.asked["gone@example.org"], 1)
        # that we may not send to someone is the operator's to mend
        self.assertIn("policy@example.org", choosy.said("deferred"))
        self.assertEqual(choosy.gate.metric('tidegate_invitations_total{result="sent"}'), 1)
        self.assertEqual(sorted(message.to for message in office.messages()), ["grey@example.org", "last@example.org", "plain@example.org"])
        self.assert_log_names_nobody(choosy)


def setUpModule():
    WithTrouble.begin()
