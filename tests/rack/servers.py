"""A rack on loopback, of real servers: BMCs, an SSH power host, a PDU daemon, a console server, a serial cable.

Each is a context manager that starts a server from its package, waits until it answers and ends it again, by pid.
The machine that they switch is a real QEMU; what stands for its mains is that its process exists.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 20.0
# Programs, with their packages: what is absent fails a test loudly.
PROGRAMS = {
    "ipmi_sim": "openipmi",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "pdudaemon": "pdudaemon",
    "ser2net": "ser2net",
    "socat": "socat",
    "qemu-system-x86_64": "qemu-system-x86",
    "dnsmasq": "dnsmasq-base",
    "unshare": "util-linux",
    "mmdebstrap": "mmdebstrap",
    "sgdisk": "gdisk",
}


def program(name: str) -> str:
    """Path of a server, which lies in /usr/sbin for some."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is not installed (package {PROGRAMS[name]}): bench doctor --install --with-rack --with-boot"
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def wait_for(what: Callable[[], object], why: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, f"{why}: not within {patience_s} s"
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether somebody listens, found without knocking: a console server would open its device for us."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return any(f":{port:04X} " in line and " 0A " in line for line in lines)


@contextmanager
def server(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; all that it started goes with it."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})},
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
        assert process.poll() is None, f"{command[0]} ended by itself: {log.read_text()[-500:]}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True)
class Machine:
    """A QEMU that others start and stop by `start` and `stop`; programs that the kernel's death follows."""

    folder: Path
    start: Path
    """Becomes QEMU: for servers that keep its process."""
    pid_file: Path

    @property
    def pid(self) -> int | None:
        """Its process id, if it has power."""
        with suppress(OSError, ValueError):
            pid = int(self.pid_file.read_text())
            return pid if running(pid) else None
        return None

    @property
    def starts(self) -> int:
        """How often it was given power."""
        return len((self.folder / "starts").read_text().splitlines()) if (self.folder / "starts").exists() else 0

    def kill(self) -> None:
        """Take its power away."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not running(pid), "QEMU ends")

    def switch(self, name: str = "switch") -> Path:
        """A program that takes on, off and status, as a power host has it."""
        path = self.folder / name
        path.write_text(f"""#!/bin/sh
alive() {{ pid=$(cat {self.pid_file} 2>/dev/null) && [ -d /proc/$pid ] && ! grep -q ') Z ' /proc/$pid/stat; }}
case $1 in
    on) alive || setsid {self.start} >/dev/null 2>&1 </dev/null & n=0
        until alive || [ $n = 100 ]; do sleep 0.05; n=$((n+1)); done; alive ;;
    off) if alive; then kill -9 $pid; n=0; while alive && [ $n -lt 100 ]; do sleep 0.05; n=$((n+1)); done; fi ;;
    status) if alive; then echo on; else echo off; fi ;;
    *) echo "what is $1?" >&2; exit 64 ;;
