/* Private to the sources of counted interrupts on a PC. */
#ifndef PROBE_IRQ_X86_H
#define PROBE_IRQ_X86_H

#include "irq.h"
#include "x86.h"

enum irq_feature { FEATURE_X2APIC = 1, FEATURE_TSC_DEADLINE = 2 };
enum { IRQ_HOLD_NMI = IRQ_HOLD_ARCH, TIMER_DEADLINE = 1 };
enum { MSIX_PBA = 0x800 };

/* True when the NMI was a source's; it returns when the vCPU is let go of. */
bool irq_nmi(struct cpu *cpu);

#endif
