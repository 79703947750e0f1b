/* Exit codes of a guest with encrypted vCPU state: linux arch/x86/include/uapi/asm/svm.h. */
#ifndef PROBE_EXITS_H
#define PROBE_EXITS_H

#define EXIT_MSR 0x7cull
#define EXIT_VMMCALL 0x81ull
#define EXIT_MMIO_READ 0x80000001ull
#define EXIT_AP_RESET_HOLD 0x80000004ull

#endif
