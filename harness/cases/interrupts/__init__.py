"""Cases about interrupts that are pending, in service or being raised while a VM moves."""
