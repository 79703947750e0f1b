/* Arming and checking vCPU canaries; which registers there are is the architecture's business. */
#include "probe.h"

void canary_arm(uint32_t mask, uint64_t seed)
{
	for (unsigned i = 0; i < cpu_count; i++) {
		struct canary *canary = &cpus[i].canary;

		if (!(mask & 1u << i))
			continue;
		memset(canary, 0, sizeof *canary);
		canary->seed = seed;
		__atomic_store_n(&canary->armed, 1, __ATOMIC_RELEASE);
		arch_kick(i);
	}
}

static void left(struct cpu *cpu)
{
	cpu->canary.armed = 0;
}

void canary_check(void)
{
	uint32_t mask = 0;

	for (unsigned i = 0; i < cpu_count; i++)
		mask |= cpus[i].canary.armed << i;
	if (mask)
		run_on_cpus(mask, left);
}

void canary_compare(struct cpu *cpu, uint32_t register_id, const void *expected, const void *found, uint32_t size)
{
	struct canary *canary = &cpu->canary;
	struct canary_mismatch *entry = &canary->list[canary->mismatches];

	if (!memcmp(expected, found, size))
		return;
	if (canary->mismatches++ >= CANARY_MAX_MISMATCHES)
		return;
	*entry = (struct canary_mismatch){ .register_id = register_id, .size = size };
	memcpy(entry->expected, expected, size);
	memcpy(entry->found, found, size);
}
