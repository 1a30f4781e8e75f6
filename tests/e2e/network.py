"""Networks that are cut without a word, or slow: the gate on a machine of its own, as far as its network goes, and cables to it.

A cable is a bridge with a pair of virtual interfaces to either end, in a network namespace that has nothing else. What is lost or waits,
does so there: neither end sees its own interface go down, a packet refused, or an error of ICMP.

A namespace lasts as long as a process that ends with the test, however that ends; with the namespace its interfaces go, and their ends
in others.
"""

import os
import pathlib
import random
import re
import secrets
import subprocess

from world import LIMIT_S, Gate, World

# It takes root, or sudo. Who is not root has the gate's namespace in a user namespace, so that the gate is still a process of theirs.
IS_ROOT = os.geteuid() == 0
SUDO = [] if IS_ROOT else ["sudo", "-n"]
UNSHARE = ["unshare", "--net"] if IS_ROOT else ["unshare", "--user", "--map-current-user", "--net"]
ENTER = ["nsenter", "--net"] if IS_ROOT else ["nsenter", "--user", "--preserve-credentials", "--net"]

# Addresses for tests of networks (RFC 2544), which are nobody's: 198.18.0.0/15.
NETWORK, BITS = 198 << 24 | 18 << 16, 17


class Namespace:
    """A network namespace."""

    def __init__(self):
        # it says that it is there, and ends with its input
        command = [*UNSHARE, "sh", "-c", "echo; exec cat"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if not self.process.stdout.readline():
            raise AssertionError("no network namespace: this test needs root, or sudo")
        self.pid = self.process.pid

    def run(self, tool, *commands):
        """Commands of ip or tc in it; what they print."""
        return run([*SUDO, "nsenter", "--target", str(self.pid), "--net", *tool.split(), "-batch", "-"], commands)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(LIMIT_S)


def run(command, lines):
    done = subprocess.run(command, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, (command, lines, done.stdout, done.stderr)
    return done.stdout


class Cable:
    """A cable between the test and the gate's machine, which have the addresses `near` and `far` on it."""

    def __init__(self, name, road, machine, address):
        self.name, self.road = name, road
        self.ports = [f"{name}-near", f"{name}-far"]
        self.near, self.far = dotted(address + 1), dotted(address + 2)
        # in a namespace that others use, too
        own = f"tg{secrets.token_hex(5)}"
        road.run("ip", f"link add {name} type bridge")
        near, far = self.ends = (own, self.near, NEAR_MAC), (name, self.far, FAR_MAC)
        run([*SUDO, "ip", "-batch", "-"], self.end(*near, self.ports[0], far))
        machine.run("ip", "link set lo up", *self.end(*far, self.ports[1], near))
        road.run("ip", f"link set {name} up", *(f"link set dev {port} master {name} up" for port in self.ports))

    def end(self, interface, address, mac, port, other):
        """What makes one end. The other is known for good: who is asked for and does not answer would be an error."""
        _, other_address, other_mac = other
        return [
            f"link add dev {interface} address {mac} type veth peer name {port} netns {self.road.pid}",
            f"address add {address}/30 dev {interface}",
            f"link set dev {interface} up",
            f"neighbour replace {other_address} lladdr {other_mac} dev {interface} nud permanent",
        ]

    def cut(self):
        """From now on nothing arrives, in either direction."""
        self.road.run("ip", f"link set dev {self.ports[0]} nomaster")

    def mend(self):
        self.road.run("ip", f"link set dev {self.ports[0]} master {self.name}")

    def lose(self, *ports):
        """From now on nothing arrives of these connections, by their ports at the far end: as with a firewall that has forgotten them."""
        for end, side in zip(self.ports, ("sport", "dport"), strict=True):
            self.road.run(
                "tc",
                f"qdisc add dev {end} root handle 1: htb",
                f"class add dev {end} parent 1: classid 1:1 htb rate 1mbit",
                f"qdisc add dev {end} parent 1:1 pfifo limit 0",
                *(f"filter add dev {end} parent 1: protocol ip u32 match ip {side} {port} 0xffff flowid 1:1" for port in ports),
            )

    def slow(self, rate):
        """So much goes in each direction; the rest waits its turn, as before a modem with a long queue."""
        self.road.run("tc", *(f"qdisc replace dev {port} root tbf rate {rate} burst 3200 limit 4mb" for port in self.ports))

    def has_queued(self):
        """Whether anything had to wait its turn."""
        shown = self.road.run("tc -statistics", *(f"qdisc show dev {port}" for port in self.ports))
        return any(int(count) for count in re.findall(r"overlimits (\d+)", shown))


NEAR_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


def dotted(address):
    return ".".join(str(address >> bits & 255) for bits in (24, 16, 8, 0))


class Machine:
    """Where the gate is, and the cables to it: its visitors', its site's, and its operator's, which is never cut."""

    def __init__(self):
        self.road, self.inside = Namespace(), Namespace()
        # two runs beside each other do not meet, by all odds
        address = NETWORK | random.randrange(1 << BITS - 4) << 4
        names = ("visitors", "site", "operator")
        cables = [Cable(name, self.road, self.inside, address + 4 * place) for place, name in enumerate(names)]
        self.visitors, self.site, self.operator = cables

    def close(self):
        for namespace in (self.road, self.inside):
            namespace.close()


class RemoteGate(Gate):
    """A gate on that machine. Its admin listener is not on loopback, so it asks for a token."""

    TOKEN = secrets.token_hex(16)

    def __init__(self, machine, directory, site, name, **sections):
        self.machine = machine
        (directory / "token").write_text(self.TOKEN)
        (directory / "token").chmod(0o600)
        super().__init__(directory, site, name, machine.visitors.far, machine.operator.far, **sections)

    def write(self, **sections):
        admin = "{{ listen: '{}:{}', token_file: token }}".format(*self.admin)
        super().write(**{"admin": admin, **sections})

    def command(self, *arguments):
        return [*ENTER, "--target", str(self.machine.inside.pid), *super().command(*arguments)]

    def operate(self, path, method="GET", body=None, headers=None):
        return super().operate(path, method, body, {**(headers or {}), "Authorization": f"Bearer {self.TOKEN}"})

    def unanswered(self, address):
        return unanswered(address, self.machine.inside.pid)

    def ports(self, address):
        """Of its connections to this address."""
        return [int(row[1].split(":")[1], 16) for row in connections(address, self.machine.inside.pid)]


def unanswered(address, namespace="self"):
    """How often something was sent to this address again, to no avail: what was said, or whether there is room."""
    return max((int(row[6], 16) + int(row[8]) for row in connections(address, namespace)), default=0)


def connections(address, namespace):
    """The kernel's connections to this address, as a network namespace has them."""
    host = "".join(f"{int(byte):02X}" for byte in reversed(address.split(".")))
    rows = (line.split() for line in pathlib.Path(f"/proc/{namespace}/net/tcp").read_text().splitlines()[1:])
    return [row for row in rows if row[2].startswith(f"{host}:")]


class Networked(World):
    """A test whose gate is on a machine of its own."""

    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)
        self.host = self.machine.site.near
        super().setUp()

    def gate(self, **sections):
        gate = RemoteGate(self.machine, self.directory, self.site, self.id().split(".", 1)[-1], **sections)
        self.addCleanup(gate.close)
        return gate
