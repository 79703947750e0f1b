"""Migration of a protected guest between two hosts: what leaves QEMU is sealed before the wire, and opened behind it.

``sides.py`` assembles a whole wire; ``guest.py`` says what the two ends need of a host's platform.
"""
