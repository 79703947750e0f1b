/* Power State Coordination Interface (Arm DEN 0022), by HVC or SMC as the device tree says. */
#include "arm.h"

#define CPU_ON 0xc4000003ull
#define SYSTEM_OFF 0x84000008ull
#define SYSTEM_RESET 0x84000009ull

extern char arm_secondary_entry[];

static int64_t psci(uint64_t function, uint64_t a, uint64_t b, uint64_t c)
{
	register uint64_t x0 __asm__("x0") = function;
	register uint64_t x1 __asm__("x1") = a;
	register uint64_t x2 __asm__("x2") = b;
	register uint64_t x3 __asm__("x3") = c;

	if (machine.psci_by_smc)
		__asm__ volatile("smc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "memory");
	else
		__asm__ volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "memory");
	return (int64_t)x0;
}

bool psci_start_cpu(uint64_t mpidr, uint64_t context)
{
	return psci(CPU_ON, mpidr, (uint64_t)arm_secondary_entry, context) == 0;
}

void psci_power_off(void)
{
	psci(SYSTEM_OFF, 0, 0, 0);
}

void psci_reset(void)
{
	psci(SYSTEM_RESET, 0, 0, 0);
}
