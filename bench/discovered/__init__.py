"""The inventory entry of a machine that described itself over SSH."""
