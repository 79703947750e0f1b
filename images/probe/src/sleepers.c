/* vCPUs that wait for a lock. A wake-up that is missed costs the time to the next timer interrupt, nothing else. */
#include "confidential.h"

enum { SPINS = 64 };

static uint32_t ledger_sleepers, turn, turn_sleepers;

void sleepers_add(uint32_t *mask, unsigned cpu)
{
	__atomic_fetch_or(mask, 1u << cpu, __ATOMIC_ACQ_REL);
}

void sleepers_remove(uint32_t *mask, unsigned cpu)
{
	__atomic_fetch_and(mask, ~(1u << cpu), __ATOMIC_ACQ_REL);
}

/* Those behind the caller first, so that everybody's turn comes. */
void sleepers_wake(uint32_t *mask, unsigned most)
{
	unsigned self = arch_this_cpu()->index;

	for (unsigned i = 1; i < cpu_count && most && __atomic_load_n(mask, __ATOMIC_ACQUIRE); i++) {
		unsigned cpu = (self + i) % cpu_count;

		if (!(__atomic_load_n(mask, __ATOMIC_ACQUIRE) & 1u << cpu))
			continue;
		sleepers_remove(mask, cpu);
		arch_kick(cpu);
		most--;
	}
}

/* A #VC handler runs with interrupts off and cannot sleep; who is about to raise one waits for its turn here. */
void turn_take(struct cpu *cpu)
{
	uint64_t flags = arch_irq_save();

	while (__atomic_exchange_n(&turn, 1, __ATOMIC_ACQUIRE)) {
		sleepers_add(&turn_sleepers, cpu->index);
		if (!__atomic_exchange_n(&turn, 1, __ATOMIC_ACQUIRE)) {
			sleepers_remove(&turn_sleepers, cpu->index);
			break;
		}
		arch_wait_for_irq();
		arch_irq_off();
	}
	arch_irq_restore(flags);
}

void turn_give(void)
{
	__atomic_store_n(&turn, 0, __ATOMIC_RELEASE);
	sleepers_wake(&turn_sleepers, 1);
}

/* A page that is being written is free again at once; one that is being converted is not. */
void ledger_wait(void)
{
	struct cpu *self = arch_this_cpu();
	static uint32_t spins[ARCH_MAX_CPUS];

	if (!cvm.kind || ++spins[self->index] % SPINS) {
		arch_relax();
		return;
	}
	arch_irq_off();
	sleepers_add(&ledger_sleepers, self->index);
	arch_wait_for_irq();
}

void ledger_wake(void)
{
	sleepers_wake(&ledger_sleepers, ARCH_MAX_CPUS);
}
