# Interrupt handlers save general registers only, so compiled code must touch no others.
ARCH_CFLAGS := -march=armv8-a -mgeneral-regs-only -mno-outline-atomics
CROSS_COMPILE ?= $(if $(filter aarch64,$(shell uname -m)),,aarch64-linux-gnu-)
