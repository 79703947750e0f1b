"""What things are: plain frozen values, no I/O. Import from the module that has the noun you need."""
