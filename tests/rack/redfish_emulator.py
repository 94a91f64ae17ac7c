"""sushy-tools' emulator with a driver that starts and stops a real QEMU: `redfish_emulator.py SETTINGS-AS-JSON`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flask
from sushy_tools.emulator import main
from sushy_tools.emulator.resources.systems import fakedriver

SETTINGS = json.loads(sys.argv[1])
UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"


class QemuDriver(fakedriver.FakeDriver):
    """One system whose power is a process."""

    process: subprocess.Popen[bytes] | None = None

    def get_power_state(self, identity: str) -> str:
        self._get(identity)
        alive = QemuDriver.process is not None and QemuDriver.process.poll() is None
        return "On" if alive else "Off"

    def set_power_state(self, identity: str, state: str) -> None:
        time.sleep(SETTINGS["delay_s"])
        if SETTINGS["lies"]:
            return
        if ("Restart" in state or "Off" in state or "Shutdown" in state) and QemuDriver.process is not None:
            QemuDriver.process.kill()
            QemuDriver.process.wait()
        if ("Restart" in state or "On" in state) and self.get_power_state(identity) == "Off":
            pid = Path(SETTINGS["pid"])
            pid.unlink(missing_ok=True)
            QemuDriver.process = subprocess.Popen([SETTINGS["start"]])
            while not pid.exists():
                time.sleep(0.01)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


fakedriver.FakeDriver = QemuDriver  # type: ignore[misc]
main.app.configure(
    extra_config={
        "SUSHY_EMULATOR_FAKE_DRIVER": True,
        "SUSHY_EMULATOR_FAKE_SYSTEMS": [{"uuid": UUID, "name": "rack", "power_state": "Off", "nics": []}],
        "SUSHY_EMULATOR_STATE_DIR": SETTINGS["state"],
        "SUSHY_EMULATOR_AUTH_FILE": SETTINGS["users"],
    }
)


def patched() -> tuple[str, int] | None:
    """BootSourceOverrideEnabled, which the emulator does not look at."""
    if flask.request.method != "PATCH" or not flask.request.path.startswith("/redfish/v1/Systems/"):
        return None
    boot = flask.request.get_json().get("Boot") or {}
    if boot.get("BootSourceOverrideEnabled") == "Disabled":
        Path(SETTINGS["once"]).unlink(missing_ok=True)
    elif (boot.get("BootSourceOverrideEnabled"), boot.get("BootSourceOverrideTarget")) == ("Once", "Pxe"):
        Path(SETTINGS["once"]).touch()
    else:
        return f"not one of this machine's: {boot}", 400
    return "", 204


def shown(response: flask.Response) -> flask.Response:
    """The same in what the emulator says of a system."""
    told = response.get_json(silent=True)
    if flask.request.method == "GET" and isinstance(told, dict) and "Boot" in told:
        once = Path(SETTINGS["once"]).exists()
        told["Boot"]["BootSourceOverrideEnabled"] = "Once" if once else "Disabled"
        told["Boot"]["BootSourceOverrideTarget"] = "Pxe" if once else "None"
        response.set_data(json.dumps(told))
    return response


if SETTINGS["once"]:
    main.app.before_request(patched)
    main.app.after_request(shown)
main.app.run(host="127.0.0.1", port=SETTINGS["port"])
