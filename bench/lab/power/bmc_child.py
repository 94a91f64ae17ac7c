"""A program that gives one order to a BMC or PDU and ends: it can hang, and then it is killed.

A request comes as one JSON object on standard input (so that no secret is on a command line), the answer goes as one
JSON object to standard output: ``{"state": …, "said": …}``, or ``{"failure": …, "said": …}`` with a name of
`bench.lab.power.failure.Failure`. pyghmi's sessions are process-wide and the HTTP libraries' time limits are those of
a single read: a process of its own can be ended whatever it does.
"""

import json
import sys
from typing import Any

Answer = dict[str, str]
Request = dict[str, Any]

# What is asked of a machine's next boot, beside orders to its power.
BOOT_NEXT = ("network next", "default next")


def ipmi(request: Request) -> Answer:
    """Chassis Control and Get Chassis Status (IPMI 2.0, 28.2 and 28.3)."""
    from pyghmi.exceptions import IpmiException
    from pyghmi.ipmi.command import Command

    netfn_chassis, get_status, control = 0, 1, 2
    orders = {"off": 0, "on": 1, "reset": 3}
    try:
        bmc = Command(bmc=request["host"], port=request["port"], userid=request["user"], password=request["password"])
        if request["do"] == "read":
            answer = bmc.raw_command(netfn=netfn_chassis, command=get_status)
        elif request["do"] in BOOT_NEXT:
            answer = ipmi_boot_next(bmc, request)
        else:
            answer = bmc.raw_command(netfn=netfn_chassis, command=control, data=[orders[request["do"]]])
    except IpmiException as error:
        # Without any answer pyghmi gives up with no words at all, or with "timeout".
        silent = error.args in ((), (None,)) or "timeout" in str(error).lower()
        said = "no answer to the request for a session" if silent else str(error)
        return {"failure": "unreachable" if silent else "refuses", "said": said}
    if "error" in answer:
        # Completion codes 0xc0 (node busy) and 0xc3 (time out), IPMI 2.0 table 5-2.
        code = answer.get("code", 0)
        failure = "busy" if code in (0xC0, 0xC3) else "unreachable" if "timeout" in answer["error"] else "refuses"
        return {"failure": failure, "said": str(answer["error"])}
    if request["do"] in BOOT_NEXT:
        return ipmi_override(answer)
    if request["do"] != "read":
        return {"said": "completion code 0"}
    return {"state": "on" if answer["data"][0] & 1 else "off", "said": f"power state {answer['data'][0]:#04x}"}


def ipmi_boot_next(bmc: Any, request: Request) -> Any:
    """Set System Boot Options, parameter 5, for the next boot only, and what Get says then (28.12 to 28.14).

    A BMC that takes it for every boot has it taken back, at once: later nobody may be there to do it.
    """
    from pyghmi.exceptions import IpmiException

    network = request["do"] == "network next"
    valid = 0x80 | (0x20 if request.get("uefi") else 0) if network else 0
    answer = _ipmi_set_next(bmc, valid, 1 << 2 if network else 0)
    if network and "error" not in answer and ipmi_override(answer)["next"] == "always":
        try:
            after = _ipmi_set_next(bmc, 0, 0)
        except IpmiException as error:
            after = {"error": str(error) or "no answer"}
        left = {"next": "", "said": str(after["error"])} if "error" in after else ipmi_override(after)
        taken = left["next"] == "default"
        words = "was taken back" if taken else "AND STAYS SO, it cannot be taken back"
        answer = {**answer, "also": f"{words}: {left['said']}"}
    return answer


def _ipmi_set_next(bmc: Any, flags: int, device: int) -> Any:
    netfn_chassis, set_options, get_options, boot_flags = 0, 8, 9, 5
    answer = bmc.raw_command(netfn=netfn_chassis, command=set_options, data=[boot_flags, flags, device, 0, 0, 0])
    if "error" in answer:
        return answer
    return bmc.raw_command(netfn=netfn_chassis, command=get_options, data=[boot_flags, 0, 0])


def ipmi_override(answer: Any) -> Answer:
    """From where the machine boots next, as Get System Boot Options has it.

    28.13: after version and parameter come the parameter's own bytes, of which the first has the flags "valid" (0x80)
    and "for all future boots" (0x40). "Valid" is not insisted on: OpenIPMI's simulator does not show it.
    """
    flags, device = answer["data"][2], answer["data"][3] >> 2 & 0xF
    where = "network" if device == 1 else "default" if device == 0 else "another device"
    said = f"boot flags {flags:#04x}, device {device:#x}"
    if "also" in answer:
        said += f"; {answer['also']}"
    return {"next": "always" if where == "network" and flags & 0x40 else where, "said": said}


