/* The virtual generic timer, 100 times a second on every vCPU. The physical one is left to the canaries. */
#include "arm.h"

enum { HZ = 100, ENABLE = 1 };

void timer_start(void)
{
	WRITE_REGISTER(CNTV_CVAL_EL0, arch_ticks() + arch_ticks_per_s() / HZ);
	WRITE_REGISTER(CNTV_CTL_EL0, ENABLE);
	gic_enable_local(machine.timer_intid);
}

void timer_stop(void)
{
	WRITE_REGISTER(CNTV_CTL_EL0, 0);
	barrier();
}

/* Beats that were missed are not made up for. */
void timer_interrupt(void)
{
	uint64_t period = arch_ticks_per_s() / HZ, now = arch_ticks(), due = READ_REGISTER(CNTV_CVAL_EL0) + period;

	WRITE_REGISTER(CNTV_CVAL_EL0, due > now ? due : now + period);
	barrier();
}

uint64_t arch_ticks(void)
{
	__asm__ volatile("isb" : : : "memory");
	return READ_REGISTER(CNTVCT_EL0);
}

/* The clock tells its own rate; there is no other to measure it against. */
uint64_t arch_ticks_per_s(void)
{
	return READ_REGISTER(CNTFRQ_EL0);
}
