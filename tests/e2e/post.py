"""Mail servers for the gate, what comes to them, and what has to be right about a message."""

import asyncio
import collections
import email.errors
import email.policy
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import urllib.parse
from datetime import UTC, datetime, timedelta

from aiosmtpd.controller import Controller

from world import LIMIT_S, artifacts, free_port, until

CODE = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{4}(?:-[0-9A-HJKMNP-TV-Z]{4}){3}-[0-9A-HJKMNP-TV-Z]\b")
DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} [+-]\d{4}")
URL = re.compile(r"""https?://[^\s<>"']+""")


class Office:
    """A mail server that does as it is told (aiosmtpd)."""

    def __init__(self, port=None):
        self.port = port or free_port()
        self.lock = threading.Lock()
        self.taken = []
        # who was asked for, and how often
        self.asked = collections.Counter()
        # by a recipient: what is said before 250
        self.refusals = collections.defaultdict(collections.deque)
        # is told of each recipient and each message, before the answer; what it returns, if anything, is called some seconds later
        self.watch = lambda stage: None
        office = self

        class Handler:
            async def handle_RCPT(self, server, session, envelope, address, options):
                with office.lock:
                    office.asked[address] += 1
                    refusals = office.refusals[address]
                    # the last holds for ever
                    refusal = refusals.popleft() if len(refusals) > 1 else next(iter(refusals), "250")
                if refusal != "250":
                    return refusal
                office.tell("recipient")
                envelope.rcpt_tos.append(address)
                return "250 OK"

            async def handle_DATA(self, server, session, envelope):
                with office.lock:
                    office.taken.append(Taken(envelope.rcpt_tos[0], envelope.original_content))
                office.tell("taken")
                return "250 OK"

        self.controller = Controller(Handler(), hostname="127.0.0.1", port=self.port, enable_SMTPUTF8=True, loop=asyncio.new_event_loop())
        self.controller.start()

    def tell(self, stage):
        later = self.watch(stage)
        if later:
            seconds, then = later
            asyncio.get_running_loop().call_later(seconds, then)

    def messages(self):
        with self.lock:
            return list(self.taken)

    def close(self):
        self.controller.stop()


class Taken:
    """A message that a mail server has taken."""

    def __init__(self, to, content):
        self.to = to
        self.content = content
        self.message = email.message_from_bytes(content, policy=email.policy.SMTPUTF8)

    @property
    def id(self):
        return self.message["Message-ID"]

    @property
    def code(self):
        return CODE.search(self.part("plain"))[0]

    def part(self, kind):
        return self.message.get_body((kind,)).get_content()

    @property
    def link(self):
        """The link that lets in."""
        return next(link for link in URL.findall(self.part("plain")) if "/.tidegate/invitation?code=" in link)

    @property
    def unsubscribe(self):
        return self.message["List-Unsubscribe"].strip("<>")

    def links(self):
        """All that a scanner follows."""
        html = self.part("html").replace("&amp;", "&").replace("&#x2f;", "/").replace("&#x3d;", "=")
        return sorted({*URL.findall(self.part("plain")), *URL.findall(html), *URL.findall(str(self.message["List-Unsubscribe"]))})


class Relay:
    """OpenSMTPD, as it is on many a machine: what it takes it hands on to an office. It knows its paths by heart, so it has a root
    directory of its own; the mail of this machine is not touched."""

    def __init__(self, office):
        self.port = free_port()
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-e2e-relay-"))
        self.root.chmod(0o755)
        program = "/usr/sbin/smtpd"
        for directory in ("etc", "var/run", "var/spool/smtpd", "var/lib/opensmtpd/empty"):
            (self.root / directory).mkdir(parents=True)
        (self.root / "var/spool/smtpd").chmod(0o711)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for file in [program, *re.findall(r"(?:^|\s)(/\S+)", linked)]:
            target = self.root / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        for file in ("passwd", "group"):
            lines = pathlib.Path("/etc", file).read_text().splitlines(keepends=True)
            (self.root / "etc" / file).write_text("".join(line for line in lines if line.startswith(("root:", "opensmtp"))))
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (self.root / "etc/resolv.conf").write_text("lookup file\n")
        config = self.root / "etc/smtpd.conf"
        config.write_text(
            f"listen on 127.0.0.1 port {self.port} hostname relay.example.org\n"
            f'action "on" relay host smtp+notls://127.0.0.1:{office.port}\n'
            'match from any for any action "on"\n'
        )
        config.chmod(0o600)
        # it gives up what root may by itself, and needs it before
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if prefix:
            subprocess.run([*prefix, "chown", "-R", "root:root", str(self.root)], check=True)
        self.prefix = prefix
        with open(artifacts() / "relay.log", "wb") as log:
            command = [*prefix, "chroot", str(self.root), program, "-d", "-f", "/etc/smtpd.conf"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until(self.answers, "OpenSMTPD to answer")

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"OpenSMTPD has ended with {self.process.returncode}: see relay.log")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S) as connection:
                return connection.recv(3) == b"220"
        except ConnectionRefusedError:
            return False

    def close(self):
        self.process.terminate()
        self.process.wait(LIMIT_S)
        subprocess.run([*self.prefix, "rm", "-rf", "--", str(self.root)], check=True)


