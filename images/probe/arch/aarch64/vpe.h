/* Private to arch/aarch64: one virtual PE of a GICv4 with a guest of its own (vpe.c), scheduled on a vCPU of the probe. */
#ifndef PROBE_VPE_H
#define PROBE_VPE_H
#include "its.h"

enum { VPE_CPU = ARCH_MAX_CPUS - 1 };   /* what its interrupts are logged as; no vCPU of the probe then has this number */

bool vpe_is_possible(void);             /* entered at EL2, redistributors with VLPIs, the number above is free */
bool vpe_create(unsigned host);         /* maps it to a vCPU; another vCPU later moves it (VMOVP) */
void vpe_hold(struct cpu *cpu, bool resident);  /* not scheduled, whatever becomes pending; on the vCPU that it belongs to */
void vpe_release(void);
void vpe_want(void);                    /* its doorbell has been rung */
bool vpe_is_due(const struct cpu *cpu);
void vpe_slice(struct cpu *cpu);        /* resident, run until it has nothing left to do, not resident again */
bool vpe_is_pending(uint32_t intid);    /* as the virtual pending table tells while the vPE is not resident */
#endif
