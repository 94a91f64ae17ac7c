"""Scenarios: files that say which accesses a machine makes, and what they become on one machine.

`load_scenarios` reads the files of a folder; `expand` turns one of them into windows of the script, or says why it
does not apply. The language is described in firmware-images/scenarios/README.md.
"""

from bench.scenarios.expand import Skip, expand
from bench.scenarios.files import Needs, Scenario, load_scenarios

__all__ = ["Needs", "Scenario", "Skip", "expand", "load_scenarios"]