def redfish_boot_next(system: Any, request: Request) -> Answer:
    """Boot.BootSourceOverride for the next boot only, and what the system says then (DSP2046).

    A BMC that takes Once for every boot is given back what it had, at once: later nobody may be there to do it.
    """
    import sushy
    from sushy import exceptions

    disabled = sushy.BOOT_SOURCE_ENABLED_DISABLED
    if request["do"] == "default next":
        try:
            system.set_system_boot_options(enabled=disabled)
        except exceptions.BadRequestError:
            # What counts is what reads back. Some want to be told a target too.
            if redfish_override(system)["next"] != "default":
                system.set_system_boot_options(target=sushy.BOOT_SOURCE_TARGET_HDD, enabled=disabled)
        return redfish_override(system)
    before = system.boot.target or sushy.BOOT_SOURCE_TARGET_NONE
    system.set_system_boot_options(target=sushy.BOOT_SOURCE_TARGET_PXE, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
    answer = redfish_override(system)
    if answer["next"] == "always":
        try:
            system.set_system_boot_options(target=before, enabled=disabled)
            answer["said"] += f"; was given back what it had: {redfish_override(system)['said']}"
        except exceptions.SushyError as error:
            answer["said"] += f"; AND STAYS SO, it cannot be taken back: {error}"
    return answer


def redfish_override(system: Any) -> Answer:
    """From where the machine boots next, as the BMC says it: an override by another medium is somebody else's."""
    import sushy

    system.refresh(force=True)
    enabled, target = system.boot.enabled, system.boot.target
    said = f"BootSourceOverride {getattr(enabled, 'value', enabled)} {getattr(target, 'value', target)}"
    if target is not sushy.BOOT_SOURCE_TARGET_PXE or enabled in (None, sushy.BOOT_SOURCE_ENABLED_DISABLED):
        return {"next": "default", "said": said}
    return {"next": "network" if enabled is sushy.BOOT_SOURCE_ENABLED_ONCE else "always", "said": said}


def redfish(request: Request) -> Answer:
    """ComputerSystem.Reset and PowerState (DSP2046)."""
    import sushy
    from sushy import exceptions

    orders = {"on": sushy.RESET_ON, "off": sushy.RESET_FORCE_OFF, "reset": sushy.RESET_FORCE_RESTART}
    verify = False if request["insecure"] else request["ca_file"] or True
    if request["insecure"]:
        import urllib3

        urllib3.disable_warnings()
    try:
        root = sushy.Sushy(
            request["url"],
            request["user"],
            request["password"],
            verify=verify,
            server_side_retries=1,  # 0 stands for three
            server_side_retries_delay=0.1,
            read_timeout=request["answer_s"],
            connect_timeout=request["answer_s"],
        )
        path = request["system"] or _only_system(root.get_system_collection().members_identities)
        system = root.get_system(path)
        if request["do"] == "read":
            state = system.power_state.value if system.power_state else "none"
            # PoweringOn and PoweringOff are on the way; what counts is where they arrive.
            known = {"On": "on", "Off": "off", "PoweringOn": "off", "PoweringOff": "on"}
            said = f"PowerState {state}"
            return {"state": known[state], "said": said} if state in known else {"failure": "garbled", "said": said}
        if request["do"] in BOOT_NEXT:
            return redfish_boot_next(system, request)
        system.reset_system(orders[request["do"]])
        return {"said": f"ResetType {orders[request['do']].value} accepted"}
    except exceptions.ConnectionError as error:
        said = str(error)
        return {"failure": "hangs" if "timed out" in said else "unreachable", "said": said}
    except exceptions.ServerSideError as error:
        return {"failure": "busy" if error.status_code == 503 else "refuses", "said": str(error)}
    except exceptions.SushyError as error:
        return {"failure": "refuses", "said": str(error)}
    except LookupError as error:
        return {"failure": "refuses", "said": str(error)}


def _only_system(paths: Any) -> str:
    if len(paths) != 1:
        raise LookupError(f"it has {len(paths)} systems ({', '.join(paths)}): say which with the key system")
    return str(paths[0])


def pdudaemon(request: Request) -> Answer:
    """One outlet, by PDUDaemon's HTTP listener (its README, "HTTP"); it answers when its driver has done it."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlencode
    from urllib.request import ProxyHandler, build_opener

    query = urlencode({"hostname": request["pdu"], "port": request["outlet"]})
    url = f"{request['url'].rstrip('/')}/power/control/{request['do']}?{query}"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=request["answer_s"]) as response:
            said = response.read(200).decode("ascii", "backslashreplace").strip()
    except HTTPError as error:
        return {"failure": "refuses", "said": f"HTTP {error.code} {error.read(200).decode('ascii', 'replace').strip()}"}
    except TimeoutError as error:
        return {"failure": "hangs", "said": str(error)}
    except URLError as error:
        hangs = isinstance(error.reason, TimeoutError)
        return {"failure": "hangs" if hangs else "unreachable", "said": str(error.reason)}
    except (HTTPException, OSError) as error:
        return {"failure": "garbled", "said": f"{type(error).__name__}: {error}"}
    return {"said": said} if said.startswith("OK") else {"failure": "garbled", "said": said}


PROTOCOLS = {"ipmi": ipmi, "redfish": redfish, "pdudaemon": pdudaemon}


def main() -> None:
    """Read the request, give the order, print the answer."""
    request: Request = json.loads(sys.stdin.readline())
    json.dump(PROTOCOLS[request["protocol"]](request), sys.stdout)


if __name__ == "__main__":
    main()
