"""What must hold: pure functions from evidence to findings. No I/O, and no question whether a fault is switched on."""
