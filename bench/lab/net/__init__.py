"""Booting over the network: DHCP and TFTP (dnsmasq), HTTP (ours), what is offered to whom, and what was fetched."""
