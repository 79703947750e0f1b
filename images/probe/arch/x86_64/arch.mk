# Interrupt handlers save general registers only, so compiled code must touch no others.
ARCH_CFLAGS := -m64 -march=x86-64 -mgeneral-regs-only -mno-red-zone -mcmodel=small
