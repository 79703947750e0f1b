/* System registers that a vCPU keeps canaries in: id of PROTOCOL.md, name for the assembler, what may be in it. */
#ifndef PROBE_CANARY_SYSTEM_H
#define PROBE_CANARY_SYSTEM_H

#include "arm.h"

enum { CANARY_SYSTEM_REGISTERS = 40 };
struct system_values {
	uint64_t at[CANARY_SYSTEM_REGISTERS];
};
void canary_system_read(struct system_values *values);
void canary_system_draw(struct system_values *values, uint64_t seed, unsigned cpu);     /* what they shall hold */
void canary_system_load(const struct system_values *values);
void canary_system_restore(void);       /* what the probe itself cannot live with */
void canary_system_compare(struct cpu *cpu, const struct system_values *want, const struct system_values *now);

#endif
