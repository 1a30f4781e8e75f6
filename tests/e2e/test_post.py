"""The rules for messages are seen to be broken."""

import email.utils
import unittest

from post import faults

GOOD = f"""From: Portal <a@example.org>
To: b@example.org
Subject: Room
Date: {email.utils.formatdate(localtime=True)}
Message-ID: <1@example.org>
MIME-Version: 1.0
Auto-Submitted: auto-generated
List-Unsubscribe: <https://example.org/x>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
Content-Type: multipart/alternative; boundary="=_1"

--=_1
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Hello
--=_1
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<p>Hello
--=_1--
""".replace("\n", "\r\n").encode()


class Rules(unittest.TestCase):
    def test_a_good_message_has_no_fault_and_each_of_these_is_one(self):
        self.assertEqual(faults(GOOD), [])
        for part, other in (
            (b"Hello\r\n", b"Hello\n"),
            (b"From: Portal <a@example.org>\r\n", b""),
            (b"Subject: Room", b"Subject: Room\r\nSubject: Room"),
            (b"Subject: Room", b"Subject : Room"),
            (b"Subject: Room", b"Subject: " + b"Room " * 20),
            (b"Subject: Room", b"Subject: =?utf-8?q?=C3?="),
            (b"Subject: Room", "Subject: R\u00e4ume".encode("latin-1")),
            (b"<1@example.org>", b"1@example.org"),
            (b"To: b@example.org", b"To: b@@example.org"),
            (b"To: b@example.org", b"To: b@example.org, c@example.org"),
            (b"Date: ", b"Date: x"),
            (b"Date: ", b"Date: Mon, 01 Jan 2001 00:00:00 +0000\r\nX-Date: "),
            (b"<p>Hello", b"<p>" + b"a" * 80),
            (b"<p>Hello", "<p>Gr\u00fc\u00dfe".encode()),
            (b"--=_1--\r\n", b""),
            (b"text/plain", b"text/html"),
            (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b""),
        ):
            with self.subTest(part=part, other=other):
                self.assertIn(part, GOOD)
                self.assertNotEqual(faults(GOOD.replace(part, other, 1)), [])
