"""Scenarios: files that say which accesses a machine makes, and what they become on one machine.

`load_scenarios` reads the files of a folder; `expand` turns one of them into windows of the script, or says why it
does not apply. The language is described in firmware-images/scenarios/README.md. `load_boot_plans` and `expand_boots`
do the same for the boots of real kernels, firmware-images/boots/.
"""

from bench.scenarios.boot_plans import BootPlan, KernelBoot, expand_boots, load_boot_plans
from bench.scenarios.expand import Skip, expand
from bench.scenarios.files import Needs, Scenario, load_scenarios

__all__ = [
    "BootPlan",
    "KernelBoot",
    "Needs",
    "Scenario",
    "Skip",
    "expand",
    "expand_boots",
    "load_boot_plans",
    "load_scenarios",
]