class Silence:
    """A mail server that takes connections and says nothing."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", free_port()))
        self.port = self.socket.getsockname()[1]
        self.connections = []
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                self.connections.append(self.socket.accept()[0])
            except OSError:
                return

    def close(self):
        if self.socket.fileno() < 0:
            return
        # a thread that sits in accept() is woken by this alone
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()
        for connection in self.connections:
            connection.close()


class Queue:
    """The files of the email queue of a gate."""

    def __init__(self, data):
        self.directory = data / "email-queue"
        self.ledger = self.directory / "ledger"

    def add(self, address, language="en", path=None):
        """A row as the form writes it. Returns its id."""
        for directory in (self.directory.parent, self.directory):
            directory.mkdir(mode=0o700, exist_ok=True)
        at = datetime.now(UTC) - timedelta(hours=1)
        row = {"v": 1, "id": os.urandom(8).hex(), "at": f"{at:%FT%TZ}", "email": address, "language": language}
        row |= {"path": path} if path else {}
        row |= {"ticket": os.urandom(8).hex(), "client": os.urandom(8).hex()}
        with open(self.directory / f"{at:%F}.jsonl", "a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return row["id"]

    def rows(self):
        return self.lines(self.directory)

    def events(self):
        """What the ledger says, in order. A line that is just being written is left out."""
        return self.lines(self.ledger)

    def counts(self, event):
        """How often the ledger says this of each row."""
        return collections.Counter(line["id"] for line in self.events() if line["event"] == event)

    @staticmethod
    def lines(directory):
        text = "".join(file.read_text() for file in sorted(directory.glob("*.jsonl")))
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def faults(content):
    """What is wrong with a message by RFC 5322, 2045 to 2047, 2369 and 8058, a line each: as Python's parser reads it, and by the bytes."""
    found = []
    # UTF-8 stands in the headers of those alone whose address is not ASCII (RFC 6532)
    try:
        message = email.message_from_string(content.decode(), policy=email.policy.SMTPUTF8)
    except UnicodeDecodeError:
        return ["not UTF-8"]
    own = () if content.isascii() else email.errors.NonASCIILocalPartDefect
    for part in message.walk():
        found += [f"{part.get_content_type()}: {defect!r}" for defect in part.defects]
        for name, value in part.items():
            found += [f"{name}: {defect!r}" for defect in getattr(value, "defects", []) if not isinstance(defect, own)]
            found += [f"{name}: not UTF-8" for char in str(value) if char == "\ufffd" or "\ud800" <= char <= "\udfff"]
    if re.search(rb"(?<!\r)\n|\r(?!\n)|\0", content):
        found.append("a bare CR or LF, or a NUL")
    head, _, body = content.partition(b"\r\n\r\n")
    head = b"\r\n" + head
    found += [f"a line of {len(line)} bytes" for line in content.split(b"\r\n") if len(line) > 998]
    # what can be folded is: not a link, and not a long address
    found += [f"not folded: {line!r}" for line in head.split(b"\r\n") if len(line) > 78 and b" " in line.strip().partition(b": ")[2]]
    found += [f"no header: {line!r}" for line in head.split(b"\r\n")[1:] if not re.fullmatch(rb"[!-9;-~]+: ?.*|[ \t].*\S.*", line)]
    found += [f"not quoted-printable: {line!r}" for line in body.split(b"\r\n") if len(line) > 76 or not re.fullmatch(rb"[\t -~]*", line)]
    names = [name.lower() for name in message.keys()]
    for name in ("Date", "From", "To", "Subject", "Message-ID", "MIME-Version", "Content-Type", "List-Unsubscribe", "Auto-Submitted"):
        if names.count(name.lower()) != 1:
            found.append(f"{names.count(name.lower())} of {name}")
    found += [f"twice: {name}" for name, count in collections.Counter(names).items() if count > 1]
    if found:
        # what is not there can't be looked at
        return found
    if not re.fullmatch(r"<[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+>", message["Message-ID"].strip()):
        found.append(f"Message-ID: {message['Message-ID']}")
    # the parser is lenient about this one
    date = message["Date"].datetime
    written = head.partition(b"\r\nDate: ")[2].partition(b"\r\n")[0].decode()
    if not DATE.fullmatch(written) or date.tzinfo is None or abs(datetime.now(UTC) - date) > timedelta(minutes=10):
        found.append(f"Date: {message['Date']}")
    if [len(message[name].addresses) for name in ("From", "To")] != [1, 1]:
        found.append("more or less than one sender and one recipient")
    kinds = [part.get_content_type() for part in message.walk()]
    if kinds != ["multipart/alternative", "text/plain", "text/html"]:
        found.append("no text beside HTML")
    one_click = message["List-Unsubscribe-Post"]
    if message["List-Unsubscribe"].startswith("<https:") and one_click != "List-Unsubscribe=One-Click":
        found.append(f"List-Unsubscribe-Post: {one_click}")
    return found


def in_a_text_client(content):
    """A message as mblaze shows it in a terminal: some headers, and the part in text."""
    with tempfile.NamedTemporaryFile(suffix=".eml") as file:
        file.write(content)
        file.flush()
        shown = subprocess.run(["mshow", file.name], capture_output=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, env=TERMINAL)
    assert shown.returncode == 0, shown.stderr.decode()
    return shown.stdout.decode()


def in_a_text_browser(html):
    """The part in HTML as w3m shows it on 80 columns, and where its links lead."""
    command = ["w3m", "-dump", "-T", "text/html", "-I", "UTF-8", "-O", "UTF-8", "-cols", "80", "-o", "display_link_number=1"]
    with tempfile.TemporaryDirectory() as home:
        environment = {**TERMINAL, "HOME": home}
        shown = subprocess.run(command, input=html.encode(), capture_output=True, timeout=LIMIT_S, env=environment)
    assert shown.returncode == 0, shown.stderr.decode()
    return shown.stdout.decode()


TERMINAL = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "dumb"}


def path_of(link):
    """A link of a message, for a request to the gate itself."""
    parts = urllib.parse.urlsplit(link)
    return f"{parts.path}?{parts.query}"
