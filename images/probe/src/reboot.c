/* To end this boot in one of many ways, on one vCPU or on all at once, with interrupts pending if asked for. */
#include "confidential.h"

static struct {
	uint32_t way, mask;
	bool pend, is_due;
} order;

static void go(struct cpu *cpu)
{
	(void)cpu;
	arch_irq_off();
	if (order.pend && cpu->index)
		arch_pend_interrupts();
	if (order.way == REBOOT_HOST)
		arch_halt();
	arch_reboot(order.way);
	arch_halt();
}

/* False when this machine has no such way. With *pend* the boot processor's interrupts are off from here on. */
bool reboot_prepare(uint32_t way, uint32_t mask, bool pend, struct interrupts *pending)
{
	if (way >= REBOOT_WAYS || (way != REBOOT_HOST && !arch_prepare_reboot(way)))
		return false;
	order.way = way;
	order.mask = mask;
	order.pend = pend;
	order.is_due = true;
	pending->count = 0;
	if (pend) {
		arch_irq_off();
		arch_pend_interrupts();
		arch_interrupts(pending);
	}
	return true;
}

/* The other vCPUs work on until the machine is gone, but for those of the mask, which reboot it too. */
void reboot(void)
{
	if (!order.is_due)
		return;
	order.is_due = false;
	if (order.way == REBOOT_KEXEC) {
		kexec();
		return;
	}
	/* Without a reset the others would work on in memory that is not theirs any more. */
	if (order.way == REBOOT_BARE)
		cpus_offline(all_cpus());
	for (unsigned i = 1; i < cpu_count; i++)
		if (order.mask & all_cpus() & 1u << i) {
			__atomic_store_n(&cpus[i].job, go, __ATOMIC_RELEASE);
			arch_kick(i);
		}
	/* A guest that waits for its host goes on; it stops to listen only where it has interrupts to keep. */
	if (order.way == REBOOT_HOST && !order.pend)
		return;
	go(&cpus[0]);
}
