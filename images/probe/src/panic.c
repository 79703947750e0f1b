/* The probe's own faults: said on both lines, then everything stops. */
#include "probe.h"

enum { EVENT_FAULT = 2 };

_Noreturn void panic(const struct panic *panic)
{
	static uint32_t panicking;

	if (__atomic_exchange_n(&panicking, 1, __ATOMIC_ACQ_REL))
		arch_halt();
	arch_halt_others();
	console_line("PANIC vector=%u error=%x rip=%x cr2=%x cpu=%u", panic->vector, panic->error, panic->ip,
		     panic->fault_gva, panic->cpu);
	channel_abort();
	channel_event(EVENT_FAULT, panic, sizeof *panic);
	arch_halt();
}
