/* All vCPUs forget a translation that has changed, before anybody relies on the change. */
#include "x86.h"
#include "confidential.h"

static volatile uint64_t wanted, flushed[ARCH_MAX_CPUS];

/* From the interrupt, and from who asks: whatever was wanted up to now is done by one flush. */
void shootdown_flush(struct cpu *cpu)
{
	uint64_t generation = __atomic_load_n(&wanted, __ATOMIC_ACQUIRE);

	arch_flush_tlb();
	__atomic_store_n(&flushed[cpu->index], generation, __ATOMIC_RELEASE);
}

static bool is_behind(unsigned cpu, uint64_t generation)
{
	return __atomic_load_n(&cpus[cpu].online, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&flushed[cpu], __ATOMIC_ACQUIRE) < generation;
}

void arch_flush_everywhere(void)
{
	struct cpu *self = arch_this_cpu();
	uint64_t mine = __atomic_add_fetch(&wanted, 1, __ATOMIC_ACQ_REL);

	for (unsigned i = 0; i < cpu_count; i++)
		if (i != self->index && is_behind(i, mine))
			lapic_send(x86_cpus[i].apic_id, IPI_FIXED | VECTOR_FLUSH);
	shootdown_flush(self);
	for (unsigned i = 0; i < cpu_count; i++)
		while (i != self->index && is_behind(i, mine))
			arch_relax();
}
