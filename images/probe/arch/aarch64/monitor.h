/* What is left behind at EL2 when the probe was entered there: a monitor that runs a second context (a vPE's guest) at EL1 in
 * place of the probe. Also read by the assembler. */
#ifndef PROBE_MONITOR_H
#define PROBE_MONITOR_H

/* Why monitor_run() returned */
#define MONITOR_CALLED 0        /* the guest executed HVC */
#define MONITOR_INTERRUPTED 1   /* an interrupt of the host came in */

/* struct context, as monitor.S reads it */
#define CONTEXT_X 0             /* x0-x30 */
#define CONTEXT_SP_EL0 248
#define CONTEXT_SP_EL1 256
#define CONTEXT_PC 264
#define CONTEXT_PSTATE 272
#define CONTEXT_VBAR 280
#define CONTEXT_ELR_EL1 288
#define CONTEXT_SPSR_EL1 296
#define CONTEXT_VMCR 304        /* ICH_VMCR_EL2 */
#define CONTEXT_AP1R0 312       /* ICH_AP1R0_EL2 */
#define CONTEXT_BYTES 320
#define MONITOR_GUEST 0
#define MONITOR_HOST CONTEXT_BYTES

#ifndef __ASSEMBLER__
#include "arm.h"

struct context {
	uint64_t x[31], sp_el0, sp_el1, pc, pstate, vbar, elr_el1, spsr_el1, vmcr, ap1r0;
};
struct monitored {
	struct context guest, host;     /* the host's is the probe's, while the guest runs */
};
_Static_assert(sizeof(struct context) == CONTEXT_BYTES, "monitor.h");
_Static_assert(__builtin_offsetof(struct context, vmcr) == CONTEXT_VMCR, "monitor.h");
_Static_assert(__builtin_offsetof(struct monitored, host) == MONITOR_HOST, "monitor.h");

/* Runs the guest on the calling vCPU until it calls or an interrupt of the host comes in. Only after a boot at EL2. */
uint64_t monitor_run(struct monitored *monitored);
void monitor_call(void);                /* from the guest */
extern char monitor_guest_vectors[];    /* for the guest: interrupts go to vpe_interrupt() */
#endif
#endif
