"""A machine without a system of its own, or with one that does not start: the rescue system, booted over the network.

`session` boots it and connects, `keys` are a boot's own, `findings` reads what the disks hold.
"""