esac
""")
        path.chmod(0o755)
        return path


SMALL = ("-accel", "tcg", "-m", "64")


@contextmanager
def machine(
    folder: Path, kernel: Path, *, serial: Sequence[str] = (), more: Sequence[str] = (), board: Sequence[str] = SMALL
) -> Iterator[Machine]:
    """A machine that is off. `serial` is the option for its port (default: none), `board` are processor and memory."""
    qemu = program("qemu-system-x86_64")
    folder.mkdir(exist_ok=True)
    pid_file, start = folder / "pid", folder / "start"
    options = ["-nodefaults", "-display", "none", "-monitor", "none", "-no-user-config", *board]
    words = [qemu, *options, *(serial or ["-serial", "null"]), "-kernel", str(kernel), *more]
    quoted = " ".join(f"'{word}'" for word in words)
    start.write_text(f"#!/bin/sh\ncd {folder}\necho $$ >{pid_file}.new && mv {pid_file}.new {pid_file}\n"
                     f"echo start >>starts\nexec {quoted} \"$@\" 2>>qemu.stderr\n")  # fmt: skip
    start.chmod(0o755)
    one = Machine(folder, start, pid_file)
    try:
        yield one
    finally:
        one.kill()


@dataclass(frozen=True)
class Bmc:
    """A BMC: where it listens, who may use it."""

    port: int
    user: str = "lab"
    password: str = "Sesame-7731"
    url: str = ""


def bmc_link(vm_port: int) -> tuple[str, ...]:
    """QEMU's options for the board's side of its BMC: by it the BMC resets the machine."""
    return (
        *("-chardev", f"socket,id=bmc,host=127.0.0.1,port={vm_port},reconnect=1"),
        *("-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0,irq=5"),
    )


@contextmanager
def ipmi_bmc(folder: Path, of: Machine, vm_port: int, *, sol_port: int | None = None) -> Iterator[Bmc]:
    """OpenIPMI's simulator, which starts and stops `of`, a machine with `bmc_link` (`vm_port`) among its options.

    `sol_port` is where QEMU's serial line is served.
    """
    folder.mkdir(exist_ok=True)
    bmc = Bmc(free_udp_port())
    sol = f'  sol "tcp:127.0.0.1:{sol_port}" 115200 history=4096\n' if sol_port else ""
    (folder / "lan.conf").write_text(f"""name "rack"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {bmc.port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
{sol}  serial 15 127.0.0.1 {vm_port} codec VM
  startcmd "{of.start}"
  startnow false
  poweroff_wait 0
  kill_wait 0
  user 1 true "" "test" user 10 none md2 md5 straight
  user 2 true "{bmc.user}" "{bmc.password}" admin 10 none md2 md5 straight
""")
    (folder / "bmc.emu").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
    )
    state = folder / "state"
    state.mkdir(exist_ok=True)
    command = [
        program("ipmi_sim"),
        "-n",
        "-c",
        str(folder / "lan.conf"),
        "-f",
        str(folder / "bmc.emu"),
        "-s",
        str(state),
    ]
    with server(command, folder / "log"):
        wait_for(lambda: udp_bound(bmc.port), "ipmi_sim listens")
        yield bmc


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def udp_bound(port: int) -> bool:
    return any(f":{port:04X} " in line for line in Path("/proc/net/udp").read_text().splitlines())


@contextmanager
def redfish_bmc(
    folder: Path, of: Machine, *, lies: bool = False, delay_s: float = 0, once: Path | None = None
) -> Iterator[Bmc]:
    """sushy-tools' emulator; `lies`: it takes orders and does nothing, `delay_s`: it answers so much later.

    `once`: it knows BootSourceOverrideEnabled = Once, and `of` boots the network if it finds this file, and removes it.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    bmc = Bmc(port, url=f"http://127.0.0.1:{port}")
    import bcrypt

    digest = bcrypt.hashpw(bmc.password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "users").write_text(f"{bmc.user}:{digest}\n")
    settings = {"port": port, "start": str(of.start), "pid": str(of.pid_file), "lies": lies, "delay_s": delay_s,
                "state": str(folder), "users": str(folder / "users"), "once": str(once or "")}  # fmt: skip
    emulator = Path(__file__).with_name("redfish_emulator.py")
    with server([sys.executable, str(emulator), json.dumps(settings)], folder / "log"):
        wait_for(lambda: listens(port), "the Redfish emulator listens")
        yield bmc


@contextmanager
def ssh_host(folder: Path, *, forced: str = "") -> Iterator[SshHost]:
    """sshd on a loopback port with keys of its own; `forced` is the only command that it runs then."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    keygen = program("ssh-keygen")
    for name in ("host", "user", "stranger"):
        if not (folder / name).exists():
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    key = (folder / "user.pub").read_text()
    (folder / "authorized_keys").write_text((f'command="{forced}" ' if forced else "") + key)
    (folder / "authorized_keys").chmod(0o600)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
        "LogLevel VERBOSE\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what its service unit makes
    with server([program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")], folder / "log"):
        wait_for(lambda: listens(port), "sshd listens")
        yield SshHost(folder, port, getpass.getuser())


@dataclass(frozen=True)
class SshHost:
    """An sshd, and the keys of both sides."""

    folder: Path
    port: int
    user: str

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host.pub").read_text().split()[:2])

    @property
    def key_file(self) -> str:
        return str(self.folder / "user")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def pdu_daemon(folder: Path, commands: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """PDUDaemon with PDUs of driver localcmdline: name → (on, off), where %s stands for the outlet. Yields its URL."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    pdus = {name: {"driver": "localcmdline", "cmd_on": on, "cmd_off": off} for name, (on, off) in commands.items()}
    settings = {"daemon": {"hostname": "127.0.0.1", "port": port, "listener": "http"}, "pdus": pdus}
    (folder / "conf").write_text(json.dumps(settings))
    with server([program("pdudaemon"), "--conf", str(folder / "conf"), "--listener", "http"], folder / "log"):
        wait_for(lambda: listens(port), "PDUDaemon listens")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def cable(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A null-modem cable: two terminals that stay while machines and consoles come and go: (machine's, console's)."""
    folder.mkdir(exist_ok=True)
    ends = (folder / "machine-end", folder / "console-end")
    pty = "pty,rawer,link={}"
    with server([program("socat"), *(pty.format(end) for end in ends)], folder / "socat.log"):
        wait_for(lambda: all(end.exists() for end in ends), "the cable is plugged in")
        yield ends


@contextmanager
def console_server(folder: Path, device: Path, *, raw_port: int = 0) -> Iterator[tuple[str, str]]:
    """ser2net on `device`; yields its rfc2217:// and its socket:// URL (on `raw_port`, or any)."""
    folder.mkdir(exist_ok=True)
    telnet, raw = free_port(), raw_port or free_port()
    (folder / "ser2net.yaml").write_text(f"""connection: &telnet
  accepter: telnet(rfc2217=true),tcp,127.0.0.1,{telnet}
  connector: serialdev,{device},115200n81,local
connection: &raw
  accepter: tcp,127.0.0.1,{raw}
  connector: serialdev,{device},115200n81,local
""")
    with server([program("ser2net"), "-n", "-d", "-u", "-c", str(folder / "ser2net.yaml")], folder / "log"):
        wait_for(lambda: listens(telnet) and listens(raw), "ser2net listens")
        yield f"rfc2217://127.0.0.1:{telnet}?ign_set_control", f"socket://127.0.0.1:{raw}"


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes TCP connections and says nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]
