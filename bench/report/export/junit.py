"""JUnit XML: a suite a run, a case a scenario. A failure is the kernel's, an error the lab's or the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from xml.etree import ElementTree as xml

from bench.describe import printable
from bench.records import ScenarioResult, Verdict
from bench.report.export import story
from bench.report.fingerprint import telling
from bench.report.history import LAB_TROUBLE
from bench.store import StoredRun


def junit(runs: Iterable[StoredRun]) -> bytes:
    """The document, in UTF-8."""
    root = xml.Element("testsuites", name="bench")
    for run in runs:
        _suite(root, run)
    xml.indent(root)
    return bytes(xml.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: xml.Element, run: StoredRun) -> None:
    record = run.record
    counts = Counter(s.verdict for s in record.scenarios)
    suite = xml.SubElement(
        root,
        "testsuite",
        name=printable(f"{record.machine} {record.image}"),
        hostname=printable(record.machine),
        timestamp=record.started.isoformat(timespec="seconds"),
        time=f"{record.seconds:.2f}",
        tests=str(len(record.scenarios)),
        failures=str(counts[Verdict.FAIL]),
        errors=str(sum(counts[v] for v in LAB_TROUBLE)),
        skipped=str(counts[Verdict.SKIP]),
    )
    properties = xml.SubElement(suite, "properties")
    facts = {
        "run": str(run.id),
        "model": record.model,
        "signature": f"0x{record.signature:08x}",
        "image_sha256": record.image_sha256,
        "kind": "virtual: not silicon" if record.virtual else "silicon",
        "capture": record.capture,
        **record.details,
    }
    for name, value in facts.items():
        xml.SubElement(properties, "property", name=printable(name), value=printable(value))
    for scenario in record.scenarios:
        _case(suite, run, scenario)


def _case(suite: xml.Element, run: StoredRun, scenario: ScenarioResult) -> None:
    record = run.record
    classname = printable(f"{record.model}.{record.machine}.{record.image}")
    # Only the run as a whole is timed.
    case = xml.SubElement(suite, "testcase", classname=classname, name=printable(scenario.scenario), time="0")
    lines = story(scenario)
    first = lines[0] if lines else str(scenario.verdict)
    finding = telling(scenario)
    component = finding.component if finding else "lab"
    if scenario.verdict is Verdict.FAIL:
        xml.SubElement(case, "failure", message=first, type=printable(component)).text = "\n".join(lines)
    elif scenario.verdict in LAB_TROUBLE:
        kind = f"{scenario.verdict}: {printable(component)}"
        xml.SubElement(case, "error", message=first, type=kind).text = "\n".join(lines)
    elif scenario.verdict is Verdict.SKIP:
        xml.SubElement(case, "skipped", message=first)
    counts = f"{scenario.windows} windows, {scenario.predicted} faults predicted, {scenario.replayed} replayed"
    xml.SubElement(case, "system-out").text = f"{scenario.verdict}: {counts}, {scenario.digests} digests"
